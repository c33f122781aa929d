"""From candidates to their runs on common tasks, compared with tuned Adam's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evometa.campaign.blame import on_which_tasks
from evometa.campaign.runs import NUMBERS, Runs
from evometa.errors import TaskError
from evometa.execution import EvaluationUnit, Executor, UnitResult
from evometa.inner.cohort import Candidate, by_structure
from evometa.inner.evaluate import chunks
from evometa.inner.record import RunSummary, Status
from evometa.inner.task_set import TaskRequest
from evometa.objectives import ratios
from evometa.rules.cost import is_counted, note_counts
from evometa.store.records import TaskResult
from evometa.trees import count

#: With fewer candidates than these it is not judged whether tasks are at fault.
_FEWEST_TO_JUDGE = 4


@dataclass(frozen=True)
class Evaluated:
    """One candidate's runs on an evaluation's tasks.

    Attributes:
        tasks: of each run, the family and the description of its task.
        runs: how they went.
        n_inner_steps: what they cost.
        message: what happened where the candidate failed or left the race, else "".
        pruned: whether it left the race, so that some of the evaluation's tasks are missing.
    """

    tasks: tuple[tuple[str, str], ...]
    runs: Runs
    n_inner_steps: int
    message: str
    pruned: bool = False

    @property
    def failed(self) -> bool:
        """Whether no run completed."""
        return not (self.runs.status == Status.COMPLETE.value).any()

    @property
    def status(self) -> Status:
        """Of the evaluation as a whole."""
        found = set(self.runs.status.tolist())
        status = Status(found.pop()) if len(found) == 1 else Status.DIVERGED
        ran = status in (Status.COMPLETE, Status.DIVERGED)
        return Status.PRUNED if self.pruned and ran else status

    def rows(self) -> tuple[TaskResult, ...]:
        """The runs as they are stored."""
        return tuple(
            TaskResult._make((*task, status, *numbers))
            for task, status, numbers in zip(
                self.tasks, self.runs.status.tolist(), self.runs.numbers.tolist(), strict=True
            )
        )

    def joined(self, other: Evaluated) -> Evaluated:
        """This evaluation followed by ``other``'s, on more tasks."""
        return Evaluated(
            self.tasks + other.tasks,
            Runs.joined((self.runs, other.runs)),
            self.n_inner_steps + other.n_inner_steps,
            self.message or other.message,
        )


@dataclass(frozen=True)
class CommonTasks:
    """What all candidates of an evaluation train on: a request a task source, with its tuned Adam."""

    wanted: TaskRequest
    reference: Candidate

    def lap(self, first: float, last: float, horizon: float) -> CommonTasks | None:
        """Those from the share ``first`` up to ``last``, trained on for a share of the horizon; None of them.

        Shares are rounded up.
        """
        n_tasks, n_updates = self.wanted.n_tasks, self.wanted.n_steps - 1
        only = rounded_up(first * n_tasks), rounded_up(last * n_tasks)
        if only[0] == only[1]:
            return None
        part = None if only == (0, n_tasks) else only
        n_steps = rounded_up(horizon * n_updates) + 1
        return replace(self, wanted=replace(self.wanted, only=part, n_steps=n_steps))


def rounded_up(share: float) -> int:
    """The least whole number that is not below ``share`` of something, but for the rounding of floats."""
    return math.ceil(round(share, 9))


def evaluate_all(
    candidates: Sequence[Candidate],
    tasks: Sequence[CommonTasks],
    executor: Executor,
    progress: Callable[[UnitResult], None] | None = None,
    *,
    counted: bool = False,
    max_failed: float = 1.0,
) -> tuple[dict[str, Evaluated], float]:
    """Every candidate on every task source, by candidate id, and the seconds of work.

    ``counted``: the operations of structures that are new are counted on the way. Raises TaskError when not
    even the reference can be run, or when more than the share ``max_failed`` of the candidates cannot: then
    the tasks are at fault, not a genome.
    """
    seconds = 0.0
    merged: dict[str, Evaluated] = {}
    for common in tasks:
        reference = _reference(common, executor)

        def take(result: UnitResult, reference: RunSummary = reference) -> None:
            for candidate, found in _unpack(result, reference):
                merged[candidate] = merged[candidate].joined(found) if candidate in merged else found
            if isinstance(result.value, RunSummary) and result.value.rule_counts is not None:
                note_counts(result.unit.candidates[0].learner, result.value.rule_counts)
            if progress is not None:
                progress(result)

        units = evaluation_units(candidates, common.wanted, executor, counted=counted)
        # Taken one by one as they come, while the workers train on.
        results = executor.run(units, take)

        def which(failed: UnitResult, wanted: TaskRequest = common.wanted) -> str:
            return on_which_tasks(failed, failed.unit.candidates[0], wanted, executor)

        refuse_failures(results, f"tasks {common.wanted.use!r} ({common.wanted.split})", max_failed, which)
        seconds += sum(result.seconds for result in results)
    return {candidate.id: merged[candidate.id] for candidate in candidates}, seconds


