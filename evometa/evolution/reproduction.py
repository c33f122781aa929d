"""Where new genomes come from: seeds, random draws, and the variation operators applied to parents.

Every child draws from a generator named by its generation and index, so children do not depend on one
another and a resumed campaign breeds the same ones.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from evometa.evolution.ranking import tournament
from evometa.evolution.search_space import SearchSpace
from evometa.genome.genes import Value
from evometa.genome.genome import Genome
from evometa.genome.space import Genes
from evometa.genome.variation import crossover, mutate
from evometa.inner.cohort import Candidate
from evometa.inner.fingerprint import is_probed, updates_hashes
from evometa.rng import numpy_generator, torch_generator
from evometa.rules.learner import Learner
from evometa.rules.learner_structure import has_weights
from evometa.rules.registry import RULES

#: Length of a training for which two formulas are compared.
_PROBED_HORIZON = 100


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
    """``size`` children; one that equals a parent or sibling is bred again, a few times at most.

    Equal are those with the same genes, and formulas that make the same updates, however they are written.
    """
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
    if not RULES[family].is_formula:
        return family, frozenset(genes.items())
    learner = Learner.of(family, genes)
    rest = frozenset((name, value) for name, value in genes.items() if name not in learner.space)
    return family, _function(learner), rest


@lru_cache(maxsize=4096)
def _function(learner: Learner) -> Hashable:
    """What is equal for learners that make the same updates before they are meta-trained."""
    if learner.initialisation is not None:  # from a model's params, of which nothing is known here
        return learner.genes
    weights = learner.init_weights(torch_generator(0, "function"))
    candidate = Candidate("", learner.family, dict(learner.genes), weights)
    if not is_probed(candidate):
        return learner.genes
    return updates_hashes([candidate], (_PROBED_HORIZON,))[0]
