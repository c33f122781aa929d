"""Where cohorts run: in this process or on joblib's workers."""

from evometa.execution.executor import Executor, pick_device, pick_workers
from evometa.execution.units import EvaluationUnit, RefinementUnit, TuningUnit, Unit, UnitResult

__all__ = [
    "EvaluationUnit",
    "Executor",
    "RefinementUnit",
    "TuningUnit",
    "Unit",
    "UnitResult",
    "pick_device",
    "pick_workers",
]
