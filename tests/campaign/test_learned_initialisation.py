"""A campaign whose genomes learn where training begins: from birth to the exported optimizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from evometa.campaign import read_front
from evometa.campaign.doctor import diagnose
from evometa.campaign.ingredients import Ingredients
from evometa.campaign.results import stored_candidate
from evometa.campaign.session import check
from evometa.config import load_config
from evometa.errors import ConfigError
from evometa.execution import Executor, pick_device
from evometa.export import export_genome, load_optimizer
from evometa.inner.evaluate import evaluate
from evometa.inner.task_set import prepare, request
from evometa.inner.unroll import valid_losses
from evometa.rules.initialisation import by_tensor
from evometa.store import CampaignStore

OPTIONS = {"shots": 4, "width": 5, "depth": 1}
MAML = """
tasks = [{ use = "sinusoid", n_tasks = 4, horizon = 2, options = { shots = 4, width = 5, depth = 1 } }]
evolution = { population = 4, generations = 2, families = ["sgd"], seeds = [], skip_equal = false }
refinement = { n_tasks = 2 }
final = { n_tasks = 2, test_tasks = 2 }
baseline = { n_tasks = 2, n_points = 2 }
objectives = { use = ["valid_loss"] }
[genes]
schedule = "constant"
init = "learned"
"meta.write_back" = "lamarckian"
"meta.steps" = 2
"meta.estimator" = { options = ["tbptt", "es", "pes"] }
"meta.pairs" = 1
"meta.loss" = { options = ["mean", "last"] }
"meta.judged_on" = { options = ["train", "valid"] }
"""


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory, run) -> Path:
    path = tmp_path_factory.mktemp("maml") / "maml.toml"
    path.write_text(MAML)
    return run(load_config(path), path.with_suffix(".db"))


def test_it_is_sound_and_every_genome_was_refined(campaign: Path) -> None:
    assert diagnose(campaign) == []
    with CampaignStore.open(campaign, readonly=True) as store:
        genomes = [genome for genome in store.genomes() if genome.lineage.operator != "baseline"]
    assert len(genomes) == 8
    assert all("refined 2 meta-steps" in genome.lineage.weights for genome in genomes)
    assert len({genome.weights for genome in genomes}) == 8, "each begins from a draw of its own"


def test_the_exported_optimizer_trains_as_in_the_campaign(campaign: Path, tmp_path: Path) -> None:
    """Its own initialisation, then two steps on a support set of meta_test, in an ordinary training loop."""
    wanted = request("sinusoid", OPTIONS, "meta_test", 1, 3, seed=1)
    (part,) = prepare(wanted, torch.device("cpu"))
    with CampaignStore.open(campaign, readonly=True) as store:
        genome = read_front(store).genomes[0]
        candidate = stored_candidate(store, genome)
    path = tmp_path / "maml.safetensors"
    weights = by_tensor(dict(candidate.weights), part.tasks.layout)
    export_genome(path, genome, weights, horizon=2, provenance={})
    net = nn.Sequential(nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 1))
    optimizer = load_optimizer(path, net.parameters())
    optimizer.initialise()
    batch = part.tasks.batch(part.indices[:, 0])
    for _ in range(2):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(batch["x"][0]).squeeze(-1), batch["y"][0])
        loss.backward()
        optimizer.step(loss=loss)
    trained = torch.cat([parameter.detach().flatten() for parameter in net.parameters()])
    expected = evaluate([candidate], wanted, torch.device("cpu")).valid_losses[0, 0]
    found = valid_losses(part.tasks, trained.reshape(1, 1, -1)).item()
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("sinusoid", "digits"), r"genes\.init: .* one model for all tasks.* options widths = \[W\]"),
        (('init = "learned"', '"init.rates" = "shared"'), r"'init\.rates' counts where init = \"learned\""),
    ],
)
def test_what_cannot_be_learned_is_told_in_one_line(
    tmp_path: Path, change: tuple[str, str], line: str
) -> None:
    path = tmp_path / "maml.toml"
    path.write_text(
        MAML.replace(*change).replace("options = { shots = 4, width = 5, depth = 1 }", "options = {}")
    )
    with pytest.raises(ConfigError, match=line) as caught:
        check(load_config(path), Executor(pick_device("cpu"), 1))
    assert "\n" not in str(caught.value)


def test_campaigns_that_do_not_name_it_do_not_sample_it(tmp_path: Path) -> None:
    path = tmp_path / "plain.toml"
    path.write_text('tasks = [{ use = "quadratic" }]\n')
    space = Ingredients.of(load_config(path)).space
    names = {gene.name for own in space.spaces.values() for gene in own}
    assert not {"init", "init.rates", "init.adapts", "meta.judged_on"} & names
    assert all("last" not in own["meta.loss"].allowed for own in space.spaces.values())


def test_reptile_is_for_campaigns_that_learn_the_start(tmp_path: Path) -> None:
    path = tmp_path / "reptile.toml"
    path.write_text(MAML.replace('["tbptt", "es", "pes"]', '["tbptt", "reptile"]'))
    assert "'reptile'" in Ingredients.of(load_config(path)).space["sgd"]["meta.estimator"].allowed
    path.write_text(path.read_text().replace('init = "learned"', 'init = { options = ["drawn", "learned"] }'))
    with pytest.raises(ConfigError, match='"reptile" trains learned initialisations: set init = "learned"'):
        Ingredients.of(load_config(path))
