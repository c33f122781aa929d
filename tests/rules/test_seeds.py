"""Seed genomes: those that are checked in, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from evometa.errors import GenomeError
from evometa.genome.codec import genome_from_json, genome_to_json
from evometa.genome.genome import Genome
from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules import Learner
from evometa.rules.base import StepContext
from evometa.rules.seeds import BUILTIN, load_seeds

SEEDS = Path(__file__).parents[2] / "populations" / "seeds"


def _write(folder: Path, name: str = "mine", **changes: object) -> Path:
    document = json.loads(genome_to_json(Genome(id=name, family="sgd", genes={"lr": 0.5})))
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**document, **changes}), encoding="utf-8")
    return path


def test_the_seeds_that_come_with_evometa_are_those_checked_in() -> None:
    assert load_seeds([Path(BUILTIN)]) == load_seeds([SEEDS])


def test_checked_in_seeds() -> None:
    seeds = load_seeds([SEEDS])
    assert [seed.name for seed in seeds] == [
        "adam",
        "adamw",
        "l2l_lstm",
        "lion",
        "mlp",
        "momentum",
        "rmsprop",
        "sgd",
        "symbolic_adam",
        "symbolic_lion",
        "symbolic_momentum",
        "symbolic_power_sign",
        "symbolic_qhadam",
        "symbolic_sgd",
    ]
    assert {seed.family for seed in seeds} == {
        "adam", "adamw", "lion", "mlp", "momentum", "recurrent", "rmsprop", "sgd", "symbolic"
    }  # fmt: skip


@pytest.mark.parametrize("path", sorted(SEEDS.glob("*.json")), ids=lambda path: path.stem)
def test_checked_in_seed_is_complete_and_takes_a_finite_step(path: Path) -> None:
    written, _ = genome_from_json(path.read_text(encoding="utf-8"))
    (seed,) = load_seeds([path])
    assert dict(seed.genes) == dict(written.genes), "a seed states every active gene"
    assert seed.name == path.stem
    learner = Learner.of(seed.family, seed.genes)
    layout = Layout.of({"w": (3, 2), "b": (3,)})
    generator = torch_generator(0, "seed")
    params, grads = torch.randn((2, 1, layout.size), generator=generator)
    weights = learner.init_weights(generator)
    hyper = {name: torch.tensor(value) for name, value in learner.hyper.items()}
    context = StepContext(layout, torch.tensor(0.0), torch.tensor(100.0), torch.ones(1))
    step, _ = learner.update(
        weights, hyper, learner.init_state(weights, params, layout), grads, params, context
    )
    assert step.shape == params.shape
    assert bool(torch.isfinite(step).all())


def test_missing_genes_get_defaults_and_other_levels_pass(tmp_path: Path) -> None:
    path = _write(tmp_path, genes={"lr": 0.5, "meta.truncation": 20})
    (seed,) = load_seeds([path])
    assert seed.genes == {"lr": 0.5, "schedule": "constant", "meta.truncation": 20}


def test_folder_stands_for_its_files_by_name(tmp_path: Path) -> None:
    for name in ("b", "a"):
        _write(tmp_path, name)
    assert [seed.name for seed in load_seeds([tmp_path, _write(tmp_path, "c")])] == ["a", "b", "c", "c"]


def test_refusals_name_the_file_and_the_fault(tmp_path: Path) -> None:
    with pytest.raises(GenomeError, match=r"holds no seed genome"):
        load_seeds([tmp_path])
    with pytest.raises(GenomeError, match=r"absent\.json: cannot read the seed genome"):
        load_seeds([tmp_path / "absent.json"])
    faults = {
        "did you mean 'adam'": {"family": "adm"},
        "'sgd' has no gene 'beta'": {"genes": {"beta": 0.9}},
        "gene 'lr': got -1": {"genes": {"lr": -1}},
        "no weights, but this one names 'abc'": {"weights": "abc"},
        "newer evometa": {"version": 999},
    }
    for message, changes in faults.items():
        with pytest.raises(GenomeError, match=rf"mine\.json: .*{message}"):
            load_seeds([_write(tmp_path, **changes)])
