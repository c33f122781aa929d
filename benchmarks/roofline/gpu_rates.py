"""Rates of a GPU, each the best of many tries: what PyTorch's own operations reach there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch

from benchmarks.roofline.rates import Phase, best_of, normal, triad_for

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


def _phase(work: Callable[[], object], amount: float) -> Phase:
    """Of ``amount`` a launch: the GPU is waited for after some of them."""

    def launches() -> None:
        for _ in range(_LAUNCHES):
            work()
        torch.cuda.synchronize()

    return partial(best_of, launches, _LAUNCHES * amount)


def _product(n: int) -> Phase:
    work = partial(torch.mm, normal(n, n).cuda(), normal(n, n).cuda(), out=torch.empty((n, n), device="cuda"))
    return _phase(work, 2.0 * n**3)


def _sigmoid() -> Phase:
    values = normal(2**22).cuda()
    return _phase(partial(torch.sigmoid, values, out=torch.empty_like(values)), float(len(values)))


def _triad(n_bytes: int) -> Phase:
    a, b, c = (normal(n_bytes // 12).cuda() for _ in range(3))
    return _phase(partial(torch.add, a, b, alpha=2.0, out=c), float(n_bytes // 12 * 12))