def refuse_failures(
    results: Sequence[UnitResult], what: str, max_failed: float, which: Callable[[UnitResult], str]
) -> None:
    """Raise TaskError where more than the share ``max_failed`` of all candidates failed on ``what``.

    A run that diverged is no failure, and a few candidates say nothing about tasks. ``which`` finds on which
    of the tasks one of them failed, in words to be added.
    """
    n_candidates = sum(len(result.unit.candidates) for result in results)
    failed = [result for result in results if result.status != Status.COMPLETE]
    n_failed = sum(len(result.unit.candidates) for result in failed)
    if n_candidates < _FEWEST_TO_JUDGE or n_failed <= max_failed * n_candidates:
        return
    reasons = [f"{result.status}: {result.message}" for result in failed]
    (reason, n_times), *_ = Counter(reasons).most_common(1)
    raise TaskError(
        f"{what}: {n_failed} of {n_candidates} genomes failed, more than execution.max_failed_fraction = "
        f"{max_failed:g} allows; {n_times} of them with {reason!r}{which(failed[reasons.index(reason)])}. "
        "Mend the cause and resume"
    )


def trial_runs(common: CommonTasks, executor: Executor) -> Runs:
    """The reference's own runs on its tasks: what must work before anything else is tried on them.

    Raises TaskError when they cannot be trained on, or when their losses cannot be compared by ratio.
    """
    record = _reference(common, executor)
    lowest = float(record.initial_losses.min())
    if lowest <= record.noise_floor:
        raise TaskError(
            f"tasks {common.wanted.use!r} ({common.wanted.split}): the initial loss {lowest:.6g} is not "
            f"above the noise floor {record.noise_floor:.6g}; losses are compared by ratio, so make them "
            "positive or lower noise_floor"
        )
    return _runs(record, record)[0]


def evaluation_units(
    candidates: Sequence[Candidate], wanted: TaskRequest, executor: Executor, *, counted: bool = False
) -> list[EvaluationUnit]:
    """The work of training ``candidates`` on ``wanted``, candidates of equal structure together.

    With ``counted`` whoever is the first to train a structure counts its operations too: the driver would do
    it alone.
    """
    units = []
    for group in by_structure(candidates).values():
        members = [candidates[index] for index in group]
        counts = counted and not is_counted(members[0].learner)
        for chunk in chunks(members, wanted, executor.device, max_bytes=executor.max_bytes):
            units.append(EvaluationUnit(tuple(members[i] for i in chunk), wanted, counts))
            counts = False
    # The longest first, so that no worker is left with one at the end: a network's update takes about a
    # multiply-add for each of its weights.
    return sorted(units, key=lambda unit: -len(unit.candidates) * count(unit.candidates[0].weights))


def _reference(common: CommonTasks, executor: Executor) -> RunSummary:
    what = f"tasks {common.wanted.use!r} ({common.wanted.split})"
    result = executor.run([EvaluationUnit((common.reference,), common.wanted)])[0]
    if not isinstance(result.value, RunSummary):
        which = on_which_tasks(result, common.reference, common.wanted, executor)
        raise TaskError(f"{what} cannot be trained on: {result.message}{which}")
    bad = np.flatnonzero(~np.isfinite(result.value.initial_losses[0]))
    if bad.size:
        first, tasks = result.value.initial_losses[0, bad[0]], result.value.descriptions
        raise TaskError(
            f"{what}: the initial loss is {first} on {bad.size} of {len(tasks)} tasks, such as "
            f"{tasks[bad[0]]}; make it finite"
        )
    return result.value


def _unpack(result: UnitResult, reference: RunSummary) -> list[tuple[str, Evaluated]]:
    ids = [candidate.id for candidate in result.unit.candidates]
    tasks = tuple((reference.family, description) for description in reference.descriptions)
    if not isinstance(result.value, RunSummary):
        failed = Evaluated(tasks, _failed_runs(reference, result.status), 0, result.message)
        return [(identity, failed) for identity in ids]
    n_inner_steps = result.value.n_inner_steps // len(ids)
    runs = _runs(result.value, reference)
    return [
        (identity, Evaluated(tasks, own, n_inner_steps, "")) for identity, own in zip(ids, runs, strict=True)
    ]


def _runs(record: RunSummary, reference: RunSummary) -> list[Runs]:
    """The runs of each candidate."""
    final_ratio, anytime_ratio = ratios(record, reference)
    numbers = {
        "initial_loss": record.initial_losses,
        "final_loss": record.final_losses,
        "valid_loss": record.valid_losses,
        "reference_loss": np.broadcast_to(reference.final_losses, record.status.shape),
        "final_ratio": final_ratio,
        "anytime_ratio": anytime_ratio,
    }
    columns = np.stack([numbers[name] for name in NUMBERS], axis=-1)
    columns = np.where(np.isfinite(columns), columns, np.nan) + 0.0  # as in what is stored
    return list(map(Runs, record.status, columns))


def _failed_runs(reference: RunSummary, status: Status) -> Runs:
    """Runs of a candidate that could not be run: the status, and the worst ratio wherever one is needed."""
    nothing = np.full(reference.status.shape, np.nan)
    lost = replace(
        reference,
        initial_losses=nothing,
        final_losses=nothing,
        valid_losses=nothing,
        status=np.full(reference.status.shape, status.value),
    )
    return _runs(lost, reference)[0]
