"""How much memory each worker of a campaign may use."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from evometa.errors import ConfigError

#: Share of the machine's memory that the workers take together unless the configuration says otherwise.
DEFAULT_SHARE = 0.5
#: Less than this is no room for a worker: interpreters and libraries would dwarf what is planned.
LEAST_BYTES = 2**27
#: Where Linux tells the limit of a container: control groups of version 2, and of version 1.
_LIMIT_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def pick_max_bytes(
    wanted: int, n_workers: int, device: torch.device, worker_bytes: int | None = None
) -> int | None:
    """What each of ``n_workers`` may use of the ``wanted`` bytes, or for 0 of half the memory there is.

    That is the machine's, or ``worker_bytes`` for each. None, no limit, for 0 on a GPU, where free memory
    decides. Raises ConfigError for too little.
    """
    if wanted == 0:
        if device.type != "cpu":
            return None
        whole = machine_bytes() // n_workers if worker_bytes is None else worker_bytes
        return max(LEAST_BYTES, int(DEFAULT_SHARE * whole))
    if wanted < n_workers * LEAST_BYTES:
        raise ConfigError(
            f"execution.max_memory_bytes = {wanted}, but {n_workers} workers need {n_workers * LEAST_BYTES} "
            "at least; raise it, run fewer workers, or use 0 for half of the machine's memory"
        )
    return wanted // n_workers


def machine_bytes() -> int:
    """The memory of this machine, or of the container that this process runs in."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([installed, *filter(None, map(_limit_in, _LIMIT_FILES))])


def _limit_in(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() else None
