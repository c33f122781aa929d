"""A campaign's command line in a session of its own, which tells its phases and can be struck in one."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from processes import workers_of

_SUPPORT = str(Path(__file__).parents[1])
_COMMAND = [sys.executable, "-c", "from soak.observed import main; main()"]
#: A driver that has been struck ends within this time, or it hangs.
_END_SECONDS = 60.0


class Driver:
    """``evometa run …`` under observation.

    Attributes:
        told: when each phase began (by :func:`time.monotonic`), and its name.
        counted: instructions of SQLite's machine in each commit and migration, where they are counted.
    """

    def __init__(self, words: Sequence[object], log: Path, moment: str = "-") -> None:
        self._pipe, theirs = os.pipe()
        self._rest = b""
        self.log = log
        self.told: list[tuple[float, str]] = [(time.monotonic(), "start-up")]
        self.counted: dict[str, list[int]] = {"commit": [], "migration": []}
        path = os.pathsep.join([_SUPPORT, *filter(None, [os.environ.get("PYTHONPATH")])])
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*_COMMAND, str(theirs), moment, *map(str, words)],
                pass_fds=[theirs],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._pipe)

    @property
    def phase(self) -> str:
        """The latest phase that was told by now."""
        while self._read(0.0):
            pass
        return self.told[-1][1]

    def reaches(self, phase: str, times: int, seconds: float) -> bool:
        """Wait until ``phase`` has begun so many times; False: the driver ended or time ran out before."""
        limit = time.monotonic() + seconds
        while sum(name == phase for _, name in self.told) < times:
            left = limit - time.monotonic()
            if left < 0 or (not self._read(min(left, 0.2)) and self.process.poll() is not None):
                return False
        return True

    def send(self, number: signal.Signals, target: str, which: int = 0) -> bool:
        """Send a signal to the ``driver``, to ``all`` its session or to a ``worker``; False: nobody there."""
        if self.process.poll() is not None:
            return False
        if target == "driver":
            os.kill(self.process.pid, number)
        elif target == "all":
            os.killpg(self.process.pid, number)
        else:
            workers = workers_of(self.process.pid)
            if not workers:
                return False
            with contextlib.suppress(ProcessLookupError):
                os.kill(workers[which % len(workers)], number)
        return True

    def wait(self, seconds: float = _END_SECONDS) -> int:
        """Its exit code, as :mod:`subprocess` has it. Raises TimeoutError where it hangs."""
        limit = time.monotonic() + seconds
        while self.process.poll() is None:
            if not self._read(0.05):
                time.sleep(0.005)
            if time.monotonic() > limit:
                raise TimeoutError(f"the driver has not ended in {seconds:.0f} s, in {self.phase}")
        return self.process.returncode

    def said(self) -> str:
        """All that it has printed."""
        return self.log.read_text(errors="replace")

    def _read(self, seconds: float) -> bool:
        """Take in what is told within ``seconds``; whether there was anything."""
        if not select.select([self._pipe], [], [], seconds)[0]:
            return False
        data = os.read(self._pipe, 65536)
        now = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in map(bytes.decode, lines):
            phase, _, number = line.partition("=")
            if number:
                self.counted[phase].append(int(number))
            else:
                self.told.append((now, phase))
        return bool(data)
