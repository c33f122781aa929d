"""Backpropagation through a segment, one group of tasks after another, in as much memory as there is.

All that ties tasks together is the meta-loss: the logarithm of their mean loss weighs every step by losses of
all of them, which must be known before the first backward pass. From the quickest way to the most frugal:

- *plain*: the groups' graphs are kept until all losses are known. Where the weights depend on no loss (kind
  ``mean``), each graph is used up at once.
- *replay*: the segment is first trained without a graph while the inner gradients are noted; then the update
  rule alone runs again with one, group by group, against Σ wₖ⟨gₖ, θₖ⟩. With the second-order term the inner
  gradients, too, are computed again.
- *replay in pieces*: the same a few steps at a time, from the last to the first, each from the state it began
  with. On a GPU that is done with recorded steps (:mod:`evometa.meta.recorded`), all tasks of an architecture
  at once.

All of them make the same operations on the same groups of tasks and add the results up in the same order:
what comes out is the same bit for bit, so memory may choose among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat

import torch
from torch import Tensor

from evometa.inner.cohort import Cohort
from evometa.meta.augmentation import Part
from evometa.meta.meta_loss import Objective, slope
from evometa.meta.training import (
    Judge,
    Observe,
    PartState,
    Trained,
    Training,
    again,
    held_out_losses,
    held_out_surrogate,
    noted,
    observed,
    observed_constants,
    start_part,
    train_losses,
    train_part,
    train_surrogate,
)
from evometa.trees import Tree

#: Ways that are chosen where memory is no matter, in a word.
PLAIN, RECORDED = "plain", "recorded"


@dataclass(frozen=True)
class Way:
    """How to go through a segment.

    Attributes:
        replays: whether it is trained without a graph before.
        steps_at_once: replayed steps whose graph exists at once; 0 for all.
        recorded: whether a step's passes are recorded and replayed, which a GPU does.
    """

    replays: bool
    steps_at_once: int = 0
    recorded: bool = False

    def __str__(self) -> str:
        if self.recorded:
            return RECORDED
        if not self.replays:
            return PLAIN
        return f"replay of {self.steps_at_once} steps at a time" if self.steps_at_once else "replay"


@dataclass(frozen=True)
class Backpropagated:
    """The meta-gradient of P candidates on a segment.

    Attributes:
        grads: each ``(P, …)`` like the weights.
        losses: ``(S, P, T)`` for each architecture, in the tasks' own unit.
        training: where every group's training stands at the segment's end.
    """

    grads: Tree
    losses: list[Tensor]
    training: Training


def backpropagate(
    cohort: Cohort,
    groups: Sequence[Sequence[Part]],
    training: Training | None,
    n_steps: int,
    horizon: int,
    objective: Objective,
    way: Way,
) -> Backpropagated:
    """The gradient of the segment's meta-loss by the weights of ``cohort``.

    Args:
        groups: the tasks of each architecture, a group a part.
        training: where each group stands, in the order of ``groups``; None: fresh models, the derivative by a
            learned initialisation included.
    """
    leaves = {name: value.detach().clone().requires_grad_() for name, value in cohort.weights.items()}
    n_tasks = sum(part.tasks.n_tasks for parts in groups for part in parts)
    sweep = _Sweep(replace(cohort, weights=leaves), n_steps, horizon, n_tasks, objective, way)
    states = repeat(None) if training is None else iter(training)
    losses: list[Tensor] = []
    ends: list[PartState] = []
    with objective.scope():
        for parts in groups:
            runs = [_Run(part, next(states)) for part in parts]
            losses.append(sweep.replayed(runs) if way.replays else sweep.plain(runs))
            ends += [run.end for run in runs if run.end is not None]
    return Backpropagated(dict(zip(leaves, sweep.found, strict=True)), losses, tuple(ends))


@dataclass
class _Run:
    """A group of tasks on its way through a segment.

    Attributes:
        part: the tasks.
        end: where training stands; at first the state at the segment's start, None for fresh models.
        seen: losses and gradients after each step, noted to be replayed.
        begins: where each piece of a replay begins.
        fresh: whether it began with fresh models.
    """

    part: Part
    end: PartState | None
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    begins: list[PartState] = field(default_factory=list)
    fresh: bool = False


#: By the rows that are judged, and whether there is a second order.
_JUDGES: dict[tuple[str, bool], Judge] = {
    ("train", True): train_losses,
    ("train", False): train_surrogate,
    ("valid", True): held_out_losses,
    ("valid", False): held_out_surrogate,
}


class _Sweep:
    """Adds up in ``found`` the gradients by the cohort's weights, which are leaves of all graphs."""

    def __init__(
        self, cohort: Cohort, n_steps: int, horizon: int, n_tasks: int, objective: Objective, way: Way
    ) -> None:
        self._cohort = cohort
        self._n_steps, self._horizon, self._n_tasks = n_steps, horizon, n_tasks
        self._objective = objective
        self._observe: Observe = observed if objective.second_order else observed_constants
        self._judge = _JUDGES[objective.rows, objective.second_order]
        self._starts = range(0, n_steps, way.steps_at_once or n_steps)
        self._leaves = list(cohort.weights.values())
        self.found = [torch.zeros_like(leaf) for leaf in self._leaves]

    def plain(self, runs: Sequence[_Run]) -> Tensor:
        """Differentiate the runs of one architecture; returns its losses ``(S, P, T)``."""
        losses: list[Tensor] = []
        pending: list[Tensor] = []
        for run in runs:
            trained = self._train(run.part, self._opened(run), range(self._n_steps), self._observe)
            run.end = trained.end.mapped(Tensor.detach)
            losses.append(trained.losses)
            pending.append(trained.values)
            del trained  # or this graph would live on beside the next one
            if self._objective.kind != "log_mean":
                self._differentiate([pending.pop()], [self._slope(losses[-1])], [])
        whole = torch.cat(losses, dim=2)
        while pending:
            self._differentiate([pending.pop(0)], [self._slope(whole)], [])
        return whole

    def replayed(self, runs: Sequence[_Run]) -> Tensor:
        """As :meth:`plain`, at the price of running the rule twice."""
        whole = torch.cat([self._rehearsed(run) for run in runs], dim=2)
        slopes = self._slope(whole)
        for run in runs:
            self._replay(run, slopes)
            run.seen, run.begins = [], []
        return whole

    def _opened(self, run: _Run) -> PartState:
        """Where a run begins; a fresh one in a graph to its initialisation, where grad mode is on."""
        return start_part(self._cohort, run.part, self._observe) if run.end is None else run.end

    def _rehearsed(self, run: _Run) -> Tensor:
        """Train to the segment's end and note what a replay needs; returns the losses ``(S, P, T)``."""
        observe = self._observe if self._objective.second_order else noted(run.seen)
        losses = []
        state = self._opened(run).mapped(_cut)
        for start in self._starts:
            run.begins.append(state)
            # Only a graph tells which tensors of a later piece's begin depend on the weights.
            with torch.set_grad_enabled(len(self._starts) > 1):
                trained = self._train(run.part, state, self._piece(start), observe)
            state = trained.end.mapped(_cut)
            losses.append(trained.losses)
            del trained
        run.fresh, run.end = run.end is None, state.mapped(Tensor.detach)
        return torch.cat(losses)

    def _replay(self, run: _Run, slopes: Tensor) -> None:
        """Differentiate from the last piece to the first, each by what the next one made of its end."""
        cotangents: list[Tensor | None] = []
        judged = self._objective.judged(self._n_steps)
        for start, begin in zip(reversed(self._starts), reversed(run.begins), strict=True):
            piece = self._piece(start)
            seen = iter(run.seen[piece.start : piece.stop])
            observe = self._observe if self._objective.second_order else again(seen)
            trained = self._train(run.part, begin, piece, observe)
            first = max(0, start - judged.start)
            weights = [slopes[first : first + len(trained.values)]]
            ends = trained.end.tensors() if cotangents else []
            outputs = [trained.values, *ends]
            del trained
            cotangents = self._differentiate(outputs, [*weights, *cotangents], begin.tensors())
        if run.fresh:
            fresh = start_part(self._cohort, run.part, self._observe)
            self._differentiate(fresh.tensors(), cotangents, [])

    def _train(self, part: Part, state: PartState, piece: range, observe: Observe) -> Trained:
        """The steps of ``piece``, of the segment's."""
        judged = self._objective.judged(self._n_steps)
        own = range(max(judged.start, piece.start) - piece.start, len(piece))
        return train_part(
            self._cohort, part, state, len(piece), self._horizon, observe, self._judge, judged=own
        )

    def _piece(self, start: int) -> range:
        return range(start, min(start + self._starts.step, self._n_steps))

    def _slope(self, losses: Tensor) -> Tensor:
        return slope(losses, self._objective.kind, self._n_tasks)

    def _differentiate(
        self, outputs: Sequence[Tensor], weights: Sequence[Tensor | None], begins: list[Tensor]
    ) -> list[Tensor | None]:
        """Add the gradient of Σ ⟨weights, outputs⟩ to ``found``; returns that by each of ``begins``.

        An output without a weight, or that depends on nothing, is left out.

        What was found so far enters as the weight of an output that is the leaf itself. Made last, it is the
        first to arrive there, so the sum runs on as it would in a single graph.
        """
        pairs = [
            (output, weight)
            for output, weight in zip(outputs, weights, strict=True)
            if weight is not None and output.requires_grad
        ]
        known = [weight.expand_as(output) for output, weight in pairs]
        carried = [leaf.view_as(leaf) for leaf in self._leaves]
        wanted = [tensor for tensor in begins if tensor.requires_grad]
        found = torch.autograd.grad(
            [*(output for output, _ in pairs), *carried],
            [*self._leaves, *wanted],
            [*known, *self.found],
            allow_unused=True,
        )
        self.found = list(found[: len(self._leaves)])
        by_begin = iter(found[len(self._leaves) :])
        return [next(by_begin) if tensor.requires_grad else None for tensor in begins]


def _cut(tensor: Tensor) -> Tensor:
    """The tensor as the begin of a graph of its own, where it is in one."""
    return tensor.detach().requires_grad_(tensor.requires_grad)
