"""The registered estimators; one row a member."""

from __future__ import annotations

from dataclasses import replace

from evometa.genome.space import Space
from evometa.meta.base import Estimator, shared_space
from evometa.meta.tbptt import TruncatedBPTT
from evometa.registry import Registry

ESTIMATORS: Registry[Estimator] = Registry("estimator", "evometa.estimators")
for _estimator in (TruncatedBPTT(),):
    ESTIMATORS.add(_estimator.name, _estimator)


def meta_space() -> Space:
    """All genes of level 1: the shared ones, then each estimator's, active under its name."""
    genes = list(shared_space(tuple(ESTIMATORS.names())))
    for name, estimator in ESTIMATORS:
        genes += [replace(gene, when={"meta.estimator": (name,), **gene.when}) for gene in estimator.space]
    return Space(tuple(genes))
