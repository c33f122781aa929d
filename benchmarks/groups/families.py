"""Every rule family and every task family of the registries: its rate, and what its time goes into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any, Literal

from benchmarks.machine import n_cores
from benchmarks.roofline.anatomy import Anatomy, anatomy
from benchmarks.roofline.rates import Rates, bandwidth
from benchmarks.roofline.team import Roofline
from benchmarks.roofline.work import Work, count_workload
from benchmarks.rounds import Progress, Timing, interleaved
from benchmarks.teams import ContestantError, Team
from benchmarks.workload import Spec, Workload
from evometa.rules.registry import RULES
from evometa.tasks import TASKS

Kind = Literal["rule", "task"]

#: The rule that every task family is trained by.
REFERENCE_RULE = "adam"
#: A share of the roofline below which a row says what binds it.
ENOUGH = 1 / 3
#: Operations that a row names.
_N_NAMED = 3
#: A repetition that would take one core longer than this is made with fewer candidates.
_MOST_SECONDS, _FEW_CANDIDATES = 10.0, 4


def workloads(*, quick: bool) -> dict[tuple[Kind, str], Workload]:
    """A workload for every family that is registered.

    Rules, with their default genes, train perceptrons 64–32–10 on digits; tasks, with their default options,
    are trained by the reference rule. There is a cohort a core, as a campaign has several: a single one may
    be one chunk, and the other cores would have nothing to do.
    """
    n_candidates, n_tasks, n_steps = (2, 2, 3) if quick else (32, 8, 100)
    sizes = {"n_tasks": n_tasks, "n_steps": n_steps, "n_cohorts": n_cores()}
    rules = {name: Workload.of("forward", Spec(name), n_candidates, **sizes) for name in RULES.built_in}
    reference = Spec(REFERENCE_RULE)
    tasks = {
        name: Workload.of("forward", reference, n_candidates, **sizes, use=name) for name in TASKS.built_in
    }
    return {
        **{("rule", name): workload for name, workload in rules.items()},
        **{("task", name): workload for name, workload in tasks.items()},
    }


@dataclass(frozen=True)
class Row:
    """What was found for one family.

    Attributes:
        kind, name: the family.
        timing: of the rounds; no repetitions where it could not be trained.
        rates: of the machine in each round.
        work: of an inner step.
        anatomy: of an inner step.
        problem: why it could not be trained; "" where it could.
    """

    kind: Kind
    name: str
    timing: Timing
    rates: Sequence[Rates]
    work: Work
    anatomy: Anatomy
    problem: str = ""

    def _median(self, share: Callable[[float, Rates], float]) -> float:
        return median(share(rate, rates) for rate, rates in zip(self.timing.rates, self.rates, strict=True))

    @property
    def share(self) -> float:
        """The rate over the roofline's."""
        return self._median(lambda rate, rates: rate / self.work.ceiling(rates))

    @property
    def traffic(self) -> float:
        """Share of the time in which all bytes that operations read and write could pass through memory."""
        per_step, at_once = self.anatomy.n_bytes, self.anatomy.working_set
        return self._median(lambda rate, rates: rate * per_step / bandwidth(rates, at_once))

    @property
    def launching(self) -> float:
        """Share of the time in which as many operations on single numbers could be called."""
        n = self.anatomy.n_operations
        return self._median(lambda rate, rates: rate * n / rates["launch torch add"])

    @property
    def computing(self) -> float:
        """Share of the time that operations take beyond being called; by the clock, so it may exceed 1."""
        return self._median(lambda rate, rates: rate * self.anatomy.computing_seconds / n_cores())

    @property
    def between(self) -> float:
        """The rest: Python, mapping, cores that wait, and everything else between operations."""
        return max(0.0, 1 - self.launching - self.computing)

    @property
    def binds(self) -> str:
        """What takes the time, in a few words; "" where the share of the roofline is enough."""
        if self.share >= ENOUGH:
            return ""
        calling = self.launching + self.between
        if calling >= self.computing:
            n_runs = self.anatomy.n_runs
            n = round(self.anatomy.n_operations * n_runs)
            share = f"{100 * calling:.0f} % of the time"
            return f"{share} launching {n:,} operations a step for {n_runs} runs, and between them"
        rate = median(self.timing.rates) / n_cores()
        longest = list(self.anatomy.by_name.items())[:_N_NAMED]
        named = [f"{name} {100 * rate * seconds:.0f} %" for name, seconds in longest]
        return f"computing: {', '.join(named)} of the time"

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        if self.problem:
            return {"problem": self.problem}
        shares = ("share", "traffic", "launching", "computing", "between")
        return {
            **self.timing.to_json(),
            **{name: getattr(self, name) for name in shares},
            "binds": self.binds,
            "work": asdict(self.work),
            "anatomy": asdict(self.anatomy),
            "rates": list(self.rates),
        }


@dataclass(frozen=True)
class Prepared:
    """What is known of a family before it is timed."""

    workload: Workload
    work: Work
    anatomy: Anatomy


def prepared(workload: Workload) -> Prepared:
    """Its work counted and its time taken apart; fewer candidates where all would take long."""
    own = anatomy(workload.dealt(workload.n_cohorts)[0])
    few = own.seconds * workload.n_inner_steps > _MOST_SECONDS
    chosen = workload.reduced(_FEW_CANDIDATES, workload.n_steps) if few else workload
    return Prepared(chosen, count_workload(workload.reduced(1, 1)), own)


def measure(
    families: Mapping[tuple[Kind, str], Prepared],
    team: Team,
    n_rounds: int,
    progress: Progress,
    roofline: Roofline,
) -> list[Row]:
    """A row for each family, in its rounds alone on the machine."""
    rows = []
    for number, ((kind, name), known) in enumerate(families.items()):
        key = f"{kind} {name}"
        progress(key, number + 1, len(families))
        rates: list[Rates] = []
        try:
            timing = Timing(team.prepare(key, known.workload))
        except ContestantError as error:
            rows.append(Row(kind, name, Timing({}), (), known.work, known.anatomy, str(error)))
            continue
        before = {team.name: partial(_note, roofline, rates)}
        interleaved({team.name: team}, {team.name: timing}, key, n_rounds, progress, before)
        team.release(key)
        rows.append(Row(kind, name, timing, rates, known.work, known.anatomy))
    return rows


def _note(roofline: Roofline, rates: list[Rates]) -> None:
    rates.append(roofline.measure())
