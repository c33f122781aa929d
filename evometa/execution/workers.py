"""joblib's worker processes: none answers Ctrl-C by itself, none outlives the driver, each has its place.

The driver alone decides what an interruption means. A worker that got the terminal's SIGINT as well would
print a traceback, and one whose driver was killed would compute on for nobody.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import resource_tracker
from pathlib import Path

from joblib.externals import loky
from joblib.externals.loky import process_executor
from joblib.externals.loky.backend import resource_tracker as loky_resource_tracker

from evometa.process import settle

_GLANCE_SECONDS = 1.0


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold SIGINT back while processes are started: they inherit the mask; the signal arrives afterwards."""
    _start_trackers()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@lru_cache(maxsize=1)
def _start_trackers() -> None:
    """Both must run before: Python 3.11 lets SIGINT through again when it has started a tracker."""
    resource_tracker.ensure_running()
    loky_resource_tracker.ensure_running()


@lru_cache(maxsize=1)
def die_with(driver: int) -> None:
    """End this worker soon after process ``driver``, its parent, has ended, however that happened."""

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(_GLANCE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="driver watch", daemon=True).start()


@lru_cache(maxsize=1)
def settle_once() -> None:
    """Let this worker keep what it has: what it imported by its first unit, and the memory it grows by.

    loky's workers collect garbage once a second; going through PyTorch's objects takes a twelfth of it. Where
    psutil is installed they instead end once they hold 300 MB more than after their first unit, as if that
    leaked, and a new one has to import, draw and compile all again: units have a limit of their own.
    """
    settle()
    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize


@lru_cache
def claim(folder: str, n_places: int) -> int:
    """A number below ``n_places`` that no other living process has claimed in ``folder``.

    Where all are taken, one of them: a worker that is just being replaced may still hold it for a moment.
    """
    for place in range(n_places):
        # Left open: the system lets go of the lock when this process ends, however that happens.
        file = os.open(Path(folder) / f"{place}.lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
        else:
            return place
    return os.getpid() % n_places


def stop_workers() -> None:
    """Kill the joblib workers of this process, whatever they are doing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # loky warns where the program pgrep is missing, and does without
        loky.get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)
