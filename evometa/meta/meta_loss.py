"""The meta-loss of a segment: the mean over its steps of the tasks' mean loss, or of that mean's logarithm.

Losses come as one tensor ``(S, P, T)`` for every architecture: the S steps that are judged, P candidates, its
T tasks, each in its own unit. Architectures weigh as much as they have tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from evometa import native
from evometa.genome.space import Genes

#: What is summed over the steps: the value of gene ``meta.loss``. "last": the last step alone.
Kind = Literal["log_mean", "mean", "last"]


@dataclass(frozen=True)
class Objective:
    """What a segment is judged by.

    Attributes:
        kind: see :data:`Kind`.
        second_order: whether it is differentiated through the inner gradients as well.
        rows: "train", the minibatch of the step, or "valid", the rows that tasks hold out.
    """

    kind: str
    second_order: bool = False
    rows: str = "train"

    @classmethod
    def of(cls, genes: Genes) -> Objective:
        """That of complete ``meta.…`` genes."""
        second_order = bool(genes.get("meta.second_order", False))
        return cls(str(genes["meta.loss"]), second_order, str(genes["meta.judged_on"]))

    def judged(self, n_steps: int) -> range:
        """Which of a segment's steps."""
        return range(n_steps - 1 if self.kind == "last" else 0, n_steps)

    @property
    def judges_every_minibatch(self) -> bool:
        """Whether it is made of what training sees anyway: the loss of every step."""
        return self.kind != "last" and self.rows == "train"

    def scope(self) -> AbstractContextManager[None]:
        """Where it is computed: kernels have no second order, and no step may differ for lack of a graph."""
        return native.disabled() if self.second_order else nullcontext()


def meta_loss(losses: Sequence[Tensor], kind: str) -> Tensor:
    """The meta-loss of each candidate, ``(P,)``."""
    means = [one.mean(dim=2) for one in losses]
    return _over_steps_and_tasks([mean.log() if kind == "log_mean" else mean for mean in means], losses)


def mean_loss(losses: Sequence[Tensor]) -> Tensor:
    """The mean loss seen by each candidate, ``(P,)``; for reports."""
    return _over_steps_and_tasks([one.mean(dim=2) for one in losses], losses)


def slope(losses: Tensor, kind: str, n_tasks: int) -> Tensor:
    """Derivative of the meta-loss by each loss of one architecture, ``(S, P, 1)``: the same for its tasks.

    ``n_tasks`` counts those of all architectures.
    """
    share = 1.0 / (n_tasks * losses.shape[0])
    if kind == "log_mean":
        return share / losses.mean(dim=2, keepdim=True)
    return losses.new_full((*losses.shape[:2], 1), share)


def _over_steps_and_tasks(values: Sequence[Tensor], losses: Sequence[Tensor]) -> Tensor:
    n_tasks = sum(one.shape[2] for one in losses)
    shares = [one.shape[2] / n_tasks for one in losses]
    # Each candidate's steps side by side: sums over the first axis are made in an order that depends on P.
    terms = [share * value.T.contiguous().mean(dim=1) for share, value in zip(shares, values, strict=True)]
    return sum(terms[1:], start=terms[0])
