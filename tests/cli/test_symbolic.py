"""A campaign of formulas: what meta-training made of their numbers is shown, inherited and exported."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from commands import run_command
from torch import Tensor
from torch.nn import Parameter

import evometa
from evometa.campaign.results import stored_candidate
from evometa.genome.genome import Genome
from evometa.rules.symbolic_gene import KNOWN
from evometa.store import CampaignStore
from evometa.trees import Tree

FORMULAS = """
seed = 3
[[tasks]]
use = "quadratic"
n_tasks = 2
horizon = 6
options = { dim = 3 }
[evolution]
population = 6
generations = 2
families = ["symbolic"]
[genes]
schedule = "constant"
"meta.write_back" = "WRITE_BACK"
"meta.lr" = 0.03
[refinement]
n_tasks = 2
max_steps = 2
[final]
n_tasks = 2
test_tasks = 2
[baseline]
n_tasks = 2
n_points = 3
[execution]
device = "cpu"
backend = "inline"
"""


@pytest.fixture(scope="module", params=["lamarckian", "baldwinian"])
def campaign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formulas")
    experiment = folder / f"{request.param}.toml"
    held = "lr = 0.01" if request.param == "lamarckian" else ""
    text = FORMULAS.replace("WRITE_BACK", request.param).replace("[genes]", f"[genes]\n{held}")
    experiment.write_text(text, encoding="utf-8")
    run = run_command("run", experiment, "--storage", folder)
    assert run.code == 0, run.err
    return folder / str(request.param)


def adam_of(campaign: Path) -> tuple[Genome, Tree]:
    """The seed of Adam after its lifetime."""
    with CampaignStore.open(campaign / "campaign.db") as store:
        genome = store.genome("000-000")
        return genome, dict(stored_candidate(store, genome).weights)


def given(campaign: Path, *words: object) -> str:
    outcome = run_command(words[0], campaign.name, *words[1:], "--storage", campaign.parent)
    assert outcome.code == 0, outcome.err
    return outcome.out


def test_the_formula_that_is_shown_has_the_numbers_that_were_trained(campaign: Path) -> None:
    adam, weights = adam_of(campaign)
    assert adam.name == "symbolic_adam"
    moved = {name for name, value in weights.items() if value.any()}
    if campaign.name == "lamarckian":
        assert adam.genes["expression"] != KNOWN["adam"]
        assert adam.genes["lr"] == 0.01
        assert moved == {"rule.log_rate"}, "what a gene may not say stays in the weights"
        assert adam.germline == adam.weights
    else:
        assert adam.genes["expression"] == KNOWN["adam"]
        assert moved == {"rule.log_rate", "rule.log_factors", "rule.logit_shifts"}
        assert adam.germline != adam.weights
    formula = json.loads(given(campaign, "show", "000-000", "--format", "json"))["formula"].splitlines()[-2]
    lr, rest = formula.removeprefix("Δ = −").split("·m̂(")
    rate, beta = float(lr), float(rest.split(")")[0])
    assert (rate, beta) == pytest.approx((0.01, 0.9), rel=0.2)
    assert rate != 0.01
    assert beta != 0.9
    assert "/(√v̂(0.99" in formula


def test_both_exports_step_alike(campaign: Path) -> None:
    files = campaign / "best.safetensors", campaign / "best.py"
    given(campaign, "export", "--genome", "000-000", "--out", files[0], "--standalone", files[1])
    one = trained(lambda params: evometa.load_optimizer(files[0], params, lr=1.0))
    other = trained(lambda params: loaded(files[1]).EvolvedOptimizer(params, lr=1.0))  # type: ignore[no-any-return]
    torch.testing.assert_close(one, other, rtol=1e-6, atol=0)
    assert 'new["mean0"] / corrections["mean0"]' in files[1].read_text(encoding="utf-8")


def test_the_campaign_is_sound(campaign: Path) -> None:
    assert "sound" in given(campaign, "doctor")


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def trained(way: Callable[[list[Parameter]], torch.optim.Optimizer]) -> Tensor:
    param = Parameter(torch.linspace(-1.0, 2.0, 7, dtype=torch.float64))
    optimizer = way([param])
    for _ in range(9):  # past the horizon of 6, where a formula goes on
        param.grad = torch.logspace(-2, 2, 7, dtype=torch.float64) * param.detach()
        optimizer.step()
    return param.detach()
