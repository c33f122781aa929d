"""Inner steps a second of every contestant on the rules of the tables: forward, BPTT and PES."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from benchmarks.roofline.rates import Rates
from benchmarks.roofline.team import Roofline
from benchmarks.roofline.work import Work, count_work
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


def rules_of(mode: Mode) -> Sequence[str]:
    """The rules that ``mode`` can be measured with: only learned ones have meta-gradients."""
    return tuple(RULES) if mode == "forward" else LEARNED


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


def works(rules: Sequence[str], device: str, *, quick: bool) -> dict[str, Work]:
    """The work of an inner step by rule; a GPU trains all candidates on all tasks at once."""
    sizes = (QUICK if quick else SIZES)["forward"]
    n_at_once = sizes.n_candidates * sizes.n_tasks if device == "cuda" else 1
    return {rule: count_work(RULES[rule][1], n_at_once=n_at_once) for rule in rules}


@dataclass(frozen=True)
class Contest:
    """What the rounds of one rule showed.

    Attributes:
        timings: by contestant.
        rates: of the machine in each round, measured just before evometa's turn; () where nobody asked.
    """

    timings: Mapping[str, Timing]
    rates: Sequence[Rates] = ()

    def ratios(self, others: Sequence[str]) -> dict[str, float]:
        """evometa's rate over those of ``others``, medians of the rounds' ratios."""
        ours = self.timings["evometa"].rates
        return {
            name: median(a / b for a, b in zip(ours, self.timings[name].rates, strict=True))
            for name in others
            if name in self.timings
        }

    def ceilings(self, work: Work) -> list[float]:
        """Inner steps a second that the machine allowed in each round."""
        return [work.ceiling(rates) for rates in self.rates]

    def shares(self, work: Work) -> list[float]:
        """What evometa reached of that in each round."""
        ours = self.timings["evometa"].rates
        return [rate / most for rate, most in zip(ours, self.ceilings(work), strict=True)]


def measure(
    mode: Mode,
    rules: Sequence[str],
    teams: Mapping[str, Team],
    n_rounds: int,
    progress: Progress,
    roofline: Roofline | None = None,
    *,
    quick: bool,
) -> dict[str, Contest]:
    """Rule → its rounds."""
    found: dict[str, Contest] = {}
    for rule in rules:
        key = f"{mode} {rule}"
        progress(f"{key}: preparing", 0, n_rounds)
        timings = {
            name: Timing(team.prepare(key, workload(mode, rule, name, quick=quick)))
            for name, team in teams.items()
        }
        rates: list[Rates] = []
        before = {} if roofline is None else {"evometa": partial(_note, roofline, rates)}
        interleaved(teams, timings, key, n_rounds, progress, before)
        found[rule] = Contest(timings, rates)
        for team in teams.values():
            team.release(key)
    return found


def _note(roofline: Roofline, rates: list[Rates]) -> None:
    rates.append(roofline.measure())
