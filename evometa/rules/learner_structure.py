"""What a genome's genes decide about its update before there is any tensor: its parts and their spaces."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from evometa.errors import GenomeError, quoted
from evometa.genome.genes import Value
from evometa.genome.space import Genes, Space
from evometa.rules.base import RuleFamily, UpdateRule
from evometa.rules.initialisation import INITIALISATION_SPACE, Initialisation
from evometa.rules.registry import RULES, SCHEDULES
from evometa.rules.schedule_base import Schedule, ScheduleFamily
from evometa.rules.schedule_space import schedule_space

#: Integer, choice and subset genes with their values.
Structural = tuple[tuple[str, Value], ...]

#: Spaces of learners by the identity of their family, with the family and the schedules that they are of.
_SPACES: dict[int, tuple[RuleFamily, Space, Space]] = {}
#: Learners by family and genes with the space they were checked by, the latest last; how many are kept.
_LEARNERS: dict[Hashable, tuple[Space, Any]] = {}
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
class LearnerStructure:
    """Rule, schedule and initialisation of one structure.

    ``genes`` must be complete for :func:`learner_space`, those of an initialisation among them only where it
    is learned.
    """

    family: str
    genes: tuple[tuple[str, Value], ...]

    @classmethod
    def of(cls, family: str, genes: Genes) -> Self:
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
    def _checked(cls, family: str, genes: Genes, space: Space) -> Self:
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

    def with_rule(self, rule: UpdateRule) -> Self:
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

    @cached_property
    def scales_steps(self) -> bool:
        """Whether the initialisation multiplies steps by anything."""
        return self.initialisation is not None and self.initialisation.scales

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
