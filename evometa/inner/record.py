"""What an unroll reports: losses and a status per run. Reported only; the step never reads it back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
import numpy.typing as npt

from evometa.rules.cost import Counts

FloatArray = npt.NDArray[np.float64]


class Status(StrEnum):
    """How one run (a candidate on a task) ended. A failure is a value in a row, never an exception."""

    COMPLETE = "complete"
    DIVERGED = "diverged"
    PRUNED = "pruned"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    ERROR = "error"


@dataclass(frozen=True)
class UnrollRecord:
    """Losses of P candidates on T tasks over K steps.

    Attributes:
        losses: ``(P, T, K + 1)``; entry k is the loss after k updates, on minibatch k. Entry K therefore
            belongs to the trained parameters. Non-finite once a run has diverged.
        valid_losses: ``(P, T)`` loss of the trained parameters on the task's held-out rows; NaN without.
        status: ``(P, T)`` names of :class:`Status`.
        final_window: how many of the last losses are averaged into the final loss.
        noise_floor: losses below it count as equal.
        descriptions: ``T`` lines naming the tasks.
        family: the tasks' family.
    """

    losses: FloatArray
    valid_losses: FloatArray
    status: npt.NDArray[np.str_]
    final_window: int
    noise_floor: float
    descriptions: tuple[str, ...]
    family: str

    @cached_property
    def final_losses(self) -> FloatArray:
        """``(P, T)`` mean of the last ``final_window`` losses."""
        window = min(self.final_window, self.losses.shape[-1])
        return np.asarray(self.losses[..., -window:].mean(axis=-1))

    @property
    def n_inner_steps(self) -> int:
        """Inner steps made: candidates × tasks × updates."""
        candidates, tasks, points = self.losses.shape
        return int(candidates * tasks * (points - 1))

    def summary(self) -> RunSummary:
        """What comparisons of the runs need."""
        initial, floor = self.losses[:, :, 0], self.noise_floor

        def logs(losses: FloatArray, instead: FloatArray) -> FloatArray:
            finite = np.where(np.isfinite(losses), losses, instead)
            return np.log(np.maximum(finite, floor))

        return RunSummary(
            initial_losses=initial.copy(),
            final_losses=self.final_losses,
            valid_losses=self.valid_losses,
            final_logs=logs(self.final_losses, initial),
            anytime_logs=logs(self.losses, initial[..., None]).mean(axis=-1),
            status=self.status,
            noise_floor=floor,
            n_inner_steps=self.n_inner_steps,
            descriptions=self.descriptions,
            family=self.family,
        )


@dataclass(frozen=True)
class RunSummary:
    """What remains of P candidates' runs on T tasks where they are compared: a few numbers each.

    Attributes:
        initial_losses, final_losses, valid_losses: ``(P, T)`` as in :class:`UnrollRecord`.
        final_logs: ``(P, T)`` logarithms of the final losses.
        anytime_logs: ``(P, T)`` means of the logarithms of all losses. In both losses below the noise floor
            count as it, and those that are not finite as the initial one.
        status: ``(P, T)`` names of :class:`Status`.
        noise_floor, descriptions, family: as in :class:`UnrollRecord`.
        n_inner_steps: inner steps made in all.
        rule_counts: what :func:`~evometa.rules.cost.count_rule` gives for the candidates; None where nobody
            asked for it.
    """

    initial_losses: FloatArray
    final_losses: FloatArray
    valid_losses: FloatArray
    final_logs: FloatArray
    anytime_logs: FloatArray
    status: npt.NDArray[np.str_]
    noise_floor: float
    n_inner_steps: int
    descriptions: tuple[str, ...]
    family: str
    rule_counts: Counts | None = None


def concatenate(records: list[UnrollRecord]) -> UnrollRecord:
    """Records of the same candidates on several batches of one family's tasks, joined on the task axis."""
    return UnrollRecord(
        losses=np.concatenate([record.losses for record in records], axis=1),
        valid_losses=np.concatenate([record.valid_losses for record in records], axis=1),
        status=np.concatenate([record.status for record in records], axis=1),
        final_window=records[0].final_window,
        noise_floor=records[0].noise_floor,
        descriptions=tuple(line for record in records for line in record.descriptions),
        family=records[0].family,
    )
