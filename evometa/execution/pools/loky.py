"""joblib's loky workers: processes of this machine that are used again from run to run."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
from concurrent.futures import Future
from dataclasses import replace

from joblib.externals import loky
from joblib.externals.loky.process_executor import BrokenProcessPool, ShutdownExecutorError

from evometa.execution.pools.base import Pool
from evometa.execution.work import Outcome, Work, Workplaces
from evometa.execution.workers import interrupts_held, stop_workers

#: Workers that nobody asks for this long end by themselves.
_IDLE_SECONDS = 300
#: Threads of the libraries in a worker: cores are taken by workers.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)


class LokyPool(Pool):
    """``n_workers`` processes, which keep their device for life. When one dies loky ends them all."""

    loss = "all"

    def __init__(self, n_workers: int, n_devices: int = 1) -> None:
        self.n_workers = n_workers
        self._claims = tempfile.TemporaryDirectory(prefix="evometa-") if n_devices > 1 else None
        self._is_started = False

    def submit(self, work: Work) -> Future[Outcome]:
        """As in :class:`Pool`; begins workers where there are none, or where they have ended."""
        placed = replace(work, places=self._places())
        self._is_started = True
        with interrupts_held():
            try:
                future = self._executor().submit(placed)
            except (BrokenProcessPool, ShutdownExecutorError):  # ended since; the next one is new
                future = self._executor().submit(placed)
        return future  # type: ignore[no-any-return]

    def _executor(self) -> loky.ProcessPoolExecutor:
        return loky.get_reusable_executor(
            max_workers=self.n_workers, timeout=_IDLE_SECONDS, env=_ONE_THREAD, reuse="auto"
        )

    def _places(self) -> Workplaces:
        claims = self._claims.name if self._claims else ""
        return Workplaces(self.n_workers, claims, os.getpid(), tuple(sys.path))

    def how_lost(self, error: BaseException) -> str | None:
        if not isinstance(error, BrokenProcessPool | ShutdownExecutorError):
            return None
        exits = re.findall(r"(SIG[A-Z0-9]+|EXIT)\((-?\d+)\)", str(error))
        found = sorted({_exit_in_words(name, int(code)) for name, code in exits})
        return " or ".join(found) or str(error).partition(".")[0]

    def kill(self, future: Future[Outcome]) -> None:
        self.close()

    def close(self) -> None:
        if self._is_started:
            stop_workers()
            self._is_started = False


def _exit_in_words(name: str, code: int) -> str:
    if name == "EXIT":
        return f"exit code {code}"
    if name == signal.SIGKILL.name:
        return "killed by SIGKILL, as where memory runs out"
    return f"killed by {name}"
