"""Where cohorts run: in this process, on joblib's workers or on a cluster."""

from evometa.execution.devices import pick_device, pick_devices, pick_workers
from evometa.execution.executor import Executor, open_executor
from evometa.execution.memory import pick_max_bytes
from evometa.execution.units import (
    EvaluationUnit,
    Fingerprints,
    FingerprintUnit,
    RefinementUnit,
    TuningUnit,
    Unit,
    UnitResult,
)

__all__ = [
    "EvaluationUnit",
    "Executor",
    "FingerprintUnit",
    "Fingerprints",
    "RefinementUnit",
    "TuningUnit",
    "Unit",
    "UnitResult",
    "open_executor",
    "pick_device",
    "pick_devices",
    "pick_max_bytes",
    "pick_workers",
]
