"""The learner: a genome's update rule times its schedule, as one pure update, and where training begins.

This is the only place where they meet; the engine, the estimators and the exported optimizer all call it.
Weights and states of the parts live side by side under the prefixes ``rule.``, ``schedule.`` and ``init.``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evometa.genome.genes import Value
from evometa.genome.space import Space
from evometa.layout import Layout
from evometa.native.tasks import PerceptronTasks
from evometa.rules.base import Hyper, LastStep, StepContext, Steps
from evometa.rules.learner_structure import LearnerStructure
from evometa.rules.schedule_factors import cohort_factor, factors_at
from evometa.trees import Tree, under_prefix, with_prefix

#: Past the planned horizon H the k-th step of a genome with weights is multiplied by (H/k)^GUARD_POWER.
GUARD_POWER = 1

#: Where the state keeps the rule's last step, ``(T, N)``, for a schedule that follows steps.
LAST_STEP = "last_step"


@dataclass(frozen=True)
class Learner(LearnerStructure):
    """A structure at work: its weights, its state, its update and what can be said of it."""

    def init_weights(self, generator: torch.Generator, start: Tensor | None = None) -> Tree:
        """Fresh weights of one candidate, float32 on the CPU; {} when nothing is learned.

        A learned initialisation begins from ``start`` ``(N,)``, params of a model of the tasks; without them
        it raises GenomeError.
        """
        rule = with_prefix("rule", self.rule.init_weights(generator))
        schedule = with_prefix("schedule", self.schedule.init_weights(generator))
        begin = {} if self.initialisation is None else self.initialisation.init_weights(start)
        return {**rule, **schedule, **with_prefix("init", begin)}

    def initial_params(self, weights: Tree, layout: Layout) -> Tensor | None:
        """The params ``(N,)`` that trainings of a model of ``layout`` begin from; None for the tasks' own.

        Axes that ``weights`` have in front the params have too. Raises GenomeError where they were learned
        for another size of model.
        """
        if self.initialisation is None:
            return None
        own = under_prefix("init", weights)
        self.initialisation.check(own, layout)
        return own["params"]

    def step_scale(self, weights: Tree, layout: Layout) -> Tensor | None:
        """What the initialisation multiplies each coordinate's step by, ``(N,)``; None for nothing."""
        if not self.scales_steps:
            return None
        assert self.initialisation is not None
        return self.initialisation.scale(under_prefix("init", weights), layout)

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        """State before the first step for params ``(T, N)``."""
        rule = self.init_rule_state(weights, params, layout)
        return {**rule, **self.init_schedule_state(weights, params.shape[0], params)}

    def init_rule_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        """The rule's part of the state; the exported optimizer keeps one for every parameter tensor."""
        state = with_prefix("rule", self.rule.init_state(under_prefix("rule", weights), params, layout))
        if self.schedule.follows_steps:
            state[LAST_STEP] = torch.zeros_like(params)
        return state

    def init_schedule_state(self, weights: Tree, n_tasks: int, like: Tensor) -> Tree:
        """The schedule's part of the state; there is one for a whole model."""
        state = self.schedule.init_state(under_prefix("schedule", weights), n_tasks, like)
        return with_prefix("schedule", state)

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        """The step to add to params, ``(T, N)``, and the next state; for one candidate."""
        if self.schedule.follows_steps:
            context = replace(context, last_step=LastStep.of(grads, state[LAST_STEP]))
        factor, schedule_state = self.factor(weights, hyper, state, context)
        scale = self.step_scale(weights, context.layout)
        step, rule_state = self.scaled_step(weights, hyper, state, grads, params, context, factor, scale)
        return step, {**rule_state, **schedule_state}

    def advance(
        self,
        weights: Tree,
        hyper: Hyper,
        state: Tree,
        grads: Tensor,
        params: Tensor,
        context: StepContext,
        *,
        overwrite: bool = False,
    ) -> tuple[Tensor, Tree] | None:
        """The next params ``(P, T, N)`` and state of a whole cohort, or None where no kernel serves.

        As :meth:`evometa.rules.base.UpdateRule.advance`, the schedule included.
        """
        if not self.has_kernel(grads, params):
            return None
        factor, new = cohort_factor(
            self.schedule,
            under_prefix("schedule", weights),
            hyper,
            under_prefix("schedule", state),
            context,
            len(params),
        )
        after, rule_state = self.scaled_advance(
            weights, hyper, state, grads, params, context, factor, overwrite=overwrite
        )
        return after, {**rule_state, **with_prefix("schedule", new)}

    def has_kernel(self, grads: Tensor, params: Tensor) -> bool:
        """Whether the rule's kernel serves here: it gives the next params, no step to follow or to scale."""
        followed = self.scales_steps or self.schedule.follows_steps
        return not followed and self.rule.has_kernel(grads, params)

    def scaled_advance(
        self,
        weights: Tree,
        hyper: Hyper,
        state: Tree,
        grads: Tensor,
        params: Tensor,
        context: StepContext,
        factor: Tensor,
        *,
        overwrite: bool = False,
    ) -> tuple[Tensor, Tree]:
        """The next params after the rule's step times ``factor``, and the rule's part of the state.

        As :meth:`evometa.rules.base.UpdateRule.advance`; only where :meth:`has_kernel` says yes.
        """
        after, new = self.rule.advance(
            under_prefix("rule", weights),
            hyper,
            under_prefix("rule", state),
            grads,
            params,
            context,
            factor,
            overwrite=overwrite,
        )
        return after, with_prefix("rule", new)

    def trains(self, params: Tensor) -> bool:
        """Whether :meth:`train` serves such params: the rule has a kernel, the schedule waits for no loss."""
        return self.schedule.elementwise and self.has_kernel(params, params)

    def train(
        self,
        weights: Tree,
        hyper: Hyper,
        state: Tree,
        params: Tensor,
        layout: Layout,
        tasks: PerceptronTasks,
        first: int,
        horizon: int,
    ) -> tuple[Tensor, Tree]:
        """As :meth:`evometa.rules.base.UpdateRule.train`, the schedule included, from step ``first`` on."""
        numbers = range(first, first + tasks.n_steps)
        factors = factors_at(self.schedule, hyper, numbers, horizon, layout, params)
        factors = factors.expand(-1, len(params)).contiguous()
        losses, rule_state = self.rule.train(
            under_prefix("rule", weights),
            hyper,
            under_prefix("rule", state),
            params,
            tasks,
            Steps(layout, numbers, horizon, factors.unsqueeze(-1)),
        )
        return losses, with_prefix("rule", rule_state)

    def factor(self, weights: Tree, hyper: Hyper, state: Tree, context: StepContext) -> tuple[Tensor, Tree]:
        """The schedule's factor, () or (T,), and its part of the next state."""
        factor, new = self.schedule.factor(
            under_prefix("schedule", weights), hyper, under_prefix("schedule", state), context
        )
        return factor, with_prefix("schedule", new)

    def guard(self, n_steps: int, horizon: int) -> float:
        """The factor on the step after ``n_steps`` updates, beside the schedule's; 1 within the horizon.

        No network was trained beyond it, where the steps that it makes could be anything: each is held back
        more than the one before, see :data:`GUARD_POWER`. A formula, its numbers trained or not, goes on as
        it was, and so do hand-designed steps from a learned initialisation. In a campaign trainings end at
        the horizon, so only exported optimizers ask.
        """
        if not self.is_guarded or n_steps < horizon:
            return 1.0
        return (horizon / (n_steps + 1)) ** GUARD_POWER

    def scaled_step(
        self,
        weights: Tree,
        hyper: Hyper,
        state: Tree,
        grads: Tensor,
        params: Tensor,
        context: StepContext,
        factor: Tensor,
        scale: Tensor | None = None,
    ) -> tuple[Tensor, Tree]:
        """The rule's step times ``factor``, ``(T, N)``, and the rule's part of the next state.

        ``scale`` ``(N,)``: that of :meth:`step_scale`.
        """
        step, new = self.rule.update(
            under_prefix("rule", weights), hyper, under_prefix("rule", state), grads, params, context
        )
        if scale is not None:
            step = step * scale
        after = with_prefix("rule", new)
        if self.schedule.follows_steps:
            after[LAST_STEP] = step
        return step * (factor.unsqueeze(-1) if factor.dim() else factor), after

    def absorbed(self, weights: Tree, space: Space | None = None) -> tuple[dict[str, Value], Tree]:
        """This learner's genes as far as they can say what ``weights`` make of it, and the weights left.

        They keep to ``space``, a campaign's, if it is given.
        """
        own = self.space if space is None else space
        genes, rule = self.rule_family.absorbed(dict(self.genes), under_prefix("rule", weights), own)
        kept = {name: value for name, value in weights.items() if not name.startswith("rule.")}
        return dict(genes), {**with_prefix("rule", rule), **kept}

    def as_trained(self, weights: Tree) -> Learner:
        """The learner to describe where ``weights`` act: its genes say what they can of them."""
        return Learner.of(self.family, self.absorbed(weights)[0])

    def describe(self) -> str:
        """What the genome does, in words."""
        rule = self.rule_family.describe(dict(self.genes))
        return rule if self.initialisation is None else f"{rule} {self.initialisation.describe()}"

    def formula(self) -> str:
        """The whole update as a formula: the rule's lines, then the schedule's factor."""
        genes = dict(self.genes)
        factor, begins = self.schedule_family.formula(genes), self.initialisation
        step = "θ ← θ + s(k)·r·Δ" if begins is not None and begins.scales else "θ ← θ + s(k)·Δ"
        lines = [self.rule_family.formula(genes), f"{step},  s(k) = {factor}"]
        return "\n".join(lines if begins is None else [*lines, *begins.formula()])
