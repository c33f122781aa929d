"""A worker for each core with one thread, against one worker with a thread for each core."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from benchmarks.groups.mixed import generation
from benchmarks.rounds import Progress, Timing, interleaved
from benchmarks.teams import Team

#: As many workers as cores with one thread each, one worker with as many threads, and one with one.
CONTESTANTS = ("evometa", "evometa-threads", "evometa-1")


def measure(
    teams: Mapping[str, Team], n_rounds: int, progress: Progress, *, quick: bool
) -> dict[str, Timing]:
    """The mixed generation by all ``teams``."""
    progress("threads: preparing", 0, n_rounds)
    whole = generation(quick=quick)
    timings = {name: Timing(team.prepare("threads", whole)) for name, team in teams.items()}
    interleaved(teams, timings, "threads", n_rounds, progress)
    for team in teams.values():
        team.release("threads")
    return timings


def speedup(timings: Mapping[str, Timing], name: str) -> float:
    """How many times as fast ``name`` is as one worker with one thread: the median of the rounds' ratios."""
    pairs = zip(timings["evometa-1"].seconds, timings[name].seconds, strict=True)
    return median(alone / together for alone, together in pairs)
