"""How this process computes: with how many of PyTorch's threads, and what garbage collection leaves out."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Compute with ``n`` of PyTorch's intra-operator threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[None]:
    """:func:`threads` with one: no result depends on how many cores there are; workers have them."""
    return threads(1)


def settle() -> None:
    """Leave what is imported by now out of garbage collection: going through PyTorch's objects takes long."""
    gc.collect()
    gc.freeze()


@contextmanager
def settled() -> Iterator[None]:
    """:func:`settle` for the block, unless someone else has done so already."""
    if gc.get_freeze_count():
        yield
        return
    settle()
    try:
        yield
    finally:
        gc.unfreeze()
