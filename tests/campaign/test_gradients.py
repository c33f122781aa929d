"""Which gradients a campaign compiles: chosen once, noted, the same for all workers and after a resume."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evometa.campaign import GenerationSummary, Silent
from evometa.campaign import gradients as module
from evometa.campaign.gradients import planned_calls, settle_gradients
from evometa.campaign.ingredients import Ingredients
from evometa.campaign.session import run_campaign
from evometa.config import CampaignConfig, ExecutionConfig, TaskSource, config_to_json
from evometa.evolution.reproduction import Child
from evometa.execution import Executor, pick_device
from evometa.inner.compiled_gradient import CompilationError
from evometa.rules.hand_designed import HAND_DESIGNED
from evometa.store import CampaignStore, JournalEntry, content_digest

TASKS = """
import torch
from torch import nn
from evometa.tasks import supervised

x = torch.linspace(-1, 1, 120).reshape(40, 3)

def task():
    return supervised(
        name="own", model=lambda: nn.Linear(3, 1), loss=nn.functional.mse_loss,
        train=(x, x.sum(1, keepdim=True).sin() + 1), batch_size=4,
    )
"""


@pytest.fixture
def own(small: CampaignConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CampaignConfig:
    """The small campaign on a module of the user's, and on quadratics."""
    name = f"own_{re.sub(r'[^a-z0-9]', '_', tmp_path.name)}"  # a module of this test alone
    (tmp_path / f"{name}.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    return replace(small, tasks=(TaskSource(f"{name}:task", n_tasks=2, horizon=5), *small.tasks))


class Noting(Silent):
    """A listener that keeps what it is told about this machine."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.entries: list[JournalEntry] = []

    def phase(self, name: str, n_runs: int) -> None:
        self.phases.append(name)

    def note(self, entry: JournalEntry) -> None:
        self.entries.append(entry)


Settle = Callable[..., tuple[frozenset[int], Noting]]


@pytest.fixture
def settle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settle:
    """Settles the gradients of a configuration with given timings, in a store of its own."""

    def settled(
        config: CampaignConfig,
        *,
        mode: str = "auto",
        eager: float = 1.0,
        compiled: tuple[float, float] | Exception = (0.1, 5.0),
        workers: int = 1,
    ) -> tuple[frozenset[int], Noting]:
        def time_compiled(parts: object) -> tuple[float, float]:
            if isinstance(compiled, Exception):
                raise compiled
            return compiled

        monkeypatch.setattr(module, "time_eager", lambda parts: eager)
        monkeypatch.setattr(module, "time_compiled", time_compiled)
        execution = dataclasses.replace(config.execution, compile=mode)  # type: ignore[arg-type]
        asked = replace(config, execution=execution)
        path = tmp_path / "settled" / "campaign.db"
        listener = Noting()
        with CampaignStore.create(path, config_json=config_to_json(asked)) as store:
            executor = Executor(pick_device("cpu"), workers)
            found = settle_gradients(asked, Ingredients.of(asked).space, store, executor, listener)
            assert store.journal() == listener.entries
        return found, listener

    return settled


def test_sources_with_a_gradient_by_hand_are_not_measured(small: CampaignConfig, settle: Settle) -> None:
    compiled, heard = settle(small, compiled=AssertionError("compiling was tried"))
    assert compiled == frozenset()
    assert heard.entries == []


def test_the_choice_is_told_and_noted(own: CampaignConfig, settle: Settle) -> None:
    compiled, heard = settle(own)
    assert compiled == {0}
    assert heard.phases == ["compilation"]
    (entry,) = heard.entries
    assert entry.topic == "gradient.0"
    assert entry.data["compiled"] is True
    assert entry.data["compilation_seconds"] == 5.0
    figures = "eager 1000 ms, compiled 100 ms, 5 s to compile"
    assert entry.line.startswith(f"gradient of task {own.tasks[0].use!r}: {figures}; compiled saves about ")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"eager": 1e-6}, "too little to try compiling"),
        ({"compiled": (2.0, 5.0)}, "left eager"),
        (
            {"compiled": CompilationError("OSError: none")},
            r"cannot be compiled \(OSError: none\)",
        ),
        ({"mode": "never"}, "as asked"),
    ],
)
def test_where_it_stays_eager_the_line_says_why(
    own: CampaignConfig, settle: Settle, asked: dict[str, Any], said: str
) -> None:
    compiled, heard = settle(own, **asked)
    assert compiled == frozenset()
    assert [entry.data["compiled"] for entry in heard.entries] == [False]
    assert re.search(said, heard.entries[0].line)


def test_planned_calls_count_what_every_phase_trains(own: CampaignConfig) -> None:
    """In calls of four candidates on the source's two tasks; a training takes six."""
    n_rules = len(HAND_DESIGNED)
    evaluations = (2 * 3 - 1) * 6
    others = n_rules * (3 * 4 + 4 + 4) / 2  # learning rates × tasks in tuning, final and report tasks
    expected = (evaluations + others) * 6 / 4
    assert planned_calls(own, own.tasks[0], []) == round(expected)
    genes = Ingredients.of(own).space["recurrent"].complete({"meta.steps": 2, "meta.truncation": 5})
    lifetimes = [Child("recurrent", genes, "random"), Child("sgd", {"schedule": "constant"}, "random")]
    # three generations of one lifetime of 2 × 5 steps on 3 tasks, shared by two sources
    assert planned_calls(own, own.tasks[0], lifetimes) == round(expected + 3 * 2 * 5 * 3 / 2 / 2 / 4)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stands in for torch.compile, which takes seconds; counts compiled functions and their calls."""
    counts = [0, 0]

    def compile_nothing(function: Callable[..., Any], **options: object) -> Callable[..., Any]:
        counts[0] += 1

        def run(*block: object) -> Any:
            counts[1] += 1
            return function(*block)

        return run

    monkeypatch.setattr(torch, "compile", compile_nothing)
    return counts


def with_mode(config: CampaignConfig, mode: str, workers: int = 1) -> CampaignConfig:
    execution = ExecutionConfig(
        backend="inline" if workers == 1 else "loky",
        device="cpu",
        workers=workers,
        compile=mode,  # type: ignore[arg-type]
    )
    return replace(config, execution=execution)


class StopAfter(Silent):
    """A listener that interrupts the campaign when its first generation is committed."""

    def generation(self, summary: GenerationSummary) -> None:
        raise KeyboardInterrupt


def test_a_resumed_campaign_goes_on_as_it_was_begun(
    own: CampaignConfig, stand_in: list[int], tmp_path: Path
) -> None:
    """Whatever is asked for then, and whatever the clock would say."""
    whole = run_campaign(with_mode(own, "always"), tmp_path / "whole")
    assert stand_in[0] == 1, "one loss function, one shape: compiled once"
    assert stand_in[1] > 100
    with pytest.raises(KeyboardInterrupt):
        run_campaign(with_mode(own, "always"), tmp_path / "cut", listener=StopAfter())
    before = stand_in[1]
    cut = run_campaign(with_mode(own, "never"), tmp_path / "cut", resume=True)
    assert stand_in[1] > before
    assert content_digest(cut) == content_digest(whole)


@pytest.mark.slow
def test_compiled_for_real_the_number_of_workers_changes_nothing(own: CampaignConfig, tmp_path: Path) -> None:
    alone = run_campaign(with_mode(own, "always"), tmp_path / "alone")
    together = run_campaign(with_mode(own, "always", workers=2), tmp_path / "together")
    with CampaignStore.open(together, readonly=True) as store:
        (entry,) = [entry for entry in store.journal() if entry.topic == "gradient.0"]
    assert entry.data["compiled"]
    assert content_digest(together) == content_digest(alone)
