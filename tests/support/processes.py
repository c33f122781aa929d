"""The command line in a process of its own, and the processes that such a one has started."""

from __future__ import annotations

import sys
from pathlib import Path

#: What a terminal would start as ``evometa``.
MAIN = [sys.executable, "-c", "from evometa.cli.app import main; main()"]


def children(pid: int) -> list[int]:
    """Processes started by ``pid``."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
