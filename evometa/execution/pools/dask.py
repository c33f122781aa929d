"""Workers of a Dask cluster: one that runs at an address, or one made on this machine."""

from __future__ import annotations

import os
import signal
from concurrent.futures import Future
from typing import Any
from uuid import uuid4

from evometa.errors import ConfigError, ExecutionError
from evometa.execution.pools.base import Pool, WorkerLostError
from evometa.execution.work import Outcome, Work
from evometa.execution.workers import interrupts_held

#: How long a cluster may take to answer, and to have its first worker.
_CONNECT_SECONDS = 30


class DaskPool(Pool):
    """Every worker process computes one unit at a time, however many threads it has.

    A unit whose worker is lost is given to another by the scheduler, three times (Dask's
    ``distributed.scheduler.allowed-failures``), before it counts as lost here.
    """

    loss = "neighbours"
    is_local = False

    def __init__(self, address: str, n_workers: int) -> None:
        """Connect to the scheduler at ``address``; "" makes a cluster of ``n_workers``, 0 for one a core."""
        try:
            import distributed
        except ImportError as error:
            raise ConfigError(
                'execution.backend = "dask" needs Dask: install evometa[dask], or use "loky"'
            ) from error
        self._client = _connected(distributed, address) if address else _started(distributed, n_workers)
        self._sent: dict[Future[Outcome], Any] = {}
        self._killed_worker = distributed.scheduler.KilledWorker
        try:
            self._client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
        except TimeoutError as error:
            self.close()
            raise ConfigError(f"execution.address = {address!r}: this cluster has no workers") from error
        found = self._client.scheduler_info(n_workers=-1)["workers"].values()
        self.n_workers = min(n_workers, len(found)) if n_workers else len(found)
        self.worker_bytes = min((worker["memory_limit"] for worker in found), default=0) or None

    def submit(self, work: Work) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        future.set_running_or_notify_cancel()
        sent = self._client.submit(work, key=f"evometa-{uuid4().hex}")
        self._sent[future] = sent
        sent.add_done_callback(lambda done: self._arrived(future, done))
        return future

    def _arrived(self, future: Future[Outcome], done: Any) -> None:
        self._sent.pop(future, None)
        if future.done():  # its worker was ended by kill
            return
        if done.status == "finished":
            try:
                future.set_result(done.result())
            except Exception as error:  # the worker that kept it was lost meanwhile
                future.set_exception(WorkerLostError(f"what it found was lost: {error}"))
            return
        found = done.exception() if done.status == "error" else None
        if isinstance(found, self._killed_worker):
            future.set_exception(WorkerLostError(f"{found.allowed_failures + 1} workers of the cluster died"))
        elif found is None:
            future.set_exception(ExecutionError("the Dask cluster is gone; start it and resume the campaign"))
        else:
            future.set_exception(found)

    def kill(self, future: Future[Outcome]) -> None:
        sent = self._sent.pop(future, None)
        if sent is None:
            return
        where = [name for name, keys in self._client.processing().items() if sent.key in keys]
        future.set_exception(WorkerLostError("ended because it took too long"))
        self._client.cancel([sent], force=True)
        if where:
            self._client.run(_end_worker, workers=where, nanny=True, on_error="return")

    def close(self) -> None:
        for sent in list(self._sent.values()):
            sent.cancel(force=True)
        self._sent.clear()
        self._client.close()
        if self._client.cluster is not None:
            self._client.cluster.close()


def _end_worker(dask_worker: Any) -> None:
    """Kill the process of a nanny's worker, which it then starts anew; asked kindly it may take minutes."""
    if dask_worker.pid:
        os.kill(dask_worker.pid, signal.SIGKILL)


def _connected(distributed: Any, address: str) -> Any:
    try:
        return distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"execution.address = {address!r}: no Dask scheduler answers there ({type(error).__name__})"
        ) from error


def _started(distributed: Any, n_workers: int) -> Any:
    with interrupts_held():
        return distributed.Client(
            n_workers=n_workers or os.cpu_count() or 1,
            threads_per_worker=1,
            dashboard_address=":0",
            set_as_default=False,
        )
