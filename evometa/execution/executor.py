"""Run units in this process or on joblib's worker processes."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from joblib import Parallel, delayed

from evometa.execution.units import Unit, UnitResult, halves, run_unit
from evometa.execution.workers import claim, die_with, interrupts_held, settle_once, stop_workers
from evometa.inner.modes import Precision


class Executor:
    """Runs units and yields their results in the order of submission, whoever computed them.

    With several GPUs there is at least one worker for each, which keeps it for life. ``max_bytes`` is what a
    worker may take in memory for its units; None without a limit.
    """

    def __init__(
        self,
        devices: torch.device | Sequence[torch.device],
        n_workers: int,
        precision: Precision = "float32",
        max_bytes: int | None = None,
    ) -> None:
        self.devices = (devices,) if isinstance(devices, torch.device) else tuple(devices)
        self.n_workers = n_workers
        self.precision: Precision = precision
        self.max_bytes = max_bytes
        self._has_workers = False
        self._claims: tempfile.TemporaryDirectory[str] | None = None

    @property
    def device(self) -> torch.device:
        """The first device; the others are alike."""
        return self.devices[0]

    def in_precision(self, precision: Precision) -> Executor:
        """An executor on the same devices and workers that trains in ``precision``."""
        other = copy.copy(self)
        other.precision = precision
        return other

    def run(
        self, units: Sequence[Unit], progress: Callable[[UnitResult], None] | None = None
    ) -> list[UnitResult]:
        """All results in the units' order; ``progress`` is called with each as it comes."""
        results: list[UnitResult] = []
        for batch in self._stream(units):
            for result in batch:
                results.append(result)
                if progress is not None:
                    progress(result)
        return results

    def _stream(self, units: Sequence[Unit]) -> Iterator[list[UnitResult]]:
        units = dealt(units, len(self.devices))
        if self.n_workers == 1 or len(units) <= 1:
            yield from (run_unit(unit, str(self.device), self.precision, self.max_bytes) for unit in units)
            return
        parallel = Parallel(n_jobs=self.n_workers, backend="loky", return_as="generator")
        self._has_workers = True
        places = self._workplaces()
        with interrupts_held():  # this starts the workers where there are none
            results = parallel(
                delayed(_run_in_worker)(unit, places, self.precision, self.max_bytes) for unit in units
            )
        yield from results

    def _workplaces(self) -> _Workplaces:
        if self._claims is None and len(self.devices) > 1:
            self._claims = tempfile.TemporaryDirectory(prefix="evometa-")
        claims = self._claims.name if self._claims else ""
        return _Workplaces(tuple(map(str, self.devices)), self.n_workers, claims, os.getpid())

    def stop(self) -> None:
        """Kill the workers, whatever they are doing; a later run starts new ones."""
        if self._has_workers:
            stop_workers()
            self._has_workers = False


def dealt(units: Sequence[Unit], n_devices: int) -> list[Unit]:
    """``units``, those with more than a device's share of all candidates halved until they have no more."""
    share = -(-sum(len(unit.candidates) for unit in units) // n_devices)
    found: list[Unit] = []
    waiting = list(reversed(units))
    while waiting:
        unit = waiting.pop()
        if len(unit.candidates) > max(share, 1):
            waiting += reversed(halves(unit))
        else:
            found.append(unit)
    return found


@dataclass(frozen=True)
class _Workplaces:
    """Where workers compute: each claims a number of its own, and numbers take the devices in turn.

    ``claims`` is the folder of the claims where there are several devices, ``driver`` whom to die with.
    """

    devices: tuple[str, ...]
    n_workers: int
    claims: str
    driver: int

    def claim(self) -> str:
        """The device of this worker, the same for all its life."""
        number = claim(self.claims, self.n_workers) if len(self.devices) > 1 else 0
        return self.devices[number % len(self.devices)]


def _run_in_worker(
    unit: Unit, places: _Workplaces, precision: Precision, max_bytes: int | None
) -> list[UnitResult]:
    die_with(places.driver)
    settle_once()
    return run_unit(unit, places.claim(), precision, max_bytes)
