"""Trainings of an episode by steps that a GPU records once and replays, see :mod:`evometa.inner.graphs`.

An estimator makes the same step again and again: in every segment, with other weights, and in the next
episode on other tasks. Whatever differs is copied into tensors that keep their place. Going back, every step
is differentiated by itself, from what was noted of the training when it began, and that is recorded as well:
a meta-gradient through S steps is 2·S launches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from evometa.inner import graphs
from evometa.inner.cohort import Cohort
from evometa.inner.unroll import UnrollState, advance, loss_and_grad
from evometa.layout import Layout
from evometa.meta.augmentation import Part
from evometa.meta.meta_loss import Objective, slope
from evometa.meta.replay import Backpropagated
from evometa.meta.training import PartState, Trained, Training
from evometa.tasks.base import Loss, LossAndGrad, TaskBatch, is_shared
from evometa.trees import Tree, tree_map

#: Recorded trainings that a session keeps: one an architecture, and the shorter segment at an episode's end.
_MOST = 4


class Recordings:
    """What a session has recorded. ``objective``: what is to be differentiated, if anything."""

    def __init__(self, objective: Objective | None = None) -> None:
        self._objective = objective
        self._made: list[RecordedTraining] = []

    def train(
        self, cohort: Cohort, part: Part, state: PartState, n_steps: int, horizon: int
    ) -> Trained | None:
        """As :func:`evometa.meta.training.train_part` without a graph; None where nothing is recorded."""
        n_planned = 0 if part.indices is None else part.indices.shape[1] - 1
        if not graphs.serves(part.params.device, n_planned or n_steps):
            return None
        return self._of(cohort, part, state, n_steps, horizon).train(cohort, part, state, n_steps)

    def backpropagate(
        self, cohort: Cohort, parts: Sequence[Part], training: Training, n_steps: int, horizon: int
    ) -> Backpropagated:
        """As :func:`evometa.meta.replay.backpropagate`, all tasks of an architecture at once."""
        n_tasks = sum(part.tasks.n_tasks for part in parts)
        grads: Tree = {}
        losses, ends = [], []
        for part, state in zip(parts, training, strict=True):
            recorded = self._of(cohort, part, state, n_steps, horizon)
            trained = recorded.train(cohort, part, state, n_steps)
            own = recorded.grads(part, trained.losses, n_tasks)
            grads = {name: own[name] + grads[name] for name in own} if grads else own
            losses.append(trained.losses)
            ends.append(trained.end)
        return Backpropagated(grads, losses, tuple(ends))

    def _of(
        self, cohort: Cohort, part: Part, state: PartState, n_steps: int, horizon: int
    ) -> RecordedTraining:
        for made in self._made:
            if made.fits(cohort, part, n_steps, horizon):
                return made
        self._made = self._made[1 - _MOST :]
        made = RecordedTraining(cohort, part, state, n_steps, horizon, self._objective)
        self._made.append(made)
        return made


class RecordedTraining:
    """P candidates in training on one part for at most ``n_steps`` at a time.

    With an ``objective`` it can go back through the steps it has just made.
    """

    def __init__(
        self,
        cohort: Cohort,
        part: Part,
        state: PartState,
        n_steps: int,
        horizon: int,
        objective: Objective | None,
    ) -> None:
        self._fits = _signature(cohort, part, horizon)
        self._n_steps, self._horizon, self._objective = n_steps, horizon, objective
        self._tasks = replace(
            part.tasks, constants=_copied(part.tasks.constants), rows=_copied(part.tasks.rows)
        )
        self._indices = None if part.indices is None else part.indices.clone()
        self._cohort = replace(cohort, weights=_copied(cohort.weights), hyper=_copied(cohort.hyper))
        self._state = state.mapped(torch.clone)
        self._names = list(state.carry.state)

        values = self._state.tensors()
        device = part.params.device
        self._first, self._slot = torch.zeros((2, 1), dtype=torch.long, device=device).unbind(0)
        self._losses = state.losses.new_zeros((n_steps, *state.losses.shape))
        recorder = graphs.CudaGraphs(device)
        self._forward = graphs.Replayed(recorder)
        if objective is not None:
            for leaf in self._cohort.weights.values():
                leaf.requires_grad_()
            self._leaves = list(self._cohort.weights.values())
            #: What each step began with, and what the last one left.
            self._notes = [value.new_zeros((n_steps + 1, *value.shape)) for value in values]
            self._slopes = torch.zeros_like(self._losses)
            self._cotangents = [torch.zeros_like(value) for value in self._differentiated(values)]
            self._found = [torch.zeros_like(leaf) for leaf in self._leaves]
            self._backward = graphs.Replayed(recorder)

    def fits(self, cohort: Cohort, part: Part, n_steps: int, horizon: int) -> bool:
        """Whether it can train ``cohort`` on ``part``: all that is not copied is the same."""
        return n_steps <= self._n_steps and _signature(cohort, part, horizon) == self._fits

    @torch.no_grad()
    def train(self, cohort: Cohort, part: Part, state: PartState, n_steps: int) -> Trained:
        """``n_steps`` updates from ``state`` on, which is left as it is."""
        _overwrite_all(self._cohort.weights, cohort.weights)
        _overwrite_all(self._cohort.hyper, cohort.hyper)
        _overwrite_all(self._tasks.constants, part.tasks.constants)
        _overwrite_all(self._tasks.rows, part.tasks.rows)
        if self._indices is not None and part.indices is not None:
            self._indices.copy_(part.indices)
        for own, value in zip(self._state.tensors(), self._in_order(state).tensors(), strict=True):
            own.copy_(value)
        self._first.fill_(state.carry.step)
        self._slot.zero_()
        for _ in range(n_steps):
            self._forward(self._step)
        end = self._state.mapped(torch.clone)
        carry = replace(end.carry, step=state.carry.step + n_steps)
        losses = part.own_unit(self._losses[:n_steps].clone())
        return Trained(losses, losses, replace(end, carry=carry))

    @torch.no_grad()
    def grads(self, part: Part, losses: Tensor, n_tasks: int) -> Tree:
        """The meta-gradient through the steps just made.

        ``losses`` ``(S, P, T)`` are theirs in the tasks' own unit; ``n_tasks`` counts those of all
        architectures.
        """
        assert self._objective is not None
        self._note()
        slopes = slope(losses, self._objective.kind, n_tasks)
        self._slopes[: len(losses)] = part.own_unit(slopes.expand(losses.shape))
        for total in (*self._found, *self._cotangents):
            total.zero_()
        for _ in range(len(losses)):
            self._backward(self._step_back)
        return {name: found.clone() for name, found in zip(self._cohort.weights, self._found, strict=True)}

    def _step(self) -> None:
        """One update, and its measurement."""
        if self._objective is not None:
            self._note()
        carry, losses, grads = self._state.carry, self._state.losses, self._state.grads
        with self._scope():
            after = self._updated(carry, losses, grads, overwrite=self._objective is None)
            end = self._in_order(self._measured(after, self._slot + 1))
        self._losses.index_copy_(0, self._slot, end.losses.unsqueeze(0))
        graphs.overwrite(self._state.tensors(), end.tensors())
        self._slot.add_(1)

    def _step_back(self) -> None:
        """Differentiate the step before: cotangents of what it left become those of what it began with."""
        assert self._objective is not None
        next_grads = self._noted(self._notes[-1])
        self._slot.sub_(1)
        params, *carried, losses, grads = (self._noted(note) for note in self._notes)
        state = dict(zip(self._names, carried, strict=True))
        begin = PartState(UnrollState(params, state, 0), losses, grads)
        inputs = [value.requires_grad_() for value in self._differentiated(begin.tensors())]
        with torch.enable_grad(), self._scope():
            after = self._updated(begin.carry, losses, grads, overwrite=False)
            if self._objective.second_order:
                end = self._in_order(self._measured(after, self._slot + 1))
                judged = end.losses
            else:
                end = self._in_order(PartState(after, losses, next_grads))
                judged = (next_grads * after.params).sum(dim=2)
        outputs = [judged, *self._differentiated(end.tensors())]
        weights = [self._noted(self._slopes), *self._cotangents]
        known = [pair for pair in zip(outputs, weights, strict=True) if pair[0].requires_grad]
        found = torch.autograd.grad(
            [output for output, _ in known],
            [*self._leaves, *inputs],
            [weight for _, weight in known],
            allow_unused=True,
            materialize_grads=True,
        )
        for total, own in zip(self._found, found, strict=False):
            total.add_(own)
        graphs.overwrite(self._cotangents, list(found[len(self._leaves) :]))

    def _scope(self) -> AbstractContextManager[None]:
        return nullcontext() if self._objective is None else self._objective.scope()

    def _updated(self, carry: UnrollState, losses: Tensor, grads: Tensor, *, overwrite: bool) -> UnrollState:
        count = (self._first + self._slot).to(carry.params.dtype).squeeze(0)
        return advance(
            self._cohort,
            self._tasks.layout,
            carry,
            losses,
            grads,
            self._horizon,
            overwrite=overwrite,
            step=count,
        )

    def _measured(self, carry: UnrollState, slot: Tensor) -> PartState:
        rows = None
        if self._indices is not None:
            rows = self._indices.index_select(1, self._first + slot).squeeze(1)
        return PartState(carry, *loss_and_grad(self._tasks, carry.params, self._tasks.batch(rows)))

    def _note(self) -> None:
        for note, value in zip(self._notes, self._state.tensors(), strict=True):
            note.index_copy_(0, self._slot, value.unsqueeze(0))

    def _noted(self, values: Tensor) -> Tensor:
        return values.index_select(0, self._slot).squeeze(0)

    def _differentiated(self, values: list[Tensor]) -> list[Tensor]:
        """Of the tensors of a state those that depend on the weights: without a second order no gradients."""
        assert self._objective is not None
        return values if self._objective.second_order else values[:-2]

    def _in_order(self, state: PartState) -> PartState:
        """``state`` with the learner's in the order in which it is kept."""
        carry = state.carry
        return replace(state, carry=replace(carry, state={name: carry.state[name] for name in self._names}))


