"""The machine's rates as the driver asks for them: a process a core, all in the same phase, or a GPU's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from benchmarks.machine import n_cores
from benchmarks.roofline.rates import Rates
from benchmarks.teams import SINGLE_THREAD, Process


class Bounded(Protocol):
    """What goes through bytes of memory before it meets any of them again."""

    @property
    def working_set(self) -> float: ...


class Roofline:
    """Measures the rates that bound the works it is made for; ``seconds``: how long each is tried."""

    def __init__(self, works: Iterable[Bounded], seconds: float, device: str) -> None:
        self._seconds = seconds
        n_processes = n_cores() if device == "cpu" else 1
        self._processes = [Process("roofline", SINGLE_THREAD, device) for _ in range(n_processes)]
        request = {"op": "prepare", "working_sets": [work.working_set for work in works]}
        for process in self._processes:  # one after the other: the first may have to compile
            process.send(request)
            self._phases: list[str] = process.receive()["phases"]

    def measure(self, n: int | None = None) -> Rates:
        """The rates of all cores together, or of ``n`` while the others do nothing."""
        return {phase: self._of_cores(phase, self._processes[:n]) for phase in self._phases}

    def _of_cores(self, phase: str, processes: Sequence[Process]) -> float:
        for process in processes:
            process.send({"op": "rate", "phase": phase, "seconds": self._seconds})
        return float(sum(process.receive()["rate"] for process in processes))

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.close()


@contextmanager
def roofline(works: Iterable[Bounded], seconds: float, device: str = "cpu") -> Iterator[Roofline]:
    """One that is closed in the end."""
    opened = Roofline(works, seconds, device)
    try:
        yield opened
    finally:
        opened.close()
