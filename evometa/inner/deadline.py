"""A time limit that loops look at between their steps.

Whoever trains says how long it may take (:func:`time_limit`); whatever repeats something long calls
:func:`check_time` in between. Each thread has its own limit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: When the limit ends, by :func:`time.monotonic`, and how long it was.
_LIMIT: ContextVar[tuple[float, float] | None] = ContextVar("limit", default=None)


class OutOfTime(Exception):
    """The time limit has passed."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """:func:`check_time` raises OutOfTime inside the block after ``seconds``; 0 for no limit."""
    token = _LIMIT.set((time.monotonic() + seconds, seconds) if seconds else None)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def check_time() -> None:
    """Raise OutOfTime where the limit around the caller has passed."""
    limit = _LIMIT.get()
    if limit is not None and time.monotonic() > limit[0]:
        raise OutOfTime(f"not done after {limit[1]:g} s")
