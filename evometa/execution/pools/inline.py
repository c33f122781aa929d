"""This process as the only worker."""

from __future__ import annotations

from concurrent.futures import Future

from evometa.execution.pools.base import Pool
from evometa.execution.work import Outcome, Work


class InlinePool(Pool):
    """Computes what is submitted at once, here; nothing can be lost but the whole."""

    n_workers = 1
    n_ahead = 0

    def submit(self, work: Work) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        future.set_result(work())
        return future

    def kill(self, future: Future[Outcome]) -> None:
        raise NotImplementedError("this process does not end itself")

    def close(self) -> None:
        """There is nobody to end."""
