"""Variation operators on genes: they respect types, bounds, conditions, and draw from a given generator."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from evometa.genome.genes import Value
from evometa.genome.space import Genes, Space
from evometa.trees import Tree


def mutate(
    genes: Genes, space: Space, generator: np.random.Generator, *, rate: float, strength: float
) -> dict[str, Value]:
    """Each active gene mutated with probability ``rate``, at least one always.

    Genes that become active through a mutated condition take a fresh draw; those that become inactive
    are dropped.
    """
    movable = [gene for gene in space.movable if gene.name in genes]
    picks = generator.random(len(movable)) < rate
    if movable and not picks.any():
        picks[int(generator.integers(len(movable)))] = True
    changed = dict(genes)
    for gene, pick in zip(movable, picks, strict=True):
        if pick:
            changed[gene.name] = gene.mutate(genes[gene.name], generator, strength)
    for gene in space:  # drawn for every gene: whether one is needed must not shift the stream
        if gene.name in changed:
            gene.skip(generator)
        else:
            changed[gene.name] = gene.sample(generator)
    return space.complete(changed)


def crossover(
    a: Genes, b: Genes, space_a: Space, space_b: Space, generator: np.random.Generator
) -> tuple[dict[str, Value], dict[str, Value]]:
    """Two children, the first in ``a``'s space and the second in ``b``'s.

    Genes active in both parents (and permitted in both spaces) recombine by their type; every other gene
    comes from the parent whose family the child has. Where recombination activates a gene that this
    parent lacks, the other parent's value serves if it is permitted, else the default.
    """
    from_b, from_a = space_a.shared(b), space_b.shared(a)
    first: dict[str, Value] = {**from_b, **a}
    second: dict[str, Value] = {**from_a, **b}
    for gene in space_a:
        name = gene.name
        if name in a and name in b and name in from_b and name in from_a:
            x, y = gene.cross(a[name], b[name], generator)
            first.update(space_a.shared({name: x}))
            second.update(space_b.shared({name: y}))
    return space_a.complete(first), space_b.complete(second)


def inherit(parent: Mapping[str, Tensor], fresh: Tree) -> tuple[Tree, str]:
    """Weights of a child: the parent's tensors where name and shape agree, ``fresh`` ones elsewhere.

    Returns the weights and what happened, in words.
    """
    weights: Tree = {}
    kept: list[str] = []
    for name, value in fresh.items():
        old = parent.get(name)
        if old is not None and old.shape == value.shape:
            weights[name] = old.clone()
            kept.append(name)
        else:
            weights[name] = value
    if not fresh:
        return weights, "none"
    if len(kept) == len(fresh):
        return weights, "inherited"
    if not kept:
        return weights, "initialised"
    new = [name for name in fresh if name not in kept]
    return weights, f"inherited {', '.join(kept)}; initialised {', '.join(new)}"
