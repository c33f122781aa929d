"""Where cohorts run: in this process or on joblib's workers."""

from evometa.execution.devices import pick_device, pick_devices, pick_workers
from evometa.execution.executor import Executor
from evometa.execution.memory import pick_max_bytes
from evometa.execution.units import EvaluationUnit, RefinementUnit, TuningUnit, Unit, UnitResult

__all__ = [
    "EvaluationUnit",
    "Executor",
    "RefinementUnit",
    "TuningUnit",
    "Unit",
    "UnitResult",
    "pick_device",
    "pick_devices",
    "pick_max_bytes",
    "pick_workers",
]
