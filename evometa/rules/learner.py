"""The learner: a genome's update rule times its schedule, as one pure update.

This is the only place where the two meet; the engine, the estimators and the exported optimizer all call
it. Weights and states of the parts live side by side under the prefixes ``rule.`` and ``schedule.``.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from evometa.errors import GenomeError, quoted
from evometa.genome.genes import Value
from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.native.tasks import PerceptronTasks
from evometa.rules.base import Hyper, LastStep, RuleFamily, StepContext, Steps, UpdateRule
from evometa.rules.registry import RULES, SCHEDULES
from evometa.rules.schedule_base import Schedule, ScheduleFamily
from evometa.rules.schedule_space import schedule_space
from evometa.trees import Tree, take, tree_map, under_prefix, with_prefix

#: Past the planned horizon H the k-th step of a genome with weights is multiplied by (H/k)^GUARD_POWER.
GUARD_POWER = 1

#: Where the state keeps the rule's last step, ``(T, N)``, for a schedule that follows steps.
LAST_STEP = "last_step"

#: Integer, choice and subset genes with their values.
Structural = tuple[tuple[str, Value], ...]

#: Spaces of learners by the identity of their family, with the family and the schedules that they are of.
_SPACES: dict[int, tuple[RuleFamily, Space, Space]] = {}
#: Learners by family and genes with the space they were checked by, the latest last; how many are kept.
_LEARNERS: dict[Hashable, tuple[Space, Learner]] = {}
_N_REMEMBERED = 2048


def learner_space(family: RuleFamily) -> Space:
    """All genes that shape a genome's update: the rule's own and the schedule's."""
    schedules = schedule_space()
    known = _SPACES.get(id(family))
    if known is None or known[1] is not schedules:
        known = _SPACES[id(family)] = (family, schedules, family.space.union(schedules))
    return known[2]


def has_weights(family: str, genes: Genes) -> bool:
    """Whether a genome has weights φ to meta-train: a learned rule or a learned schedule."""
    return RULES[family].learned or SCHEDULES[str(genes["schedule"])].learned


