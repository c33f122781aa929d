"""Kernels in C++ for what PyTorch does slowly on a CPU, built on the user's machine when first needed.

Each ``src/<unit>.cpp`` registers operators under ``torch.ops.evometa`` and becomes one library. A kernel
equals code in PyTorch that stays in use where there is none: without a compiler, on other devices, for other
dtypes and subclasses of tensors, under ``torch.func`` transforms, and with ``EVOMETA_NATIVE=0`` in the
environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor
from torch.nn import Parameter

from evometa.native.build import SOURCES, library_path, load_unit

_disabled = False


def enabled() -> bool:
    """Whether kernels may be used at all."""
    return not _disabled and os.environ.get("EVOMETA_NATIVE", "1") != "0"


@contextmanager
def disabled() -> Iterator[None]:
    """Use PyTorch alone inside the block; for comparisons."""
    global _disabled
    before, _disabled = _disabled, True
    try:
        yield
    finally:
        _disabled = before


@cache
def why_unavailable(unit: str) -> str | None:
    """None when the kernels of ``unit`` are loaded (and built if need be), else the reason in one line."""
    try:
        load_unit(unit)
    except (OSError, RuntimeError, ImportError) as error:
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    return None


def units() -> list[str]:
    """The names of all units."""
    return sorted(source.stem for source in SOURCES.glob("*.cpp"))


def n_unbuilt() -> int:
    """How many units :func:`build_all` would have to compile."""
    return sum(not library_path(unit).exists() for unit in units()) if enabled() else 0


def build_all() -> str:
    """Load every unit, compiling side by side those not in the cache; what came of it, in one line."""
    if not enabled():
        return "native kernels: switched off (EVOMETA_NATIVE=0)"
    with ThreadPoolExecutor() as pool:
        reasons = dict(zip(units(), pool.map(why_unavailable, units()), strict=True))
    failed = {unit: reason for unit, reason in reasons.items() if reason}
    if failed:
        unit, reason = next(iter(failed.items()))
        return f"native kernels: PyTorch alone serves {', '.join(failed)} ({unit}: {reason})"
    return f"native kernels: {', '.join(reasons)}"


def serves(unit: str, *tensors: Tensor) -> bool:
    """Whether the kernels of ``unit`` can take ``tensors``: on the CPU, all float32 or all float64.

    Subclasses, which may have no memory or do something of their own with every operation, are not taken.
    """
    if torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None:
        return False
    dtype = tensors[0].dtype
    if dtype not in (torch.float32, torch.float64):
        return False
    for tensor in tensors:
        if type(tensor) not in (Tensor, Parameter) or not tensor.is_cpu or tensor.dtype != dtype:
            return False
    return enabled() and why_unavailable(unit) is None  # the environment costs most and is asked last
