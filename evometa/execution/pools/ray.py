"""Workers of a Ray cluster: one that runs at an address, or one made on this machine."""

from __future__ import annotations

import os
import sys
from concurrent.futures import Future
from typing import Any

from evometa.errors import ConfigError
from evometa.execution.pools.base import Pool
from evometa.execution.work import Outcome, Work
from evometa.execution.workers import interrupts_held


class RayPool(Pool):
    """A task a unit, each with a core (and ``n_gpus`` of a GPU) of its own."""

    is_local = False

    def __init__(self, address: str, n_workers: int, n_gpus: float = 0.0) -> None:
        """Connect to the cluster at ``address``; "" makes one of ``n_workers``, 0 for one a core."""
        try:
            import ray as found_ray
        except ImportError as error:
            raise ConfigError(
                'execution.backend = "ray" needs Ray: install evometa[ray], or use "loky"'
            ) from error
        ray: Any = found_ray  # its types are there in some places only
        self._ray = ray
        options: dict[str, Any] = {"address": address} if address else {"num_cpus": n_workers or None}
        if not address:
            # Workers find the modules that this process finds, as processes of other backends do.
            found = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            options |= {"include_dashboard": False, "runtime_env": {"env_vars": found}}
        try:
            with interrupts_held():
                ray.init(**options, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"execution.address = {address!r}: no Ray cluster answers there ({type(error).__name__})"
            ) from error
        resources = ray.cluster_resources()
        n_found = max(1, int(resources.get("CPU", 1)))
        self.n_workers = min(n_workers, n_found) if n_workers else n_found
        self.worker_bytes = int(resources.get("memory", 0)) // n_found or None
        self._compute = ray.remote(num_cpus=1, num_gpus=n_gpus, max_retries=0)(_compute)
        self._sent: dict[Future[Outcome], Any] = {}

    def submit(self, work: Work) -> Future[Outcome]:
        reference = self._compute.remote(work)
        future: Future[Outcome] = reference.future()
        self._sent[future] = reference
        future.add_done_callback(lambda done: self._sent.pop(done, None))
        return future

    def how_lost(self, error: BaseException) -> str | None:
        known = self._ray.exceptions
        if isinstance(error, known.OutOfMemoryError):
            return "killed by Ray, because its node ran out of memory"
        lost = known.WorkerCrashedError, known.NodeDiedError, known.ObjectLostError, known.TaskCancelledError
        return type(error).__name__ if isinstance(error, lost) else super().how_lost(error)

    def kill(self, future: Future[Outcome]) -> None:
        reference = self._sent.get(future)
        if reference is not None:
            self._ray.cancel(reference, force=True)

    def close(self) -> None:
        self._ray.shutdown()


def _compute(work: Work) -> Outcome:
    return work()
