"""Inner training inside an episode: every estimator repeats the engine's step through :func:`train_part`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evometa.errors import TaskError
from evometa.inner.cohort import Cohort
from evometa.inner.deadline import check_time
from evometa.inner.kernel_training import kernel_tasks, train_by_kernel
from evometa.inner.unroll import UnrollState, advance, begin, loss_and_grad, valid_losses
from evometa.meta.augmentation import Part
from evometa.meta.episodes import Segment
from evometa.meta.meta_loss import Objective
from evometa.trees import tree_map


@dataclass(frozen=True)
class PartState:
    """Where training stands on one part: the carry, with losses ``(P, T)`` and gradients at its params."""

    carry: UnrollState
    losses: Tensor
    grads: Tensor

    def mapped(self, function: Callable[[Tensor], Tensor]) -> PartState:
        """``function`` applied to every tensor."""
        carry = UnrollState(
            function(self.carry.params), tree_map(function, self.carry.state), self.carry.step
        )
        return PartState(carry, function(self.losses), function(self.grads))

    def tensors(self) -> list[Tensor]:
        """Every tensor, always in the same order."""
        return [self.carry.params, *self.carry.state.values(), self.losses, self.grads]


#: Where P trainings of an episode stand: one state a part.
Training = tuple[PartState, ...]

#: Looks at the params after an update: ``(part, carry) → the new state``.
Observe = Callable[[Part, UnrollState], PartState]
#: Judges a state: ``(part, state) → (values, losses)``, each ``(P, T)`` in the tasks' own unit: what is
#: differentiated, and the losses that it stands for.
Judge = Callable[[Part, PartState], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Trained:
    """What came of some steps on one part.

    Attributes:
        values: ``(S, P, T)`` what is differentiated of each of the S steps that were judged.
        losses: ``(S, P, T)`` the losses then, in the tasks' own unit, without a graph.
        end: where training stands afterwards.
    """

    values: Tensor
    losses: Tensor
    end: PartState


#: ``(cohort, part, state, n_steps, horizon)`` → what came of steps that were recorded before; None without.
Recorded = Callable[[Cohort, Part, PartState, int, int], Trained | None]


def start(cohort: Cohort, parts: Sequence[Part]) -> Training:
    """Fresh models, the same for all candidates or where each has learned to begin, and first states."""
    return tuple(start_part(cohort, part, observed) for part in parts)


def start_part(cohort: Cohort, part: Part, observe: Observe) -> PartState:
    """As :func:`start`, on one part; with a graph to a learned initialisation where grad mode is on."""
    carry = begin(cohort, part.tasks.layout, part.params, part.tasks.gradient_delay)
    if cohort.learner.initialisation is not None and part.param_scale is not None:
        carry = replace(carry, params=carry.params / part.param_scale)
    return observe(part, carry)


def train(
    cohort: Cohort, segment: Segment, training: Training, recorded: Recorded, objective: Objective
) -> tuple[Training, list[Tensor]]:
    """``segment.n_steps`` updates of every candidate on every part, without a graph.

    ``training`` is given up by the caller. Where neither a kernel nor ``recorded`` serves, the steps are made
    one by one. Returns where it stands afterwards, and on each part the losses ``(S, P, T)`` that
    ``objective`` judges, in the tasks' own unit. Raises TaskError where those are of rows that tasks lack.
    """
    ends, losses = list(training), []
    del training
    for index, part in enumerate(segment.episode.parts):
        trained = _trained(cohort, part, ends[index], segment, recorded, objective)
        ends[index] = trained.end
        losses.append(trained.losses)
    return tuple(ends), losses


def _trained(
    cohort: Cohort,
    part: Part,
    state: PartState,
    segment: Segment,
    recorded: Recorded,
    objective: Objective,
) -> Trained:
    n_steps, horizon = segment.n_steps, segment.episode.horizon
    judged = objective.judged(n_steps)
    held_out = objective.rows == "valid"
    trained = None
    if not held_out or len(judged) == 1:  # else held-out rows are looked at between the steps
        trained = _trained_by_kernel(cohort, part, state, n_steps, horizon)
        if trained is None:
            trained = recorded(cohort, part, state, n_steps, horizon)
    if trained is None:
        judge = held_out_losses if held_out else train_losses
        return train_part(
            cohort, part, state, n_steps, horizon, observed, judge, judged=judged, given_up=True
        )
    if held_out:
        values, losses = (one.unsqueeze(0) for one in held_out_losses(part, trained.end))
        return Trained(values, losses, trained.end)
    return Trained(trained.values[judged.start :], trained.losses[judged.start :], trained.end)


def _trained_by_kernel(
    cohort: Cohort, part: Part, state: PartState, n_steps: int, horizon: int
) -> Trained | None:
    """As :func:`train_part` with :func:`observed`, in one call; None where no kernel serves."""
    check_time()
    carry = state.carry
    if part.indices is None:
        return None
    rows = part.indices[:, carry.step : carry.step + n_steps]
    given = kernel_tasks(cohort, part.tasks, carry.params, rows)
    if given is None:
        return None
    losses, params, learner_state = train_by_kernel(
        cohort, part.tasks, given, carry.params, carry.state, carry.step, horizon
    )
    end = observed(part, UnrollState(params, learner_state, carry.step + n_steps))
    seen = part.own_unit(torch.cat([losses[1:], end.losses.unsqueeze(0)]))
    return Trained(seen, seen, end)


def train_part(
    cohort: Cohort,
    part: Part,
    state: PartState,
    n_steps: int,
    horizon: int,
    observe: Observe,
    judge: Judge,
    *,
    judged: range | None = None,
    given_up: bool = False,
) -> Trained:
    """``n_steps`` updates of every candidate on one part, each followed by ``observe``.

    ``judge`` looks at the steps of ``judged``, or at all of them. A graph is kept where grad mode is on. Else
    ``state`` may be edited in place if the caller gives it up.
    """
    none = state.losses.new_empty((0, *state.losses.shape))
    values, losses = [], []
    for step in range(n_steps):
        check_time()
        own = (given_up or step > 0) and not torch.is_grad_enabled()
        carry = advance(
            cohort, part.tasks.layout, state.carry, state.losses, state.grads, horizon, overwrite=own
        )
        state = observe(part, carry)
        if judged is None or step in judged:
            value, loss = judge(part, state)
            values.append(value)
            losses.append(loss.detach())
    return Trained(
        torch.stack(values) if values else none, torch.stack(losses) if losses else none.detach(), state
    )


def observed(part: Part, carry: UnrollState) -> PartState:
    """Losses and gradients on the step's minibatch; with a graph to the params where grad mode is on."""
    indices = None if part.indices is None else part.indices[:, carry.step]
    losses, grads = loss_and_grad(part.tasks, carry.params, part.tasks.batch(indices))
    return PartState(carry, losses, grads)


