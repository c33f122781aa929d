"""A small campaign, described once."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest

from evometa.campaign import Campaign, Listener
from evometa.config import CampaignConfig, config_to_json, load_config
from evometa.execution import Executor, pick_device
from evometa.store import CampaignStore

SMALL = """
seed = 3
[[tasks]]
use = "quadratic"
n_tasks = 3
horizon = 10
options = { dim = 3 }
[evolution]
population = 6
generations = 3
families = ["sgd", "adam", "recurrent"]
seeds = []
[genes]
hidden = 4
"meta.steps" = 2
"meta.unroll_length" = 10
"meta.truncation" = 5
[refinement]
n_tasks = 3
[final]
n_tasks = 4
test_tasks = 4
[baseline]
n_tasks = 4
n_points = 3
"""


@pytest.fixture
def small(tmp_path: Path) -> CampaignConfig:
    """Three generations of six on 3-d quadratics; a third of a second."""
    return _small(tmp_path)


def _small(folder: Path) -> CampaignConfig:
    path = folder / "small.toml"
    path.write_text(SMALL)
    return load_config(path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of the small campaign, undisturbed; to be read only."""
    folder = tmp_path_factory.mktemp("finished")
    return _run(_small(folder), folder / "campaign.db")


class Run(Protocol):
    """Runs (or goes on with) a campaign in a database and returns the database's path."""

    def __call__(
        self, config: CampaignConfig, path: Path, *, workers: int = 1, listener: Listener | None = None
    ) -> Path: ...


@pytest.fixture(scope="session")
def run() -> Run:
    """How the tests run campaigns."""
    return _run


def _run(config: CampaignConfig, path: Path, *, workers: int = 1, listener: Listener | None = None) -> Path:
    executor = Executor(pick_device("cpu"), workers)
    if path.exists():
        store = CampaignStore.open(path)
    else:
        store = CampaignStore.create(path, config_json=config_to_json(config))
    with store:
        Campaign(config, store, executor, listener).run()
    return path
