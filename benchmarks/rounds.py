"""Rounds: in each every contestant makes one repetition, so that a machine's drift meets all alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from benchmarks.teams import Team

#: ``(what is being timed, round, rounds)``
Progress = Callable[[str, int, int], None]


@dataclass
class Timing:
    """The repetitions of one contestant on one workload.

    Attributes:
        facts: what its preparation reported, such as ``compile_seconds``.
        rates: inner steps a second of each repetition.
        seconds: of each repetition.
    """

    facts: dict[str, float]
    rates: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    n_inner_steps: int = 0

    def add(self, n_inner_steps: int, seconds: float) -> None:
        """One repetition."""
        self.n_inner_steps = n_inner_steps
        self.seconds.append(seconds)
        self.rates.append(n_inner_steps / seconds)

    @property
    def rate(self) -> float:
        """Median of the rates."""
        return statistics.median(self.rates)

    @property
    def spread(self) -> float:
        """Half the distance of the slowest and the fastest, relative to the median."""
        return (max(self.rates) - min(self.rates)) / 2 / self.rate

    def to_json(self) -> dict[str, Any]:
        """Everything, with the median."""
        return {
            "inner_steps_per_second": self.rate,
            "lowest": min(self.rates),
            "highest": max(self.rates),
            "inner_steps_per_repetition": self.n_inner_steps,
            "seconds": self.seconds,
            **self.facts,
        }


def interleaved(
    teams: Mapping[str, Team],
    prepared: Mapping[str, Timing],
    key: str,
    n_rounds: int,
    progress: Progress,
    before: Mapping[str, Callable[[], object]] = MappingProxyType({}),
) -> None:
    """``n_rounds`` repetitions of ``key`` by each prepared team, every round beginning with another.

    ``before``: what is done in every round just before a team's turn, such as measuring the machine.
    """
    names = list(prepared)
    for number in range(n_rounds):
        progress(key, number + 1, n_rounds)
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            if name in before:
                before[name]()
            prepared[name].add(*teams[name].run(key))
