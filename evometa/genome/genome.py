"""The genome: everything evolution may change about a learned optimizer, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evometa.genome.genes import Value

#: ``Lineage.operator`` of tuned hand-designed rules, which are measured beside a campaign but take no part.
BASELINE = "baseline"


@dataclass(frozen=True)
class Lineage:
    """Where a genome comes from.

    ``operator`` is what made it (``seed``, ``random``, ``mutation``, ``crossover``, ``continuation``);
    ``weights`` says in words how its weights came about (initialised, inherited whole, inherited in part,
    refined), because a child that silently lost its weights looks like a bad mutation.
    """

    parents: tuple[str, ...] = ()
    operator: str = "seed"
    generation: int = 0
    weights: str = "none"


@dataclass(frozen=True)
class Genome:
    """One candidate optimizer.

    Attributes:
        id: unique within a campaign, e.g. ``"004-017"`` (generation and index).
        family: name of its update-rule family.
        genes: active genes by name, plain typed values, in the order of the search space.
        weights: content hash of the weights it acts with and exports; None where it has none.
        germline: content hash of the weights its children inherit. Equal to ``weights`` unless its
            refinement is Baldwinian, where what was learned in a lifetime is not passed on.
        lineage: parents, operator, generation.
        name: what a person calls it (seed genomes), else "".
    """

    id: str
    family: str
    genes: Mapping[str, Value]
    weights: str | None = None
    germline: str | None = None
    lineage: Lineage = field(default_factory=Lineage)
    name: str = ""
