"""Rollouts of a controller that explores: ordinary inner trainings in which its actions are drawn.

P candidates × R rollouts are one cohort of P·R, trained in pieces that suit the device: rollout j of
candidate i is row i·R + j. The noise that actions are drawn with is the same for all candidates (common
random numbers), so what a candidate gets does not depend on who trains beside it.

Only steps at which the controller decides are kept, D of a segment: what it saw, what it did, and what it was
rewarded with until the next decision or the segment's end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evometa.inner.cohort import Cohort
from evometa.layout import Layout
from evometa.meta.augmentation import Part
from evometa.meta.base import MetaProblem
from evometa.meta.episodes import Segment, segments
from evometa.meta.memory import pieces
from evometa.meta.meta_loss import mean_loss
from evometa.meta.reward import Level
from evometa.meta.training import PartState, Training, observed, start, train_losses, train_part
from evometa.rng import torch_generator
from evometa.rules.base import Hyper, StepContext, UpdateRule
from evometa.rules.controller import ControllerRule
from evometa.rules.controller_policy import Policy
from evometa.trees import Tree, take, tree_map, under_prefix

#: ``(controller, outputs (A, T), noise (A + 1, T), scale ()) → actions (C, T), octaves (C, T)``
Draw = Callable[[ControllerRule, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class ExploringRule(UpdateRule):
    """A controller whose actions are drawn; what it saw and did stays in its state.

    Weights: the controller's, the step's ``noise (A + 1, T)``, uniform, and the ``scale ()`` of exploration.
    State: the controller's, ``seen (T, F)`` and ``acted (T, C)``.
    """

    def __init__(self, controller: ControllerRule, draw: Draw) -> None:
        self.controller = controller
        self.draw = draw

    def init_weights(self, generator: torch.Generator) -> Tree:
        return self.controller.init_weights(generator)

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        n_tasks, n_rows = params.shape[0], sum(self.controller.observation.n_rows.values())
        kept = {"seen": params.new_zeros((n_tasks, n_rows))}
        kept["acted"] = params.new_zeros((n_tasks, len(self.controller.controls)))
        return self.controller.init_state(weights, params, layout) | kept

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        rows, seen = self.controller.observe(state, grads, context)
        rows = known(rows)
        outputs, hidden = self.controller.decide(weights, state, rows, context)
        acted, moves = self.draw(self.controller, outputs, weights["noise"], weights["scale"])
        step, moved = self.controller.act(moves, hyper, state, grads, params, context)
        return step, {**seen, **hidden, **moved, "seen": rows.T, "acted": acted.T}


@dataclass(frozen=True)
class Experience:
    """What came of one segment. Axes: D decisions, P candidates, B = R × T trainings.

    Attributes:
        seen: ``(D + 1, P, B, F)`` inputs of the policy; the last are those at the segment's end.
        acted: ``(D, P, B, C)`` actions as drawn.
        rewards: ``(D, P, B)`` until the next decision.
        alive: ``(D + 1, P, B)`` of 0 and 1: whether the training was not lost when it was decided.
        hidden: the policy's state before the first decision, each ``(P, B, H)``.
        ended: whether the horizon was reached.
        n_rollouts: R.
        losses: ``(P,)`` mean loss seen.
        n_inner_steps: made for each candidate.
    """

    seen: Tensor
    acted: Tensor
    rewards: Tensor
    alive: Tensor
    hidden: Tree
    ended: bool
    n_rollouts: int
    losses: Tensor
    n_inner_steps: int


class Rollouts:
    """Explores on segment after segment; the trainings of an episode go on from one to the next.

    Args:
        n_rollouts: R, of every task.
    """

    def __init__(self, problem: MetaProblem, draw: Draw, n_rollouts: int) -> None:
        self.controller = controller_of(problem)
        self._problem = problem
        self._segments = segments(problem)
        self._n_rollouts = n_rollouts
        self._learner = problem.cohort.learner.with_rule(ExploringRule(self.controller, draw))
        self._pieces: list[Tensor] = []
        self._trainings: dict[int, tuple[Training, list[Level]]] = {}

    @torch.no_grad()
    def explore(self, weights: Tree, scale: Tensor) -> Experience:
        """The next segment, trained with ``weights``, each ``(P, …)``; ``scale (P,)`` of exploration."""
        segment = next(self._segments)
        episode = segment.episode
        if segment.start == 0:
            self._trainings.clear()
            self._pieces = pieces(self._problem, episode.parts, self._n_rollouts, self._n_rollouts)
        noise = self._noise(segment)
        own = {**weights, "rule.scale": scale}
        found = [self._train(piece, rows, own, segment, noise) for piece, rows in enumerate(self._pieces)]
        joined = {name: torch.cat([one[name] for one in found], dim=1) for name in found[0]}
        losses = mean_loss([joined.pop("losses")]).reshape(-1, self._n_rollouts).mean(dim=1)
        first = under_prefix("hidden", joined)
        return Experience(
            **{name: self._flat(joined[name]) for name in ("seen", "acted", "rewards", "alive")},
            hidden={name: self._flat(value)[0] for name, value in first.items()},
            ended=segment.start + segment.n_steps >= episode.horizon,
            n_rollouts=self._n_rollouts,
            losses=losses,
            n_inner_steps=segment.n_steps * episode.n_tasks * self._n_rollouts,
        )

    def _flat(self, value: Tensor) -> Tensor:
        """``(D, P·R, T, …)`` → ``(D, P, R·T, …)``."""
        return torch.flatten(torch.unflatten(value, 1, (-1, self._n_rollouts)), 2, 3)

    def _noise(self, segment: Segment) -> Tensor:
        """Uniform in (0, 1), ``(S, R, A + 1, T)``, drawn on the CPU; the T of all architectures."""
        generator = torch_generator(segment.episode.seed, "actions", segment.start)
        n_outputs, n_tasks = self.controller.policy.n_outputs, segment.episode.n_tasks
        shape = (segment.n_steps, self._n_rollouts, n_outputs + 1, n_tasks)
        drawn = torch.rand(shape, generator=generator, dtype=torch.float64)
        return drawn.clamp(1e-12, 1 - 1e-12).to(self._problem.device, self._problem.dtype)

    def _train(self, piece: int, rows: Tensor, weights: Tree, segment: Segment, noise: Tensor) -> Tree:
        """What a piece saw, did and got, each ``(D, rows, T, …)``; losses ``(S, rows, T)``.

        ``weights`` are those of an :class:`ExploringRule` but for the noise.
        """
        candidate, rollout = rows // self._n_rollouts, rows % self._n_rollouts
        own = tree_map(lambda value: value[candidate], weights)
        hyper = tree_map(lambda value: value[candidate], self._problem.cohort.hyper)
        cohort = replace(
            self._problem.cohort, learner=self._learner, weights=own, hyper=hyper, n_candidates=len(rows)
        )
        parts = segment.episode.parts
        if segment.start == 0:
            training = start(cohort, parts)
            levels = [_first(part, state) for part, state in zip(parts, training, strict=True)]
        else:
            training, levels = self._trainings.pop(piece)
        drawn = torch.split(noise[:, rollout], [part.tasks.n_tasks for part in parts], dim=3)
        tapes = [
            Tape(self.controller, part, segment, state, level)
            for part, state, level in zip(parts, training, levels, strict=True)
        ]
        for tape, of_part in zip(tapes, drawn, strict=True):
            for k, of_step in enumerate(of_part):
                tape.step(replace(cohort, weights={**own, "rule.noise": of_step}), k)
        self._trainings[piece] = tuple(tape.state for tape in tapes), [tape.level for tape in tapes]
        found = [tape.found() for tape in tapes]
        return {name: torch.cat([one[name] for one in found], dim=2) for name in found[0]}


class Tape:
    """Exploring trainings on one part, and what is kept of a segment of them."""

    def __init__(
        self, controller: ControllerRule, part: Part, segment: Segment, state: PartState, level: Level
    ) -> None:
        self._controller, self._part, self._segment = controller, part, segment
        self.state, self.level = state, level
        names = controller.policy.init_state(part.params)
        self._hidden = {f"hidden.{name}": state.carry.state[f"rule.{name}"].unsqueeze(0) for name in names}
        self._losses: list[Tensor] = []
        self._kept: dict[str, list[Tensor]] = {"seen": [], "acted": [], "alive": [], "rewards": []}

    def step(self, cohort: Cohort, k: int) -> None:
        """The segment's k-th inner step; rewards before its first decision are nobody's."""
        before, horizon = self.level, self._segment.episode.horizon
        trained = train_part(
            cohort, self._part, self.state, 1, horizon, observed, train_losses, given_up=True
        )
        self.state, (losses,) = trained.end, trained.losses
        self.level = before.then(losses, self._part.tasks.noise_floor)
        self._losses.append(losses)
        kept, carried = self._kept, self.state.carry.state
        if (self._segment.start + k) % self._controller.interval == 0:
            kept["seen"].append(carried["rule.seen"])
            kept["acted"].append(carried["rule.acted"])
            kept["alive"].append(~before.lost)
            kept["rewards"].append(torch.zeros_like(before.value))
        if kept["rewards"]:
            kept["rewards"][-1] = kept["rewards"][-1] + before.value - self.level.value

    def found(self) -> Tree:
        """As :class:`Experience` has it, with axes ``(D, rows, T, …)``, and the losses ``(S, rows, T)``."""
        kept, value = self._kept, self.level.value
        acted = value.new_zeros((0, *value.shape, len(self._controller.controls)))
        return {
            "seen": torch.stack([*kept["seen"], self._seen_last()]),
            "acted": torch.stack(kept["acted"]) if kept["acted"] else acted,
            "rewards": torch.stack(kept["rewards"])
            if kept["rewards"]
            else value.new_zeros((0, *value.shape)),
            "alive": torch.stack([*kept["alive"], ~self.level.lost]).to(value.dtype),
            "losses": torch.stack(self._losses),
            **self._hidden,
        }

    def _seen_last(self) -> Tensor:
        return seen_now(self._controller, self._part, self.state, self._segment.episode.horizon)


def seen_now(controller: ControllerRule, part: Part, state: PartState, horizon: int) -> Tensor:
    """What a policy would see of trainings that stand at ``state``, ``(P, T, F)``."""
    carry, layout = state.carry, part.tasks.layout
    step, planned = (carry.params.new_tensor(float(number)) for number in (carry.step, horizon))

    def of_one(own: Tree, grads: Tensor, losses: Tensor) -> Tensor:
        context = StepContext(layout, step, planned, losses)
        return known(controller.observe(own, grads, context)[0]).T

    found: Tensor = torch.vmap(of_one)(under_prefix("rule", carry.state), state.grads, state.losses)
    return found


def known(rows: Tensor) -> Tensor:
    """What is seen, zeros where it is not finite: of a training that is lost."""
    return torch.where(torch.isfinite(rows), rows, torch.zeros_like(rows))


def controller_of(problem: MetaProblem) -> ControllerRule:
    """The rule of the problem's cohort. Raises TypeError where that decides nothing."""
    rule = problem.cohort.learner.rule
    if not isinstance(rule, ControllerRule):
        raise TypeError(f"only controllers decide anything, got rule {problem.cohort.learner.family!r}")
    return rule


