"""The driver's lock: an advisory ``flock`` on a file beside the database.

The kernel drops it when its holder ends, however it ends, so a lock is never stale. The file names the
holder for a message's sake only; an unlocked file means nothing and stays where it is, because removing
it would let two processes lock two files of one name.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
import weakref
from io import FileIO
from pathlib import Path

from evometa.errors import StoreError
from evometa.store.paths import refusal

#: how long to try: a reader that asks whether the lock is held holds it for a moment itself
_PATIENCE_SECONDS = 0.25
_PAUSE_SECONDS = 0.01


class DriverLock:
    """The right to write one campaign, held from construction until :meth:`release`."""

    def __init__(self, path: Path) -> None:
        """Take the lock at ``path``. Raises StoreError, naming the holder, when it is taken."""
        try:
            self._file = path.open("a+b", buffering=0)  # closed, and so unlocked, when it is forgotten
            _take(self._file, path)
            self._file.truncate(0)
            self._file.write(f"{os.getpid()} {socket.gethostname()}".encode())
        except OSError as error:
            raise refusal(f"cannot lock {path}", error) from error
        _HELD.add(self)

    def release(self) -> None:
        """Give the lock up; a second call does nothing."""
        if self in _HELD:
            self._file.truncate(0)
            self.leave()

    def leave(self) -> None:
        """Close this process's hold on it; one that a fork shares stays with the other process."""
        _HELD.discard(self)
        self._file.close()


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock at ``path``; creates nothing. Raises StoreError."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise StoreError(f"cannot ask whether {path} is locked: {error.strerror}") from error
    return False


def _take(file: FileIO, path: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = _holder(file)
                file.close()
                raise StoreError(
                    f"campaign {path.parent.name!r} is being written by {holder}; "
                    "wait for it, stop it, or choose another --name"
                ) from None
        time.sleep(_PAUSE_SECONDS)


def _holder(file: FileIO) -> str:
    file.seek(0)
    pid, _, host = file.read().decode(errors="replace").partition(" ")
    return f"process {pid} on {host}" if host else "another process"


_HELD: weakref.WeakSet[DriverLock] = weakref.WeakSet()


def _leave_all() -> None:
    """In a forked child: a worker that outlives its driver must not keep the campaign locked."""
    for lock in list(_HELD):
        lock.leave()


os.register_at_fork(after_in_child=_leave_all)
