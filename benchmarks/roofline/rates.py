"""Rates of one core, each the best of many tries within a short time, by the process that serves them.

Those of a GPU are in :mod:`benchmarks.roofline.gpu_rates`.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evometa import native
from evometa.native.build import SOURCES

#: By name: operations, elements or bytes a second.
Rates = Mapping[str, float]
#: Seconds to try for → the best rate.
Phase = Callable[[float], float]

#: Bytes of the three arrays of a triad, from the caches to main memory; the last is a GPU's.
TRIAD_BYTES = (96 * 2**10, 384 * 2**10, 3 * 2**19, 6 * 2**20, 24 * 2**20, 96 * 2**20, 3 * 2**29)
_PRODUCT_SIZES = (256, 512)
_TRANSCENDENTAL = ("exp", "sigmoid")


def best(rates: Rates, kind: str) -> float:
    """The best of the rates whose name begins with ``kind``."""
    return max(rate for name, rate in rates.items() if name.startswith(f"{kind} "))


def triad_for(n_bytes: float) -> int:
    """The triad whose rate is the bandwidth of a working set of ``n_bytes``: the next larger."""
    return next((size for size in TRIAD_BYTES if size >= n_bytes), TRIAD_BYTES[-1])


def bandwidth(rates: Rates, n_bytes: float) -> float:
    """Bytes a second where each core has a working set of ``n_bytes``."""
    return rates[f"triad {triad_for(n_bytes)}"]


def phases(working_sets: Iterable[float]) -> dict[str, Callable[[], Phase]]:
    """Name → how to build its measurement; of triads those that working sets of these bytes ask for.

    Rates that take a compiler are left out where evometa's kernels cannot be compiled either.
    """
    compiled = {
        "multiply-add registers": "multiply_add_rate",
        "transcendental native exp": "exponential_rate",
    }
    library = _library()
    return {
        **{f"product torch {n}×{n}×{n}": partial(_product_by_torch, n) for n in _PRODUCT_SIZES},
        **{f"product numpy {n}×{n}×{n}": partial(_product_by_numpy, n) for n in _PRODUCT_SIZES},
        **{f"transcendental torch {name}": partial(_elementwise, name) for name in _TRANSCENDENTAL},
        **({} if library is None else {k: partial(_compiled, library, v) for k, v in compiled.items()}),
        "launch torch add": _launch,
        **{f"triad {size}": partial(_triad, size) for size in sorted(set(map(triad_for, working_sets)))},
    }


class RatesOfOneProcess:
    """The serving side: builds the phases once, then measures the one it is asked for."""

    def __init__(self, device: torch.device) -> None:
        torch.set_num_threads(1)
        self._device = device
        self._built: dict[str, Phase] = {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """``prepare`` for working sets gives the names of phases, ``rate`` that of a phase."""
        match request["op"]:
            case "prepare":
                self._built = {name: build() for name, build in self._phases(request["working_sets"]).items()}
                return {"phases": list(self._built)}
            case "rate":
                return {"rate": self._built[request["phase"]](request["seconds"])}
        raise ValueError(f"unknown request {request['op']!r}")

    def _phases(self, working_sets: Iterable[float]) -> dict[str, Callable[[], Phase]]:
        if self._device.type == "cpu":
            return phases(working_sets)
        from benchmarks.roofline import gpu_rates

        return gpu_rates.phases(working_sets)

    def close(self) -> None:
        """Nothing was started."""


def best_of(work: Callable[[], object], amount: float, seconds: float) -> float:
    """``amount`` over the least time that ``work`` took, tried again and again for ``seconds``."""
    best_seconds, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        work()
        best_seconds = min(best_seconds, time.perf_counter() - started)
    return amount / best_seconds


def normal(*shape: int) -> torch.Tensor:
    """Standard normal values, always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _product_by_torch(n: int) -> Phase:
    """Multiplications and additions."""
    work = partial(torch.mm, normal(n, n), normal(n, n), out=torch.empty(n, n))
    return partial(best_of, work, 2.0 * n**3)


def _product_by_numpy(n: int) -> Phase:
    work = partial(np.matmul, normal(n, n).numpy(), normal(n, n).numpy(), out=np.empty((n, n), np.float32))
    return partial(best_of, work, 2.0 * n**3)


def _elementwise(name: str) -> Phase:
    """Elements."""
    values = normal(8192)
    function = partial(getattr(torch, name), values, out=torch.empty_like(values))
    return partial(best_of, function, float(values.numel()))


def _launch() -> Phase:
    """Operations on single numbers, which take no time but that of being called."""
    one, add = torch.zeros(()), torch.ops.aten.add.Tensor

    def launch() -> None:
        for _ in range(100):
            add(one, one)

    return partial(best_of, launch, 100.0)


def _triad(n_bytes: int) -> Phase:
    """Bytes."""
    a, b, c = (normal(n_bytes // 12) for _ in range(3))
    repeats = max(1, 2**21 // n_bytes)

    def triad() -> None:
        for _ in range(repeats):
            torch.add(a, b, alpha=2.0, out=c)

    return partial(best_of, triad, float(n_bytes // 12 * 12 * repeats))


def _compiled(library: ctypes.CDLL, symbol: str) -> Phase:
    function = getattr(library, symbol)
    function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double]
    measure: Phase = function
    return measure


def _library() -> ctypes.CDLL | None:
    """The compiled rates; None where evometa's kernels cannot be compiled either."""
    from torch.utils import cpp_extension

    if not native.units() or native.why_unavailable(native.units()[0]) is not None:
        return None
    source = Path(__file__).with_name("rates.cpp")
    folder = Path(cpp_extension.get_default_build_root()) / "evometa_benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    cpp_extension.load(
        name="rates",
        sources=[str(source)],
        extra_cflags=["-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"],
        extra_include_paths=[str(SOURCES)],
        build_directory=str(folder),
        is_python_module=False,
    )
    return ctypes.CDLL(str(folder / "rates.so"))