def observed_constants(part: Part, carry: UnrollState) -> PartState:
    """As :func:`observed`, held fixed: without the second order."""
    with torch.no_grad():
        return observed(part, carry)


def noted(seen: list[tuple[Tensor, Tensor]]) -> Observe:
    """As :func:`observed_constants`; losses and gradients are appended to ``seen``."""

    def observe(part: Part, carry: UnrollState) -> PartState:
        state = observed_constants(part, carry)
        seen.append((state.losses, state.grads))
        return state

    return observe


def again(seen: Iterator[tuple[Tensor, Tensor]]) -> Observe:
    """Losses and gradients that were noted before."""
    return lambda part, carry: PartState(carry, *next(seen))


def train_losses(part: Part, state: PartState) -> tuple[Tensor, Tensor]:
    """The losses on the step's minibatch."""
    losses = part.own_unit(state.losses)
    return losses, losses


def train_surrogate(part: Part, state: PartState) -> tuple[Tensor, Tensor]:
    """⟨∇L, θ⟩, the gradient held fixed: its derivative is that of the loss without a second order.

    The model is then differentiated once a step and never twice (Andrychowicz et al. 2016, section 2.1).
    """
    return part.own_unit((state.grads * state.carry.params).sum(dim=2)), part.own_unit(state.losses)


def held_out_losses(part: Part, state: PartState) -> tuple[Tensor, Tensor]:
    """The training loss on the rows that tasks hold out; with a graph where grad mode is on."""
    if torch.is_grad_enabled():
        losses, _ = loss_and_grad(part.tasks, state.carry.params, _held_out(part))
    else:
        _held_out(part)
        losses = valid_losses(replace(part.tasks, valid_loss=None), state.carry.params)
    losses = part.own_unit(losses)
    return losses, losses


def held_out_surrogate(part: Part, state: PartState) -> tuple[Tensor, Tensor]:
    """As :func:`train_surrogate`, on the rows that tasks hold out."""
    with torch.no_grad():
        losses, grads = loss_and_grad(part.tasks, state.carry.params, _held_out(part))
    return part.own_unit((grads * state.carry.params).sum(dim=2)), part.own_unit(losses)


def _held_out(part: Part) -> dict[str, Tensor]:
    batch = part.tasks.valid_batch()
    if batch is None:
        raise TaskError(f'meta.judged_on = "valid": tasks {part.tasks.family!r} hold no rows out of training')
    return batch


def mapped(training: Training, function: Callable[[Tensor], Tensor]) -> Training:
    """``function`` applied to every tensor of a training, each ``(P, …)``."""
    return tuple(state.mapped(function) for state in training)


def joined(trainings: Sequence[Training]) -> Training:
    """Trainings of one episode side by side, joined on the axis P."""
    return tuple(_joined(states) for states in zip(*trainings, strict=True))


def _joined(states: Sequence[PartState]) -> PartState:
    first = states[0].carry
    carry = replace(
        first,
        params=torch.cat([state.carry.params for state in states]),
        state={name: torch.cat([state.carry.state[name] for state in states]) for name in first.state},
    )
    losses, grads = torch.cat([s.losses for s in states]), torch.cat([s.grads for s in states])
    return PartState(carry, losses, grads)
