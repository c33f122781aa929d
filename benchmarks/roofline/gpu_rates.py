"""Rates of a GPU, each the best of many tries: what PyTorch's own operations reach there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

import torch

from benchmarks.roofline.rates import Phase, triad_for

_PRODUCT_SIZES = (4096, 8192)
#: Launches between two looks at the clock.
_LAUNCHES = 10


def phases(working_sets: Iterable[float]) -> dict[str, Callable[[], Phase]]:
    """As :func:`benchmarks.roofline.rates.phases`, without a rate of multiply-adds from registers."""
    found: dict[str, Callable[[], Phase]] = {
        f"product torch {n}×{n}×{n}": partial(_product, n) for n in _PRODUCT_SIZES
    }
    found["transcendental torch sigmoid"] = _sigmoid
    return found | {
        f"triad {size}": partial(_triad, size) for size in sorted(set(map(triad_for, working_sets)))
    }


def _best_of(work: Callable[[], object], amount: float, seconds: float) -> float:
    work()
    torch.cuda.synchronize()
    best_seconds, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        for _ in range(_LAUNCHES):
            work()
        torch.cuda.synchronize()
        best_seconds = min(best_seconds, (time.perf_counter() - started) / _LAUNCHES)
    return amount / best_seconds


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).cuda()


def _product(n: int) -> Phase:
    work = partial(torch.mm, _normal(n, n), _normal(n, n), out=torch.empty((n, n), device="cuda"))
    return partial(_best_of, work, 2.0 * n**3)


def _sigmoid() -> Phase:
    values = _normal(2**22)
    return partial(_best_of, partial(torch.sigmoid, values, out=torch.empty_like(values)), float(len(values)))


def _triad(n_bytes: int) -> Phase:
    a, b, c = (_normal(n_bytes // 12) for _ in range(3))
    return partial(_best_of, partial(torch.add, a, b, alpha=2.0, out=c), float(n_bytes // 12 * 12))
