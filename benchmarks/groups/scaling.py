"""How the time of an evaluation grows with P, T, K and N: the exponents of power laws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.rounds import Progress, Timing, interleaved
from benchmarks.teams import Team
from benchmarks.workload import RULES, Workload

#: One size is varied at a time; the others stay at the base.
_BASE = {"n_candidates": 16, "n_tasks": 8, "n_steps": 50, "width": 32}
_VARIED: dict[str, tuple[str, tuple[int, ...]]] = {
    "P": ("n_candidates", (16, 32, 64, 128)),
    "T": ("n_tasks", (4, 8, 16, 32)),
    "K": ("n_steps", (25, 50, 100, 200)),
    "N": ("width", (32, 64, 128, 256)),
}
SCALED_RULES = ("gru", "adam")


@dataclass(frozen=True)
class Growth:
    """Best seconds at each value of one size (of N: coordinates), and the exponent they show."""

    size: str
    values: Sequence[int]
    seconds: Sequence[float]

    @property
    def exponent(self) -> float:
        """By least squares of log seconds on log size."""
        slope, _ = np.polyfit(np.log(self.values), np.log(self.seconds), 1)
        return float(slope)


def coordinates(width: int) -> int:
    """N of a perceptron 64–width–10."""
    return 64 * width + width + 10 * width + 10


def measure(team: Team, n_rounds: int, progress: Progress, *, quick: bool) -> dict[str, list[Growth]]:
    """Rule → growth with each size."""
    return {rule: _of_rule(rule, team, n_rounds, progress, quick=quick) for rule in SCALED_RULES}


def _of_rule(rule: str, team: Team, n_rounds: int, progress: Progress, *, quick: bool) -> list[Growth]:
    found = []
    for size, (name, values) in _VARIED.items():
        values = values[:2] if quick else values
        timings = {}
        for value in values:
            base = {**_BASE, "n_steps": 4, "n_candidates": 2} if quick else _BASE
            chosen = {**base, name: value}
            key = f"{rule} {size}={value}"
            work = Workload.of("forward", RULES[rule][1], chosen.pop("n_candidates"), **chosen)
            timings[key] = Timing(team.prepare(key, work))
        for _ in range(n_rounds):
            for key, timing in timings.items():
                interleaved({"evometa": team}, {"evometa": timing}, key, 1, progress)
        for key in timings:
            team.release(key)
        shown = [coordinates(value) for value in values] if size == "N" else list(values)
        found.append(Growth(size, shown, [min(timing.seconds) for timing in timings.values()]))
    return found
