"""How this process computes: with how many of PyTorch's threads, and what garbage collection leaves out."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one intra-operator thread inside the block.

    So no result depends on the number of cores, and they are left to the workers.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
