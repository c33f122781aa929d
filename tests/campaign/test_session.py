"""Beginning and resuming campaigns on disk."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evometa.campaign import GenerationSummary, Silent
from evometa.campaign.results import campaign_config
from evometa.campaign.session import is_finished, open_or_create, refuse_changes, run_campaign
from evometa.config import CampaignConfig, EvolutionConfig, ExecutionConfig, ObjectivesConfig, TaskSource
from evometa.errors import ConfigError, StoreError
from evometa.store import CampaignStore

KILLED = Path(__file__).with_name("killed.py")


def after_kills(experiment: Path, root: Path, workers: int, kill_at: list[int]) -> None:
    """Assert that killing at these events and resuming gives what an undisturbed run gives."""
    root.mkdir()
    command = [sys.executable, KILLED, experiment, root, str(workers), *map(str, kill_at)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    n_killed, undisturbed, disturbed = json.loads(done.stdout)
    assert n_killed == len(kill_at)
    if workers != 1:
        undisturbed.pop("campaign")  # it says with how many workers it was begun
        disturbed.pop("campaign")
    assert disturbed == undisturbed


@pytest.fixture
def experiment(small: CampaignConfig, tmp_path: Path) -> Path:
    """The TOML of the small campaign."""
    path = tmp_path / "small.toml"
    with path.open("a", encoding="utf-8") as file:
        file.write('[execution]\ndevice = "cpu"\nworkers = 1\n')
    return path


def test_sigkill_and_resume_change_nothing(experiment: Path, tmp_path: Path) -> None:
    after_kills(experiment, tmp_path / "runs", 1, [1, 4, 9, 2, 17, 6])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_sigkill_at_any_event_changes_nothing(experiment: Path, tmp_path: Path, workers: int) -> None:
    for n in range(1, 40, 3):
        after_kills(experiment, tmp_path / f"runs-{n}", workers, [n])


@pytest.fixture
def alone(small: CampaignConfig) -> CampaignConfig:
    """The small campaign without workers."""
    return replace(small, execution=ExecutionConfig(device="cpu", workers=1))


class Hearing(Silent):
    """A listener that notes the generations."""

    def __init__(self) -> None:
        self.generations: list[int] = []

    def generation(self, summary: GenerationSummary) -> None:
        self.generations.append(summary.generation)


def test_a_campaign_runs_once_and_can_be_extended(alone: CampaignConfig, tmp_path: Path) -> None:
    short = replace(alone, evolution=replace(alone.evolution, generations=1))
    assert not is_finished(short, tmp_path)
    path = run_campaign(short, tmp_path)
    assert is_finished(short, tmp_path)
    assert not is_finished(alone, tmp_path)
    with pytest.raises(StoreError, match="exists already"):
        run_campaign(short, tmp_path)
    again, extended = Hearing(), Hearing()
    assert run_campaign(short, tmp_path, resume=True, listener=again) == path
    run_campaign(alone, tmp_path, resume=True, listener=extended)
    assert (again.generations, extended.generations) == ([], [1, 2])
    with CampaignStore.open(path, readonly=True) as store:
        assert store.status() == "finished"
        assert campaign_config(store) == alone


def test_an_extension_that_is_cut_short_is_not_finished(alone: CampaignConfig, tmp_path: Path) -> None:
    short = replace(alone, evolution=replace(alone.evolution, generations=1))
    run_campaign(short, tmp_path)
    open_or_create(alone, tmp_path, resume=True).close()
    assert not is_finished(alone, tmp_path)
    with pytest.raises(ConfigError, match=r"evolution\.generations = 3: allowed is to raise it, not 1"):
        open_or_create(short, tmp_path, resume=True)


def test_where_a_campaign_computes_may_change(small: CampaignConfig) -> None:
    refuse_changes(small, replace(small, execution=ExecutionConfig(device="cuda", workers=7)))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 4}, "seed = 3, not 4"),
        ({"genes": {"hidden": 5}}, "genes.hidden = 4, not 5"),
        ({"genes": {}}, "genes.hidden = 4, not nothing"),
        ({"tasks": (TaskSource("quadratic"), TaskSource("rosenbrock"))}, "tasks.0.n_tasks = 3, not 8"),
        ({"description": "other", "seed": 4}, "seed = 3, not 4"),
    ],
)
def test_the_first_key_that_differs_is_named(small: CampaignConfig, change: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(key)):
        refuse_changes(small, replace(small, **change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tasks": (TaskSource("quadratics"),)}, "tasks.0: unknown task family 'quadratics'"),
        ({"genes": {"hidden": 0}}, "genes: gene 'hidden': got 0"),
        ({"objectives": ObjectivesConfig(("speed",))}, "objectives.use: unknown objective 'speed'"),
        ({"evolution": EvolutionConfig(families=("sdg",), seeds=())}, "did you mean 'sgd'"),
    ],
)
def test_nothing_is_written_for_a_wrong_configuration(
    small: CampaignConfig, tmp_path: Path, change: Any, said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        run_campaign(replace(small, **change), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
