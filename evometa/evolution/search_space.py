"""The whole search space of a family: rule, schedule and meta-training genes, limited as a campaign says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from evometa.errors import GenomeError, unknown
from evometa.genome.genes import Value
from evometa.genome.space import Genes, Space
from evometa.meta import meta_space
from evometa.meta.genes import HELD_UNLESS_NAMED
from evometa.rules.learner import learner_space
from evometa.rules.registry import RULES, SCHEDULES


def full_space(family: str) -> Space:
    """Every gene a genome of ``family`` may have.

    Meta-training genes are active where there is something to train: for learned rules always, for
    hand-designed ones when their schedule is learned. Only estimators that serve the family are offered.
    """
    rule = RULES[family]
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
        of ``HELD_UNLESS_NAMED`` have one value, unless ``limits`` names them. Raises GenomeError for an
        unknown gene or value.
        """
        names = list(families) or RULES.names()
        full = {name: full_space(name) for name in names}
        known = {gene.name for space in full.values() for gene in space}
        for name in limits:
            if name not in known:
                raise GenomeError(unknown("gene", name, known))
        bounded = {"meta.steps": {"high": max_meta_steps}, **HELD_UNLESS_NAMED, **limits}
        return cls({name: space.restricted(bounded) for name, space in full.items()})

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