#: What a recording keeps of its tasks: their functions, shapes and dtypes.
_Kind = tuple[Loss, LossAndGrad | None, Layout, int, Mapping[str, object], Mapping[str, object], object]


def _signature(cohort: Cohort, part: Part, horizon: int) -> tuple[object, ...]:
    """What two trainings must share for one to be replayed as the other."""
    indices = None if part.indices is None else part.indices.shape
    return (
        _kind(part.tasks, indices),
        _shapes(cohort.weights),
        cohort.n_candidates,
        part.params.shape,
        horizon,
    )


def _kind(tasks: TaskBatch, indices: object) -> _Kind:
    constants, rows = _shapes(tasks.constants), _shapes(tasks.rows)
    return tasks.loss, tasks.loss_and_grad, tasks.layout, tasks.gradient_delay, constants, rows, indices


def _shapes(tensors: Mapping[str, Tensor]) -> Mapping[str, object]:
    return {name: (value.shape, value.dtype, is_shared(value)) for name, value in tensors.items()}


def _copied(tensors: Mapping[str, Tensor]) -> Tree:
    """Copies of detached tensors; what tasks share without copies stays shared."""

    def copied(value: Tensor) -> Tensor:
        if is_shared(value):
            return value[:1].detach().clone().expand_as(value)
        return value.detach().clone()

    return tree_map(copied, dict(tensors))


def _overwrite_all(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        shared = is_shared(value)
        (own[name][:1] if shared else own[name]).copy_(value[:1] if shared else value)
