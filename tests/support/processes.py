"""The command line in a process of its own, and the processes that such a one has started."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

#: What a terminal would start as ``evometa``.
MAIN = [sys.executable, "-c", "from evometa.cli.app import main; main()"]


def children(pid: int) -> list[int]:
    """Processes started by ``pid``."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def workers_of(driver: int) -> list[int]:
    """loky's workers among the processes that ``driver`` has started; none where it has ended."""
    found = []
    with suppress(OSError):
        for child in children(driver):
            with suppress(OSError):
                if b"popen_loky" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
    return found
