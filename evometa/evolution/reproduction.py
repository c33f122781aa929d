"""Where new genomes come from: seeds, random draws, and the variation operators applied to parents.

Every child draws from a generator named by its generation and index, so children do not depend on one
another and a resumed campaign breeds the same ones.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evometa.evolution.ranking import tournament
from evometa.evolution.search_space import SearchSpace
from evometa.genome.genes import Value
from evometa.genome.genome import Genome
from evometa.genome.space import Genes
from evometa.genome.variation import crossover, mutate
from evometa.rng import numpy_generator
from evometa.rules.learner import has_weights


@dataclass(frozen=True)
class Child:
    """A genome to be: everything but its id and weights. ``weights_from`` is the parent it inherits from."""

    family: str
    genes: dict[str, Value]
    operator: str
    parents: tuple[str, ...] = ()
    weights_from: str | None = None
    name: str = ""


@dataclass(frozen=True)
class VariationRates:
    """How children are made: probabilities of the operators, rate and strength of mutations."""

    mutation_rate: float
    mutation_strength: float
    crossover_probability: float
    continuation_probability: float
    family_change_probability: float
    fresh_probability: float
    tournament_size: int


@dataclass(frozen=True)
class Parents:
    """The population that breeds, with its ranks ``(n,)`` and crowding distances ``(n,)``."""

    genomes: Sequence[Genome]
    rank: npt.NDArray[np.int64]
    crowding: npt.NDArray[np.float64]

    def draw(self, size: int, generator: np.random.Generator) -> Genome:
        """The winner of a tournament of ``size``."""
        return self.genomes[tournament(self.rank, self.crowding, size, generator)]


def first_generation(space: SearchSpace, seeds: Sequence[Genome], size: int, seed: int) -> list[Child]:
    """Seed genomes whose family takes part, then random ones: families in turn, genes drawn uniformly."""
    children = [
        Child(genome.family, space.admit(genome.family, genome.genes), "seed", name=genome.name)
        for genome in seeds
        if genome.family in space.spaces
    ][:size]
    for index in range(len(children), size):
        generator = numpy_generator(seed, "child", 0, index)
        family = space.families[index % len(space.families)]
        children.append(Child(family, space[family].sample(generator), "random"))
    return children


def next_generation(
    space: SearchSpace, parents: Parents, rates: VariationRates, size: int, seed: int, generation: int
) -> list[Child]:
    """``size`` children; one whose genes equal a parent's or sibling's is bred again, a few times at most."""
    taken = {_key(genome.family, genome.genes) for genome in parents.genomes}
    children = []
    for index in range(size):
        generator = numpy_generator(seed, "child", generation, index)
        for _ in range(8):
            child = _breed(space, parents, rates, generator)
            if child.operator == "continuation" or _key(child.family, child.genes) not in taken:
                break
        taken.add(_key(child.family, child.genes))
        children.append(child)
    return children


def _breed(
    space: SearchSpace, parents: Parents, rates: VariationRates, generator: np.random.Generator
) -> Child:
    first = parents.draw(rates.tournament_size, generator)
    draw = float(generator.random())
    if draw < rates.fresh_probability:
        family = space.families[int(generator.integers(len(space.families)))]
        return Child(family, space[family].sample(generator), "random")
    draw -= rates.fresh_probability
    if draw < rates.continuation_probability and _can_continue(first):
        return Child(first.family, dict(first.genes), "continuation", (first.id,), first.id, first.name)
    draw -= rates.continuation_probability
    if draw < rates.family_change_probability and len(space.families) > 1:
        return _change_family(space, first, generator)
    genes: dict[str, Value] = dict(first.genes)
    lineage: tuple[str, ...] = (first.id,)
    if float(generator.random()) < rates.crossover_probability:
        second = parents.draw(rates.tournament_size, generator)
        if second.id != first.id:
            genes, _ = crossover(genes, second.genes, space[first.family], space[second.family], generator)
            lineage = (first.id, second.id)
    genes = mutate(
        genes, space[first.family], generator, rate=rates.mutation_rate, strength=rates.mutation_strength
    )
    operator = "mutation" if len(lineage) == 1 else "crossover"
    return Child(first.family, genes, operator, lineage, first.id)


def _can_continue(genome: Genome) -> bool:
    """Whether a further lifetime of refinement would change the genome's heritable weights."""
    return has_weights(genome.family, genome.genes) and genome.genes.get("meta.write_back") == "lamarckian"


def _change_family(space: SearchSpace, parent: Genome, generator: np.random.Generator) -> Child:
    """The parent's shared genes (learning rate, schedule, meta-training) under another family."""
    others = [family for family in space.families if family != parent.family]
    family = others[int(generator.integers(len(others)))]
    target = space[family]
    genes = target.complete({**target.sample(generator), **target.shared(parent.genes)})
    return Child(family, genes, "family_change", (parent.id,), parent.id)


def _key(family: str, genes: Genes) -> Hashable:
    return family, frozenset(genes.items())