@dataclass(frozen=True)
class Learner:
    """Rule × schedule of one structure. ``genes`` must be complete for :func:`learner_space`."""

    family: str
    genes: tuple[tuple[str, Value], ...]

    @classmethod
    def of(cls, family: str, genes: Genes) -> Learner:
        """The learner of a genome; genes of other levels (``meta.…``) are ignored. Raises GenomeError.

        The latest are remembered: many steps of a campaign ask for those of the same genomes.
        """
        space = learner_space(RULES[family])
        # With the types, because 1 == 1.0 == True and not every gene permits all three.
        key = family, tuple(genes.items()), tuple(map(type, genes.values()))
        try:
            known = _LEARNERS.get(key)
        except TypeError:  # a value that cannot be hashed: a list for a subset, or one that is refused
            return cls._checked(family, genes, space)
        if known is None or known[0] is not space:
            known = _LEARNERS[key] = (space, cls._checked(family, genes, space))
            if len(_LEARNERS) > _N_REMEMBERED:
                del _LEARNERS[next(iter(_LEARNERS))]
        return known[1]

    @classmethod
    def _checked(cls, family: str, genes: Genes, space: Space) -> Learner:
        own = {name: value for name, value in genes.items() if name in space}
        foreign = [name for name in genes if name not in space and not name.startswith("meta.")]
        if foreign:
            raise GenomeError(f"family {family!r} has no gene {quoted(foreign[0])}")
        return cls(family, tuple(space.complete(own).items()))

    @cached_property
    def rule_family(self) -> RuleFamily:
        return RULES[self.family]

    @cached_property
    def schedule_family(self) -> ScheduleFamily:
        return SCHEDULES[str(dict(self.genes)["schedule"])]

    @cached_property
    def rule(self) -> UpdateRule:
        return self.rule_family.build(dict(self.genes))

    def with_rule(self, rule: UpdateRule) -> Learner:
        """This learner with ``rule`` in place of its own: the same decisions, made in another way."""
        other = replace(self)
        other.__dict__["rule"] = rule  # where the cached property would put it
        return other

    @cached_property
    def schedule(self) -> Schedule:
        return self.schedule_family.build(dict(self.genes))

    @cached_property
    def space(self) -> Space:
        return learner_space(self.rule_family)

    @cached_property
    def has_weights(self) -> bool:
        """As :func:`has_weights`, of a genome."""
        return has_weights(self.family, dict(self.genes))

    @property
    def elementwise(self) -> bool:
        """Whether a coordinate's step depends on no other coordinate, but through the loss."""
        return self.rule.elementwise and not self.schedule.follows_steps

    @cached_property
    def structure(self) -> tuple[str, Structural]:
        """What two genomes must share to run in one cohort: all but the continuous genes."""
        return (self.family, self.space.structural(dict(self.genes)))

    @cached_property
    def parts(self) -> tuple[Structural, Structural]:
        """The structural genes of the rule, and those of the schedule: each part has a cost of its own."""
        schedules, structural = schedule_space(), self.space.structural(dict(self.genes))
        rule = tuple(item for item in structural if item[0] not in schedules)
        return rule, structural[len(rule) :]

    @cached_property
    def hyper(self) -> dict[str, float]:
        """The continuous genes: what may differ inside one cohort."""
        return self.space.continuous(dict(self.genes))

    def init_weights(self, generator: torch.Generator) -> Tree:
        """Fresh weights of one candidate, float32 on the CPU; {} when nothing is learned."""
        rule = with_prefix("rule", self.rule.init_weights(generator))
        return {**rule, **with_prefix("schedule", self.schedule.init_weights(generator))}

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
        step, rule_state = self.scaled_step(weights, hyper, state, grads, params, context, factor)
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
        factor, schedule_state = self._cohort_factor(weights, hyper, state, context, len(params))
        after, rule_state = self.scaled_advance(
            weights, hyper, state, grads, params, context, factor, overwrite=overwrite
        )
        return after, {**rule_state, **schedule_state}

    def has_kernel(self, grads: Tensor, params: Tensor) -> bool:
        """Whether the rule's kernel serves here: it gives the next params, and no step to follow."""
        return not self.schedule.follows_steps and self.rule.has_kernel(grads, params)

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
        factors = self.factors(hyper, numbers, horizon, layout, params).expand(-1, len(params)).contiguous()
        losses, rule_state = self.rule.train(
            under_prefix("rule", weights),
            hyper,
            under_prefix("rule", state),
            params,
            tasks,
            Steps(layout, numbers, horizon, factors.unsqueeze(-1)),
        )
        return losses, with_prefix("rule", rule_state)

    def factors(self, hyper: Hyper, numbers: range, horizon: int, layout: Layout, like: Tensor) -> Tensor:
        """The schedule's factors at many steps, ``(K, P or 1)``, in the dtype and on the device of ``like``.

        Only of a schedule that is elementwise; continuous genes are () or ``(P,)``.
        """
        count = torch.arange(numbers.start, numbers.stop, dtype=like.dtype, device=like.device)
        planned = torch.full((), float(horizon), dtype=like.dtype, device=like.device)
        context = StepContext(layout, count.unsqueeze(-1), planned, None)
        factor, _ = self.schedule.factor({}, hyper, {}, context)
        rows = factor.reshape(-1, factor.shape[-1] if factor.dim() else 1)
        return rows.to(like.dtype).expand(len(numbers), -1)

    def _cohort_factor(
        self, weights: Tree, hyper: Hyper, state: Tree, context: StepContext, n_candidates: int
    ) -> tuple[Tensor, Tree]:
        """The schedule's factor for a cohort, ``(P, 1)`` or ``(P, T)``, and its part of the next state."""
        schedule = self.schedule
        if schedule.elementwise:
            factor, _ = schedule.factor({}, hyper, {}, context)
            return factor.reshape(-1, 1).expand(n_candidates, 1), {}

        def of_one(weights: Tree, hyper: Hyper, state: Tree, loss: Tensor | None) -> tuple[Tensor, Tree]:
            return schedule.factor(weights, hyper, state, replace(context, loss=loss))

        own_weights, own_state = under_prefix("schedule", weights), under_prefix("schedule", state)
        if n_candidates == 1:
            loss = None if context.loss is None else context.loss[0]
            factor, new = of_one(take(own_weights, 0), take(hyper, 0), take(own_state, 0), loss)
            factor, new = factor.unsqueeze(0), tree_map(lambda value: value.unsqueeze(0), new)
        else:
            in_dims = (0, 0, 0, None if context.loss is None else 0)
            mapped = torch.vmap(of_one, in_dims=in_dims)
            factor, new = mapped(own_weights, dict(hyper), own_state, context.loss)
        return factor.reshape(n_candidates, -1), with_prefix("schedule", new)

    def factor(self, weights: Tree, hyper: Hyper, state: Tree, context: StepContext) -> tuple[Tensor, Tree]:
        """The schedule's factor, () or (T,), and its part of the next state."""
        factor, new = self.schedule.factor(
            under_prefix("schedule", weights), hyper, under_prefix("schedule", state), context
        )
        return factor, with_prefix("schedule", new)

    def guard(self, n_steps: int, horizon: int) -> float:
        """The factor on the step after ``n_steps`` updates, beside the schedule's; 1 within the horizon.

        No weights were trained beyond it, where the steps that they make could be anything: each is held back
        more than the one before, see :data:`GUARD_POWER`. A genome without weights goes on as it was. In a
        campaign trainings end at the horizon, so only exported optimizers ask.
        """
        if not self.has_weights or n_steps < horizon:
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
    ) -> tuple[Tensor, Tree]:
        """The rule's step times ``factor``, ``(T, N)``, and the rule's part of the next state."""
        step, new = self.rule.update(
            under_prefix("rule", weights), hyper, under_prefix("rule", state), grads, params, context
        )
        after = with_prefix("rule", new)
        if self.schedule.follows_steps:
            after[LAST_STEP] = step
        return step * (factor.unsqueeze(-1) if factor.dim() else factor), after

    def describe(self) -> str:
        """What the genome does, in words."""
        return self.rule_family.describe(dict(self.genes))

    def formula(self) -> str:
        """The whole update as a formula: the rule's lines, then the schedule's factor."""
        genes = dict(self.genes)
        factor = self.schedule_family.formula(genes)
        return f"{self.rule_family.formula(genes)}\nθ ← θ + s(k)·Δ,  s(k) = {factor}"
