"""Inner training inside an episode: every estimator repeats the engine's step through :func:`train_part`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evometa.inner.cohort import Cohort
from evometa.inner.deadline import check_time
from evometa.inner.kernel_training import kernel_tasks, train_by_kernel
from evometa.inner.unroll import UnrollState, advance, begin, loss_and_grad
from evometa.meta.augmentation import Part
from evometa.meta.episodes import Segment
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

#: Measures a step: ``(part, carry after the update) → (values (P, T), the new state)``.
Measure = Callable[[Part, UnrollState], tuple[Tensor, PartState]]


@dataclass(frozen=True)
class Trained:
    """What came of some steps on one part.

    Attributes:
        values: ``(S, P, T)`` what was measured after each of S steps.
        losses: ``(S, P, T)`` the losses then, in the tasks' own unit, without a graph.
        end: where training stands afterwards.
    """

    values: Tensor
    losses: Tensor
    end: PartState


#: ``(cohort, part, state, n_steps, horizon)`` → what came of steps that were recorded before; None without.
Recorded = Callable[[Cohort, Part, PartState, int, int], Trained | None]


def start(cohort: Cohort, parts: Sequence[Part]) -> Training:
    """Fresh models, the same for all candidates, and each learner's first state."""
    return tuple(
        _measured(part, begin(cohort, part.tasks.layout, part.params, part.tasks.gradient_delay))
        for part in parts
    )


def train(
    cohort: Cohort, segment: Segment, training: Training, recorded: Recorded
) -> tuple[Training, list[Tensor]]:
    """``segment.n_steps`` updates of every candidate on every part, without a graph.

    ``training`` is given up by the caller. Where neither a kernel nor ``recorded`` serves, the steps are made
    one by one. Returns where it stands afterwards, and the losses ``(S, P, T)`` on each part, in the tasks'
    own unit.
    """
    horizon = segment.episode.horizon
    ends, losses = list(training), []
    del training
    for index, part in enumerate(segment.episode.parts):
        trained = _trained_by_kernel(cohort, part, ends[index], segment.n_steps, horizon)
        if trained is None:
            trained = recorded(cohort, part, ends[index], segment.n_steps, horizon)
        if trained is None:
            trained = train_part(cohort, part, ends[index], segment.n_steps, horizon, measured, given_up=True)
        ends[index] = trained.end
        losses.append(trained.losses)
    return tuple(ends), losses


def _trained_by_kernel(
    cohort: Cohort, part: Part, state: PartState, n_steps: int, horizon: int
) -> Trained | None:
    """As :func:`train_part` with :func:`measured`, in one call; None where no kernel serves."""
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
    end = _measured(part, UnrollState(params, learner_state, carry.step + n_steps))
    seen = part.own_unit(torch.cat([losses[1:], end.losses.unsqueeze(0)]))
    return Trained(seen, seen, end)


def train_part(
    cohort: Cohort,
    part: Part,
    state: PartState,
    n_steps: int,
    horizon: int,
    measure: Measure,
    *,
    given_up: bool = False,
) -> Trained:
    """``n_steps`` updates of every candidate on one part, each followed by ``measure``.

    A graph is kept where grad mode is on. Else ``state`` may be edited in place if the caller gives it up.
    """
    values, losses = [], []
    for step in range(n_steps):
        check_time()
        own = (given_up or step > 0) and not torch.is_grad_enabled()
        carry = advance(
            cohort, part.tasks.layout, state.carry, state.losses, state.grads, horizon, overwrite=own
        )
        value, state = measure(part, carry)
        values.append(value)
        losses.append(part.own_unit(state.losses.detach()))
    return Trained(torch.stack(values), torch.stack(losses), state)


def measured(part: Part, carry: UnrollState) -> tuple[Tensor, PartState]:
    """The losses as they are, in the tasks' own unit."""
    state = _measured(part, carry)
    return part.own_unit(state.losses), state


def surrogate(part: Part, carry: UnrollState) -> tuple[Tensor, PartState]:
    """⟨∇L, θ⟩, the gradient held fixed: its derivative is that of the loss without a second order.

    The model is then differentiated once a step and never twice (Andrychowicz et al. 2016, section 2.1).
    """
    with torch.no_grad():
        state = _measured(part, carry)
    return surrogate_of(part, state), state


def noted(seen: list[tuple[Tensor, Tensor]]) -> Measure:
    """The losses as they are; they and the gradients, of which no graph is made, are appended to ``seen``."""

    def measure(part: Part, carry: UnrollState) -> tuple[Tensor, PartState]:
        with torch.no_grad():
            state = _measured(part, carry)
        seen.append((state.losses, state.grads))
        return state.losses, state

    return measure


def surrogate_of(part: Part, state: PartState) -> Tensor:
    """⟨∇L, θ⟩ ``(P, T)`` in the tasks' own unit."""
    return part.own_unit((state.grads * state.carry.params).sum(dim=2))


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


def _measured(part: Part, carry: UnrollState) -> PartState:
    indices = None if part.indices is None else part.indices[:, carry.step]
    losses, grads = loss_and_grad(part.tasks, carry.params, part.tasks.batch(indices))
    return PartState(carry, losses, grads)
