"""Meta-training (level 1): estimators of the meta-gradient, and the loop that follows it."""

from evometa.meta.base import Estimator, MetaGradient, MetaProblem, Session, TaskStream
from evometa.meta.footprint import Footprint
from evometa.meta.refinement import Refinement, refine
from evometa.meta.registry import ESTIMATORS, meta_genes, meta_space, meta_structure

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "Footprint",
    "MetaGradient",
    "MetaProblem",
    "Refinement",
    "Session",
    "TaskStream",
    "meta_genes",
    "meta_space",
    "meta_structure",
    "refine",
]
