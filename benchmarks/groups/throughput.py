"""Inner steps a second of every contestant on the rules of the tables: forward, BPTT and PES."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.rounds import Progress, Timing, interleaved
from benchmarks.teams import Team
from benchmarks.workload import LEARNED, RULES, Mode, Workload

CONTESTANTS = ("evometa", "naive", "vmap", "jax", "jax-tuned")


@dataclass(frozen=True)
class Sizes:
    """P, T and K of a mode; ``reduced``: P and K for contestants that would take minutes."""

    n_candidates: int
    n_steps: int
    reduced: Mapping[str, tuple[int, int]]
    n_tasks: int = 8
    n_segments: int = 1


#: Slow contestants get less to do; rates are of inner steps, whatever their number.
SIZES: dict[Mode, Sizes] = {
    "forward": Sizes(32, 100, {"naive": (4, 50), "vmap": (32, 5)}),
    "bptt": Sizes(4, 20, {"naive": (4, 20), "vmap": (4, 20)}, n_segments=5),
    "pes": Sizes(4, 20, {"naive": (2, 20), "vmap": (4, 20)}, n_segments=5),
}
#: Half a round's time must not go into starting: quick rules do more.
_QUICK_RULES = {"mlp": {"vmap": (32, 25)}, "adam": {"vmap": (32, 100), "naive": (4, 100)}}
QUICK: dict[Mode, Sizes] = {
    "forward": Sizes(4, 10, {"naive": (2, 5), "vmap": (4, 2)}, n_tasks=2),
    "bptt": Sizes(2, 10, {}, n_tasks=2),
    "pes": Sizes(2, 10, {}, n_tasks=2, n_segments=2),
}


def workload(mode: Mode, rule: str, contestant: str, *, quick: bool) -> Workload:
    """What ``contestant`` does in one repetition."""
    sizes = (QUICK if quick else SIZES)[mode]
    n_segments = 1 if contestant in ("naive", "vmap") else sizes.n_segments
    whole = Workload.of(
        mode,
        RULES[rule][1],
        sizes.n_candidates,
        n_tasks=sizes.n_tasks,
        n_steps=sizes.n_steps,
        n_segments=n_segments,
    )
    reduced = dict(sizes.reduced)
    if mode == "forward" and not quick:
        reduced |= _QUICK_RULES.get(rule, {})
    return whole.reduced(*reduced[contestant]) if contestant in reduced else whole


def measure(
    mode: Mode, teams: Mapping[str, Team], n_rounds: int, progress: Progress, *, quick: bool
) -> dict[str, dict[str, Timing]]:
    """Rule → contestant → timing."""
    found: dict[str, dict[str, Timing]] = {}
    for rule in RULES if mode == "forward" else LEARNED:
        key = f"{mode} {rule}"
        progress(f"{key}: preparing", 0, n_rounds)
        found[rule] = {
            name: Timing(team.prepare(key, workload(mode, rule, name, quick=quick)))
            for name, team in teams.items()
        }
        interleaved(teams, found[rule], key, n_rounds, progress)
        for team in teams.values():
            team.release(key)
    return found


def ratios(timings: Mapping[str, Timing], others: Sequence[str]) -> dict[str, float]:
    """evometa's rate over those of ``others``, medians of the rounds' ratios."""
    ours = timings["evometa"].rates
    return {
        name: median(a / b for a, b in zip(ours, timings[name].rates, strict=True))
        for name in others
        if name in timings
    }
