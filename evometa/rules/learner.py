"""The learner: a genome's update rule times its schedule, as one pure update, and where training begins.

This is the only place where they meet; the engine, the estimators and the exported optimizer all call it.
Weights and states of the parts live side by side under the prefixes ``rule.``, ``schedule.`` and ``init.``.
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
from evometa.rules.initialisation import INITIALISATION_SPACE, Initialisation
from evometa.rules.registry import RULES, SCHEDULES
from evometa.rules.schedule_base import Schedule, ScheduleFamily
from evometa.rules.schedule_factors import cohort_factor, factors_at
from evometa.rules.schedule_space import schedule_space
from evometa.trees import Tree, under_prefix, with_prefix

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
    """All genes that shape a genome's update: the rule's own and the schedule's.

    Beside them a genome may have those of INITIALISATION_SPACE.
    """
    schedules = schedule_space()
    known = _SPACES.get(id(family))
    if known is None or known[1] is not schedules:
        known = _SPACES[id(family)] = (family, schedules, family.space.union(schedules))
    return known[2]


def has_weights(family: str, genes: Genes) -> bool:
    """Whether a genome has weights φ to meta-train: a learned rule, schedule or initialisation."""
    learned = RULES[family].learned or SCHEDULES[str(genes["schedule"])].learned
    return learned or Initialisation.of(genes) is not None


@dataclass(frozen=True)
class Learner:
    """Rule × schedule of one structure. ``genes`` must be complete for :func:`learner_space`.

    Genes of an initialisation are among them only where it is learned.
    """

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
        begin = {name: value for name, value in genes.items() if name in INITIALISATION_SPACE}
        foreign = [
            name for name in genes if name not in own and name not in begin and not name.startswith("meta.")
        ]
        if foreign:
            raise GenomeError(f"family {family!r} has no gene {quoted(foreign[0])}")
        begin = INITIALISATION_SPACE.complete(begin)
        learned = begin if Initialisation.of(begin) else {}
        return cls(family, (*space.complete(own).items(), *learned.items()))

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
    def initialisation(self) -> Initialisation | None:
        """Where training begins; None where that is what tasks draw."""
        return Initialisation.of(dict(self.genes))

    @cached_property
    def space(self) -> Space:
        """The genes that count: those of an initialisation only where it is learned."""
        space = learner_space(self.rule_family)
        return space if self.initialisation is None else space.union(INITIALISATION_SPACE)

    @cached_property
    def has_weights(self) -> bool:
        """As :func:`has_weights`, of a genome."""
        return has_weights(self.family, dict(self.genes))

    @property
    def elementwise(self) -> bool:
        """Whether a coordinate's step depends neither on others, but through the loss, nor on its place."""
        return self.rule.elementwise and not (self.schedule.follows_steps or self.scales_steps)

    @cached_property
    def is_guarded(self) -> bool:
        """Whether steps are held back past the horizon: weights shape them, and not a formula's."""
        begins, rule = self.initialisation, self.rule_family
        has_rates = begins is not None and begins.has_rates
        return (rule.learned and not rule.is_formula) or self.schedule_family.learned or has_rates

    @cached_property
    def structure(self) -> tuple[str, Structural]:
        """What two genomes must share to run in one cohort: all but the continuous genes."""
        return (self.family, self.space.structural(dict(self.genes)))

    @cached_property
    def parts(self) -> tuple[Structural, Structural, Structural]:
        """The structural genes of rule, schedule and initialisation: each part has a cost of its own."""
        schedules, structural = schedule_space(), self.space.structural(dict(self.genes))
        begin = tuple(item for item in structural if item[0] in INITIALISATION_SPACE)
        schedule = tuple(item for item in structural if item[0] in schedules)
        return structural[: len(structural) - len(schedule) - len(begin)], schedule, begin

    @cached_property
    def hyper(self) -> dict[str, float]:
        """The continuous genes: what may differ inside one cohort."""
        return self.space.continuous(dict(self.genes))

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

    @cached_property
    def scales_steps(self) -> bool:
        """Whether :meth:`step_scale` is anything."""
        return self.initialisation is not None and self.initialisation.scales

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