def policy_outputs(policy: Policy, weights: Tree, seen: Tensor, hidden: Tree) -> Tensor:
    """The policy's outputs ``(D, P, B, A)`` for ``seen (D, P, B, F)``, one decision after the other.

    ``weights``, the policy's own, are each ``(P, …)``; with a graph to them where grad mode is on.
    """

    def of_one(own: Tree, seen: Tensor, hidden: Tree) -> Tensor:
        outputs, state = [], hidden
        for rows in seen.unbind(0):
            one, state = policy.outputs(own, state, rows.T)
            outputs.append(one.T)
        return torch.stack(outputs)

    if seen.shape[1] == 1:  # without the cost of mapping
        return of_one(take(weights, 0), seen[:, 0], take(hidden, 0)).unsqueeze(1)
    found: Tensor = torch.vmap(of_one, in_dims=(0, 1, 0), out_dims=1)(weights, seen, hidden)
    return found


def gradients(weights: Tree, value: Callable[[Tree], Tensor]) -> Tree:
    """The derivative of ``value(weights)``, (P,), by each weight ``(P, …)``; zero by those without a part."""
    leaves = tree_map(lambda weight: weight.detach().clone().requires_grad_(), weights)
    with torch.enable_grad():
        total = value(leaves).sum()
    if not total.requires_grad:  # nothing was decided
        return tree_map(torch.zeros_like, weights)
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def _first(part: Part, state: PartState) -> Level:
    return Level.at_first(part.own_unit(state.losses), part.tasks.noise_floor)
