"""Meta-training (level 1): estimators that refine a cohort's weights through inner training."""

from evometa.meta.base import Estimator, Refinement, TaskStream
from evometa.meta.registry import ESTIMATORS, meta_space

__all__ = ["ESTIMATORS", "Estimator", "Refinement", "TaskStream", "meta_space"]
