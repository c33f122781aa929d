"""Beginning and resuming campaigns on disk."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evometa.campaign import GenerationSummary, Silent
from evometa.campaign.baselines import tuned_baselines
from evometa.campaign.results import campaign_config
from evometa.campaign.session import is_finished, open_or_create, refuse_changes, run_campaign
from evometa.config import CampaignConfig, EvolutionConfig, ExecutionConfig, ObjectivesConfig, TaskSource
from evometa.errors import ConfigError, StoreError, TaskError
from evometa.execution import Executor, pick_device
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
        file.write('[execution]\ndevice = "cpu"\nbackend = "inline"\n')
    return path


def test_sigkill_and_resume_change_nothing(experiment: Path, tmp_path: Path) -> None:
    after_kills(experiment, tmp_path / "runs", 1, [1, 4, 9, 2, 17, 6])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [1, 2])
def test_sigkill_at_any_event_changes_nothing(experiment: Path, tmp_path: Path, workers: int) -> None:
    for n in range(1, 40, 3):
        after_kills(experiment, tmp_path / f"runs-{n}", workers, [n])


@pytest.fixture
def alone(small: CampaignConfig) -> CampaignConfig:
    """The small campaign without workers."""
    return replace(small, execution=ExecutionConfig(device="cpu", backend="inline"))


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


USER_CODE = """
from dataclasses import dataclass, replace
from evometa.tasks import TaskFamily, build_family

def broken(outcomes):
    raise KeyError("gone")

def wants_descent(outcomes):
    if outcomes.cost.state_floats_per_param < 2:
        raise ValueError("too little state to say")
    return outcomes.final_loss.mean()

@dataclass(frozen=True)
class Changed(TaskFamily):
    change: str
    name = "changed"
    summary = "quadratics with something wrong"

    def sample(self, split, n_tasks, generator):
        batches = build_family("quadratic", {"dim": 3}).sample(split, n_tasks, generator)
        if self.change == "negative":
            return [replace(b, loss=lambda *given, loss=b.loss: -1 - loss(*given), loss_and_grad=None)
                    for b in batches]
        if n_tasks > 1:
            raise FileNotFoundError("the second task is away")
        return batches

negative, scarce = Changed("negative"), Changed("scarce")
"""


@pytest.fixture
def user_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user's module of objectives and tasks that fail."""
    (tmp_path / "user_session.py").write_text(USER_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("user_session", None)


def test_an_objective_that_fails_on_some_genomes_ranks_them_last(
    alone: CampaignConfig, user_session: None, tmp_path: Path
) -> None:
    own = "user_session:wants_descent"
    short = replace(alone.evolution, generations=1, families=("sgd", "adam"))
    config = replace(alone, genes={}, evolution=short, objectives=ObjectivesConfig(("meta_loss", own)))
    with CampaignStore.open(run_campaign(config, tmp_path / "runs"), readonly=True) as store:
        families = {genome.id: genome.family for genome in store.population(0)}
        values = {families[i]: v[own] for i, v in store.objective_values(0).items() if i in families}
    assert values["adam"] < values["sgd"] == 1e12


def test_a_campaign_that_fails_before_its_first_generation_is_removed(
    alone: CampaignConfig, user_session: None, tmp_path: Path
) -> None:
    broken = replace(alone, tasks=(*alone.tasks, TaskSource("user_session:scarce", horizon=5)))
    for _ in range(2):  # the second time too it is the tasks that are blamed, not a campaign that exists
        with pytest.raises(ConfigError, match=r"tasks\.1: .*the second task is away"):
            run_campaign(broken, tmp_path / "runs")
    assert not list((tmp_path / "runs").rglob("campaign.db*"))
    with CampaignStore.open(run_campaign(alone, tmp_path / "runs"), readonly=True) as store:
        assert store.status() == "finished"


def test_a_campaign_with_a_generation_is_kept_when_an_error_ends_it(
    alone: CampaignConfig, tmp_path: Path
) -> None:
    class Failing(Silent):
        def generation(self, summary: GenerationSummary) -> None:
            raise TaskError("the disk with the tasks is away")

    with pytest.raises(TaskError):
        run_campaign(alone, tmp_path, listener=Failing())
    run_campaign(alone, tmp_path, resume=True)
    assert is_finished(alone, tmp_path)


@pytest.mark.parametrize("cache", ["{", "[]", '{"%s": {}}', "a directory", "nothing can be written"])
def test_a_damaged_baseline_cache_is_no_more_than_missing(
    alone: CampaignConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    def full(self: Path, *arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    path = tmp_path / "baselines.json"
    executor = Executor(pick_device("cpu"), 1)
    whole = tuned_baselines(alone, executor, path, Silent())
    if cache == "a directory":
        path.unlink()
        path.mkdir()
    elif cache == "nothing can be written":
        path.unlink()
        monkeypatch.setattr(Path, "write_text", full)
    else:
        path.write_text(cache.replace("%s", next(iter(json.loads(path.read_text())))))
    assert tuned_baselines(alone, executor, path, Silent()) == whole
    assert not list(tmp_path.glob("*.partial"))


def test_a_campaign_is_called_as_its_folder_is(alone: CampaignConfig, tmp_path: Path) -> None:
    refuse_changes(alone, replace(alone, name="copied"))
    with pytest.raises(ConfigError, match="'copied' was begun with seed = 3"):
        refuse_changes(alone, replace(alone, name="copied", seed=4))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tasks": (TaskSource("quadratics"),)}, "tasks.0: unknown task family 'quadratics'"),
        ({"genes": {"hidden": 0}}, "genes: gene 'hidden': got 0"),
        ({"objectives": ObjectivesConfig(("speed",))}, "objectives.use: unknown objective 'speed'"),
        ({"evolution": EvolutionConfig(families=("sdg",), seeds=())}, "did you mean 'sgd'"),
        (
            {"objectives": ObjectivesConfig(("meta_loss", "valid_loss"))},
            "objectives.use on tasks.0 (quadratic): objective 'valid_loss' (loss of the trained model on",
        ),
        (
            {"objectives": ObjectivesConfig(("meta_loss", "user_session:broken"))},
            "objective 'user_session:broken' raised KeyError: 'gone'",
        ),
        (
            {"tasks": (TaskSource("quadratic"), TaskSource("user_session:negative"))},
            "tasks.1: tasks 'user_session:negative' (meta_train): the initial loss -",
        ),
    ],
)
def test_nothing_is_written_for_a_wrong_configuration(
    alone: CampaignConfig, user_session: None, tmp_path: Path, change: Any, said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        run_campaign(replace(alone, **change), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
