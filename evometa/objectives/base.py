"""Contract of objectives: from the runs of one genome to one finite number, smaller is better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from evometa.errors import ObjectiveError
from evometa.inner.record import RunSummary, Status
from evometa.registry import Registry
from evometa.rules.cost import Cost
from evometa.tasks.options import described

FloatArray = npt.NDArray[np.float64]

Scale = Literal["linear", "log", "log1p"]

#: A loss this many times tuned Adam's is as bad as any: one number for runs that are lost.
WORST_RATIO = 1e3


@dataclass(frozen=True)
class Outcomes:
    """All task runs of one genome, pooled over the generations in which it was evaluated.

    Every array has one entry a run. Losses are NaN where a run did not get that far.

    Attributes:
        status: how each run ended (:class:`~evometa.inner.record.Status` names).
        initial_loss, final_loss, valid_loss: of the run itself.
        reference_loss: tuned Adam's final loss on the same task at equal steps.
        final_ratio: final loss over tuned Adam's, both floored at the family's noise floor; at most
            :data:`WORST_RATIO`, which is also the value of a run that did not complete.
        anytime_ratio: the same for the geometric mean over all steps instead of the final loss.
        cost: state floats, FLOPs and weights of the genome's update.
    """

    status: npt.NDArray[np.str_]
    initial_loss: FloatArray
    final_loss: FloatArray
    valid_loss: FloatArray
    reference_loss: FloatArray
    final_ratio: FloatArray
    anytime_ratio: FloatArray
    cost: Cost

    @property
    def lost(self) -> npt.NDArray[np.bool_]:
        """Which runs did not complete."""
        return np.asarray(self.status != Status.COMPLETE.value)


@dataclass(frozen=True)
class Objective:
    """A registry row.

    Attributes:
        name, summary, unit: what it is called, what it measures, and in what.
        value: the function; its result must be a number.
        worst: the finite value that stands for anything not finite, and for a function that fails.
        scale: how plots, the knee and the hypervolume measure distances; ``log1p`` is for counts that
            may be zero.
        ideal, reference: the ends of the interval that the hypervolume counts, in the objective's unit.
            With ``reference=None`` they are taken from the first generation.
        reads_flops: whether it reads ``cost.flops_per_param``. Where no objective of a campaign does, nobody
            counts operations, and it is nan.
    """

    name: str
    summary: str
    unit: str
    value: Callable[[Outcomes], float]
    worst: float
    scale: Scale = "linear"
    ideal: float = 0.0
    reference: float | None = None
    reads_flops: bool = True

    def __call__(self, outcomes: Outcomes) -> float:
        """The value, at most :attr:`worst`, which also stands for a value that :meth:`strict` refuses."""
        try:
            return min(self.strict(outcomes), self.worst)
        except ObjectiveError:  # a function that fails on one genome must not end the campaign
            return self.worst

    def strict(self, outcomes: Outcomes) -> float:
        """The function's own value. Raises ObjectiveError where it fails or gives no finite number."""
        try:
            result = self.value(outcomes)
        except Exception as error:  # a user's function may raise anything; it is named and chained
            raise ObjectiveError(f"objective {self.name!r} raised {described(error)}") from error
        try:
            value = float(result)
        except Exception as error:  # arrays, tensors and other types refuse in their own ways
            raise ObjectiveError(
                f"objective {self.name!r} gave a {type(result).__name__}, expected one number"
            ) from error
        if not math.isfinite(value):
            raise ObjectiveError(
                f"objective {self.name!r} ({self.summary}) is {value}, expected a finite number"
            )
        return value


OBJECTIVES: Registry[Objective] = Registry("objective", "evometa.objectives")


def find_objective(name: str) -> Objective:
    """The objective of a registered name or ``pkg.module:function``.

    A plain function ``f(outcomes: Outcomes) -> float`` becomes an objective with its docstring's first
    line as summary; for units, scale and bounds make it an :class:`Objective`.
    """
    member: object = OBJECTIVES[name]
    if isinstance(member, Objective):
        return member if ":" not in name else replace(member, name=name)
    if callable(member):
        lines = (member.__doc__ or "").strip().splitlines()
        return Objective(name, lines[0] if lines else "user objective", "", member, worst=1e12)
    raise ObjectiveError(
        f"objective {name!r} is {type(member).__name__}, expected a function or an Objective"
    )


def ratios(runs: RunSummary, reference: RunSummary) -> tuple[FloatArray, FloatArray]:
    """Final and anytime ratio to the reference's run, each ``(P, T)``, for runs on the same tasks.

    A reference run that diverged counts as never having left its initial loss.
    """
    complete = runs.status == Status.COMPLETE.value
    cap = np.log(WORST_RATIO)
    final = np.where(complete, np.minimum(runs.final_logs - reference.final_logs, cap), cap)
    anytime = np.where(complete, np.minimum(runs.anytime_logs - reference.anytime_logs, cap), cap)
    return np.exp(final), np.exp(anytime)
