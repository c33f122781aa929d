"""How the time of an evaluation grows with P, T, K and N: the exponents of power laws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.rounds import Progress, Timing, interleaved
from benchmarks.teams import Team
from benchmarks.workload import RULES, Workload

#: One size is varied at a time; the others stay at the base. With these the chunk plan gives an even number
#: of chunks, or many: workers loaded unevenly at one size and evenly at another would bend an exponent.
_COMMON = {"n_candidates": 48, "n_tasks": 8, "width": 32}
#: Updates of the base, which take so long that what a unit of work costs besides does not matter.
_BASES = {"gru": {**_COMMON, "n_steps": 25}, "adam": {**_COMMON, "n_steps": 100}}
_QUICK = {"n_candidates": 2, "n_tasks": 8, "n_steps": 4, "width": 32}
#: Size → what it is in a workload, and multiples of the base.
_VARIED: dict[str, tuple[str, tuple[int, ...]]] = {
    "P": ("n_candidates", (1, 2, 4, 8)),
    "T": ("n_tasks", (1, 2, 4, 8)),
    "K": ("n_steps", (2, 4, 8)),
    "N": ("width", (1, 2, 4, 8)),
}
#: Exponents that count as linear.
LINEAR = (0.9, 1.1)


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

    @property
    def is_linear(self) -> bool:
        """Whether the exponent is near one."""
        return LINEAR[0] <= self.exponent <= LINEAR[1]


def coordinates(width: int) -> int:
    """N of a perceptron 64–width–10."""
    return 64 * width + width + 10 * width + 10


def measure(team: Team, n_rounds: int, progress: Progress, *, quick: bool) -> dict[str, list[Growth]]:
    """Rule → growth with each size."""
    return {rule: _of_rule(rule, team, n_rounds, progress, quick=quick) for rule in _BASES}


def _of_rule(rule: str, team: Team, n_rounds: int, progress: Progress, *, quick: bool) -> list[Growth]:
    found = []
    base = _QUICK if quick else _BASES[rule]
    for size, (name, multiples) in _VARIED.items():
        values = [base[name] * multiple for multiple in (multiples[:2] if quick else multiples)]
        timings = {}
        for value in values:
            chosen = {**base, name: value}
            key = f"{rule} {size}={value}"
            work = Workload.of("forward", RULES[rule][1], chosen.pop("n_candidates"), **chosen)
            timings[key] = Timing(team.prepare(key, work))
        for _ in range(n_rounds):
            for key, timing in timings.items():
                interleaved({"evometa": team}, {"evometa": timing}, key, 1, progress)
        for key in timings:
            team.release(key)
        shown = [coordinates(value) for value in values] if size == "N" else values
        found.append(Growth(size, shown, [min(timing.seconds) for timing in timings.values()]))
    return found
