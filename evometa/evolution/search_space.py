"""The whole search space of a family: rule, schedule and meta-training genes, limited as a campaign says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import cast

from evometa.errors import GenomeError, unknown
from evometa.genome.genes import Choice, Value
from evometa.genome.space import Genes, Space
from evometa.meta import ESTIMATORS, Estimator, meta_space
from evometa.meta.genes import ABSENT_UNLESS_NAMED, HELD_UNLESS_NAMED
from evometa.registry import Registry
from evometa.rules.initialisation import INITIALISATION_SPACE
from evometa.rules.learner_structure import learner_space
from evometa.rules.registry import RULES, SCHEDULES
from evometa.rules.schedule_base import ScheduleFamily


def full_space(family: str, *, initialisation: bool = False) -> Space:
    """Every gene a genome of ``family`` may have.

    Meta-training genes are active where there is something to train: for learned rules always, for
    hand-designed ones when their schedule is learned. With the genes of an ``initialisation`` there may be
    something to train in any case, so they are always active. Only estimators that serve the family are
    offered.
    """
    rule = RULES[family]
    if initialisation:
        return learner_space(rule).union(INITIALISATION_SPACE, meta_space(rule))
    if rule.learned:
        return learner_space(rule).union(meta_space(rule))
    learned = tuple(name for name, schedule in SCHEDULES if schedule.learned)
    meta = [replace(gene, when={"schedule": learned, **gene.when}) for gene in meta_space(rule)]
    return learner_space(rule).union(meta)


@dataclass(frozen=True)
class SearchSpace:
    """The families of a campaign, each with its space."""

    spaces: Mapping[str, Space]

    @classmethod
    def of(cls, families: Iterable[str], limits: Mapping[str, object], *, max_meta_steps: int) -> SearchSpace:
        """Spaces of ``families`` (none named: all registered), limited by gene.

        ``max_meta_steps`` bounds the gene ``meta.steps``, which decides what a campaign costs, and the genes
        of ``HELD_UNLESS_NAMED`` have one value or few, unless ``limits`` names them. Genes that came later
        are not there at all unless they are named, so that campaigns from before draw what they drew. Raises
        GenomeError for an unknown gene or value.
        """
        names = list(families) or RULES.names()
        begins = "init" in limits
        full = {name: full_space(name, initialisation=begins) for name in names}
        known = {gene.name for space in full.values() for gene in space}
        for name in limits:
            if name in INITIALISATION_SPACE and not begins:
                raise GenomeError(f'gene {name!r} counts where init = "learned": say which values init has')
            if name not in known:
                raise GenomeError(unknown("gene", name, known))
        bounded = {"meta.steps": {"high": max_meta_steps}, **HELD_UNLESS_NAMED, **limits}
        absent = ABSENT_UNLESS_NAMED - limits.keys()
        spaces = {}
        for name, space in full.items():
            limited = _restricted(name, space, {**_common(space), **bounded})
            _check_estimators(limited)
            unused = absent | _genes_of_unnamed(limited)
            spaces[name] = Space(tuple(gene for gene in limited if gene.name not in unused))
        return cls(spaces)

    @property
    def families(self) -> list[str]:
        """Names of the families."""
        return list(self.spaces)

    def __getitem__(self, family: str) -> Space:
        if family not in self.spaces:
            raise GenomeError(unknown("family of this campaign", family, self.families))
        return self.spaces[family]

    def admit(self, family: str, genes: Genes) -> dict[str, Value]:
        """Genes of a seed file made complete for this campaign; limited genes keep to their limit."""
        space = self[family]
        return space.complete(space.shared(genes))


def _restricted(family: str, space: Space, limits: Mapping[str, object]) -> Space:
    """The limited space; an error says of which family, for others may permit what this one does not."""
    try:
        return space.restricted(limits)
    except GenomeError as error:
        raise GenomeError(f"{error} (family {family!r})") from error


def _common(space: Space) -> dict[str, object]:
    """The limits that leave what need not be named."""
    return {
        name: {"options": [option for option in _options(space, name) if named[str(option)].is_common]}
        for name, named in _registries()
    }


def _genes_of_unnamed(space: Space) -> set[str]:
    """The genes of what is drawn only where it is named, and is not named."""
    unused = set()
    for name, named in _registries():
        options = _options(space, name)
        drawn = {member: one.is_common or member in options for member, one in named}
        of_drawn = {gene.name for member, one in named if drawn[member] for gene in one.space}
        unused |= {gene.name for _, one in named for gene in one.space} - of_drawn
    return unused


def _registries() -> tuple[tuple[str, Registry[Estimator] | Registry[ScheduleFamily]], ...]:
    """The genes that name a member of a registry whose members have genes of their own."""
    return ("meta.estimator", ESTIMATORS), ("schedule", SCHEDULES)


def _options(space: Space, name: str) -> tuple[Value, ...]:
    return cast(Choice, space[name]).options


def _check_estimators(space: Space) -> None:
    """Raise GenomeError where a genome could have an estimator that cannot train it."""
    special = [
        name for name in _options(space, "meta.estimator") if ESTIMATORS[str(name)].needs_initialisation
    ]
    if special and ("init" not in space or "drawn" in _options(space, "init")):
        raise GenomeError(
            f'meta.estimator = "{special[0]}" trains learned initialisations: set init = "learned"'
        )
