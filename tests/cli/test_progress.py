"""The live display of a running campaign, and the estimate of the time left."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from evometa.campaign import GenerationSummary, ObjectiveSummary
from evometa.cli import progress
from evometa.cli.progress import Lines, Pace, Screen
from evometa.config import load_config
from evometa.execution import EvaluationUnit, UnitResult
from evometa.inner.cohort import Candidate
from evometa.inner.record import Status
from evometa.inner.task_set import request


def summary(generation: int, seconds: float = 2.0) -> GenerationSummary:
    objectives = (ObjectiveSummary("meta_loss", 0.75, 1.5), ObjectiveSummary("state_floats", 0.0, 2.0))
    return GenerationSummary(generation, 5, objectives, 0.625, 3, 1, 2468, seconds)


def done(n_candidates: int) -> UnitResult:
    candidates = tuple(Candidate(str(i), "adam", {}, {}) for i in range(n_candidates))
    wanted = request("quadratic", {}, "meta_valid", 1, 1, 0)
    return UnitResult(EvaluationUnit(candidates, wanted), Status.COMPLETE, 0.1)


def test_the_screen_shows_the_latest_generation_and_the_work_done(finished) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100, color_system=None)
    with Screen(console, load_config(finished.experiment)) as screen:
        screen.phase("evaluation", 8)
        screen.unit(done(3))
        screen.unit(done(2))
        screen.generation(summary(0))
    last = written.getvalue()
    for text in ("tiny", "Generation 0", "meta_loss", "× tuned Adam", "0.75", "1.5", "hypervolume 0.625"):
        assert text in last
    for text in ("failures 1", "1,234 inner steps/s", "5/8", "1/4", "elapsed"):
        assert text in last


def test_lines_tell_the_same_in_one_line(finished) -> None:
    written = io.StringIO()
    lines = Lines(Console(file=written, width=1000))
    lines.phase("evaluation", 8)
    lines.unit(done(3))
    lines.generation(summary(1))
    (line,) = written.getvalue().splitlines()
    for text in ("generation 1 (2 of 5)", "meta_loss best 0.75 median 1.5", "hypervolume 0.625", "front 3"):
        assert text in line
    assert "1,234 inner steps/s" in line


def test_time_left_is_the_mean_generation_times_those_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    pace = Pace()
    assert pace.left is None
    pace.note(summary(0, seconds=2.0))
    pace.note(summary(1, seconds=4.0))
    assert pace.left == 9.0
    now[0] += 5.0
    assert pace.left == 4.0
    now[0] += 100.0
    assert pace.left == 0.0
    assert pace.elapsed == 105.0
