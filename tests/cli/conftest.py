"""A tiny campaign, run once through the command line, and a way to give commands."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import Command, Outcome, run_command

TINY = """
description = "four genomes on quadratics"
seed = 3

[[tasks]]
use = "quadratic"
n_tasks = 2
horizon = 6
options = { dim = 3 }

[evolution]
population = 4
generations = 4
families = ["adam", "recurrent"]
seeds = []

[genes]
hidden = 4
layers = 1

[refinement]
n_tasks = 2
max_steps = 2

[final]
n_tasks = 3
test_tasks = 3

[baseline]
n_tasks = 2
n_points = 3

[execution]
device = "cpu"
backend = "inline"
"""


@dataclass(frozen=True)
class Finished:
    """A campaign that ran to its end."""

    name: str
    experiment: Path
    storage: Path
    run: Outcome

    @property
    def database(self) -> Path:
        return self.storage / self.name / "campaign.db"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The tiny campaign after ``evometa run``."""
    folder = tmp_path_factory.mktemp("finished")
    experiment = folder / "tiny.toml"
    experiment.write_text(TINY, encoding="utf-8")
    run = run_command("run", experiment, "--storage", folder / "runs")
    assert run.code == 0, run.err
    return Finished("tiny", experiment, folder / "runs", run)


@pytest.fixture
def evometa(finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Gives commands beside the finished campaign, from an empty folder."""
    monkeypatch.setenv("EVOMETA_STORAGE", str(finished.storage))
    monkeypatch.chdir(tmp_path)
    return run_command


@pytest.fixture
def tiny_text() -> str:
    """The TOML of the tiny campaign."""
    return TINY


@pytest.fixture
def fresh_storage(finished: Finished, tmp_path: Path) -> Path:
    """A storage root without campaigns that knows the tuned baselines already."""
    root = tmp_path / "runs"
    root.mkdir()
    shutil.copy(finished.storage / ".baselines.json", root)
    return root
