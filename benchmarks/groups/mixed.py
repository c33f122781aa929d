"""The mixed generation: in one run of the executor, part by part, and in JAX with all compilations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from benchmarks.mixed import MIXED
from benchmarks.rounds import Progress, Timing, interleaved
from benchmarks.teams import Team
from benchmarks.workload import Workload
from evometa.rules.learner import Learner

CONTESTANTS = ("evometa", "evometa-1", "jax")


def generation(*, quick: bool) -> Workload:
    """All candidates, T = 8, K = 100."""
    return Workload("forward", MIXED, n_tasks=2 if quick else 8, n_steps=4 if quick else 100)


def parts(whole: Workload) -> list[Workload]:
    """One workload a structure; candidates of one structure stand side by side in the table."""
    indices = range(len(whole.specs))

    def structure(index: int) -> object:
        spec = whole.specs[index]
        return Learner.of(spec.family, {"schedule": "constant", **spec.genes}).structure

    groups = [list(members) for _, members in groupby(indices, structure)]
    return [
        dataclasses.replace(whole, specs=tuple(whole.specs[i] for i in group), first=group[0])
        for group in groups
    ]


@dataclass(frozen=True)
class Mixed:
    """Timings of the generation by contestant, and of its parts on one worker and on all."""

    whole: Mapping[str, Timing]
    parts: Mapping[str, list[Timing]]

    def seconds(self, name: str) -> float:
        """The generation's, at best."""
        return min(self.whole[name].seconds)

    def parts_seconds(self, name: str) -> float:
        """The parts', each at best, added up."""
        return sum(min(part.seconds) for part in self.parts[name])

    def overhead(self, name: str) -> float:
        """The generation's time over that of its parts run alone."""
        return self.seconds(name) / self.parts_seconds(name)

    @property
    def efficiency(self) -> float:
        """One worker's time over all workers' time, a worker."""
        return self.seconds("evometa-1") / self.seconds("evometa")

    @property
    def jax_seconds(self) -> float | None:
        """JAX's compilations, once, and its run; None without JAX."""
        if "jax" not in self.whole:
            return None
        return self.whole["jax"].facts["compile_seconds"] + self.seconds("jax")


def measure(teams: Mapping[str, Team], n_rounds: int, progress: Progress, *, quick: bool) -> Mixed:
    """The generation by all ``teams``, and its parts by evometa, in the same rounds."""
    whole = generation(quick=quick)
    progress("mixed: preparing", 0, n_rounds)
    timings = {name: Timing(team.prepare("mixed", whole)) for name, team in teams.items()}
    ours = [name for name in ("evometa", "evometa-1") if name in teams]
    alone: dict[str, list[Timing]] = {name: [] for name in ours}
    keys = [f"part {number}" for number in range(len(parts(whole)))]
    for key, part in zip(keys, parts(whole), strict=True):
        for name in ours:
            alone[name].append(Timing(teams[name].prepare(key, part)))
    for _ in range(n_rounds):
        interleaved(teams, timings, "mixed", 1, progress)
        for number, key in enumerate(keys):
            interleaved(teams, {name: alone[name][number] for name in ours}, key, 1, progress)
    for name in ours:
        for key in keys:
            teams[name].release(key)
    for team in teams.values():
        team.release("mixed")
    return Mixed(timings, alone)
