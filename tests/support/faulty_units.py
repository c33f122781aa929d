"""Units of work that go wrong as a real one may: they end their process, hang, or give what cannot travel."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evometa.inner.cohort import Candidate
from evometa.inner.deadline import check_time

#: What units have taken for good in this process.
KEPT: list[bytearray] = []

#: What a unit does when it meets a bad candidate.
FAULTS: dict[str, Callable[[], object]] = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exits": lambda: os._exit(7),
    "segfaults": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "hangs": lambda: time.sleep(3600),
    "grows": lambda: KEPT.append(bytearray(b"1") * 400_000_000),
    "does not travel": lambda: (_ for _ in ()),
}


@dataclass(frozen=True)
class FaultyUnit:
    """Gives the ids of its candidates; where that of a bad one is among them, ``fault`` comes first.

    With ``diary``, a folder, each attempt leaves a file there, and after ``n_times`` attempts all goes well.
    """

    candidates: tuple[Candidate, ...]
    fault: str = ""
    bad: tuple[str, ...] = ()
    diary: str = ""
    n_times: int = 10**9
    seconds: float = 0.0

    @property
    def n_trained(self) -> int:
        """As of real units."""
        return len(self.candidates)

    def compute(self, device: torch.device, max_bytes: int | None) -> Any:
        """The ids, or the fault."""
        if self.diary:
            folder = Path(self.diary)
            n_before = len(list(folder.iterdir()))
            (folder / f"{n_before:04d}-{os.getpid()}-{len(self.candidates)}").touch()
        else:
            n_before = 0
        if self.fault and {c.id for c in self.candidates} & set(self.bad) and n_before < self.n_times:
            if self.fault == "takes long":
                while True:
                    check_time()
                    time.sleep(0.01)
            given = FAULTS[self.fault]()
            if given is not None:
                return given
        time.sleep(self.seconds)
        return [candidate.id for candidate in self.candidates]
