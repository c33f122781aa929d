"""Run units in this process or on joblib's worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import torch
from joblib import Parallel, delayed

from evometa.errors import ConfigError
from evometa.execution.units import Unit, UnitResult, run_unit
from evometa.execution.workers import die_with, interrupts_held, stop_workers


def pick_device(wanted: str) -> torch.device:
    """The device of ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Raises ConfigError without such a GPU."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda":
        n_gpus = torch.cuda.device_count()
        if n_gpus == 0:
            raise ConfigError(
                f"execution.device = {wanted!r}, but torch finds no CUDA GPU; use 'auto' or 'cpu'"
            )
        if (device.index or 0) >= n_gpus:
            raise ConfigError(
                f"execution.device = {wanted!r}, but torch finds {n_gpus} GPU(s), 'cuda:0' the first"
            )
    return device


def pick_workers(wanted: int, device: torch.device) -> int:
    """``wanted``, or for 0 one worker a core on a CPU and one in all on a GPU."""
    if wanted > 0:
        return wanted
    return (os.cpu_count() or 1) if device.type == "cpu" else 1


class Executor:
    """Runs units and yields their results in the order of submission, whoever computed them."""

    def __init__(self, device: torch.device, n_workers: int) -> None:
        self.device = device
        self.n_workers = n_workers
        self._has_workers = False

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
        name = str(self.device)
        if self.n_workers == 1 or len(units) <= 1:
            yield from (run_unit(unit, name) for unit in units)
            return
        parallel = Parallel(n_jobs=self.n_workers, backend="loky", return_as="generator")
        self._has_workers = True
        with interrupts_held():  # this starts the workers where there are none
            results = parallel(delayed(_run_in_worker)(unit, name, os.getpid()) for unit in units)
        yield from results

    def stop(self) -> None:
        """Kill the workers, whatever they are doing; a later run starts new ones."""
        if self._has_workers:
            stop_workers()
            self._has_workers = False


def _run_in_worker(unit: Unit, device_name: str, driver: int) -> list[UnitResult]:
    die_with(driver)
    return run_unit(unit, device_name)
