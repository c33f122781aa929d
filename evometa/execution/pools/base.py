"""What a backend has to offer: workers that take calls and give futures, which can be lost and killed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Future
from typing import Literal

from evometa.execution.work import Outcome, Work

#: Whose futures fail when a worker is lost: of what it computed, of what waited for it as well, or of all.
Loss = Literal["own", "neighbours", "all"]


class WorkerLostError(Exception):
    """A worker ended before it had computed what it was given; the message says how."""


class Pool(ABC):
    """Workers of a backend.

    Attributes:
        n_workers: how many units are computed at once.
        n_ahead: units that may wait for each worker, beside the one it computes, so that it need not wait.
        loss: whose futures fail when a worker is lost.
        is_local: whether units are computed on this machine.
        worker_bytes: memory that each worker has; None where it has its share of this machine's.
    """

    n_workers: int
    n_ahead: int = 1
    loss: Loss = "own"
    is_local: bool = True
    worker_bytes: int | None = None

    @abstractmethod
    def submit(self, work: Work) -> Future[Outcome]:
        """Have ``work`` computed by a worker; it is begun in the order of submission."""

    def how_lost(self, error: BaseException) -> str | None:
        """In words how the worker behind a future that failed with ``error`` ended; None where it did not."""
        return str(error) if isinstance(error, WorkerLostError) else None

    @abstractmethod
    def kill(self, future: Future[Outcome]) -> None:
        """End the worker that computes ``future``, and where workers cannot be told apart all of them.

        What fails by that is how lost work fails.
        """

    @abstractmethod
    def close(self) -> None:
        """Kill all workers that this process started, whatever they are doing; others are left alone."""
