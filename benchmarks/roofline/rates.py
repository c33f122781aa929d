"""Rates of this machine with every core busy, measured on the spot, each the best of many tries.

Run as a module it measures one core; :func:`measure` runs one such process a core at the same time and adds
them up.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import n_cores
from evometa import native
from evometa.native.build import SOURCES

#: Bytes of the three arrays of a triad, from the caches to main memory.
TRIAD_BYTES = (96 * 2**10, 384 * 2**10, 3 * 2**19, 6 * 2**20, 96 * 2**20)
_READY = "ready\n"
#: Rows, inner and columns of products: square ones, and those of a recurrent layer on a cache-sized chunk.
_PRODUCTS = ((256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (80, 41, 2410), (80, 41, 19280))
_TRANSCENDENTAL = ("sigmoid", "exp", "tanh")


def measure(seconds: float) -> dict[str, float]:
    """The rates of all cores together: operations, elements or bytes a second, by name.

    ``seconds``: how long each is tried.
    """
    command = [sys.executable, "-m", "benchmarks.roofline.rates", repr(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    _library()  # built once, before several processes would
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(n_cores())
    ]
    for process in running:
        assert process.stdout is not None
        while process.stdout.readline() not in (_READY, ""):
            pass
    start = repr(time.time() + 0.5)  # of the first phase, the same for all
    found = [json.loads(process.communicate(start)[0].splitlines()[-1]) for process in running]
    return {name: sum(one[name] for one in found) for name in found[0]}


def best(rates: dict[str, float], kind: str) -> float:
    """The best of the rates whose name begins with ``kind``."""
    return max(rate for name, rate in rates.items() if name.startswith(f"{kind} "))


def bandwidth(rates: dict[str, float], n_bytes: float) -> float:
    """Bytes a second of all cores where each has a working set of ``n_bytes``, by the next larger triad."""
    sizes = [size for size in TRIAD_BYTES if size >= n_bytes] or [TRIAD_BYTES[-1]]
    return rates[f"triad {sizes[0]}"]


def _one_core(seconds: float) -> dict[str, float]:
    """Measured phase by phase, all processes in the same phase at the same time."""
    torch.set_num_threads(1)
    phases = [*_phases(), *_compiled_phases()]
    print(_READY, end="", flush=True)
    start = float(sys.stdin.read())
    found: dict[str, float] = {}
    for number, (name, measure_rate) in enumerate(phases):
        time.sleep(max(0.0, start + number * (seconds + 0.2) - time.time()))
        found[name] = measure_rate(seconds)
    return found


def _best_of(work: Callable[[], object], amount: float, seconds: float) -> float:
    best_seconds, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        work()
        best_seconds = min(best_seconds, time.perf_counter() - started)
    return amount / best_seconds


def _phases() -> Iterator[tuple[str, Callable[[float], float]]]:
    """Rates by library calls: multiplications and additions, elements, bytes a second."""
    generator = torch.Generator().manual_seed(0)
    for m, k, n in _PRODUCTS:
        a, b, c = (torch.randn(shape, generator=generator) for shape in ((m, k), (k, n), (m, n)))
        flops = 2.0 * m * k * n
        yield f"product torch {m}×{k}×{n}", partial(_best_of, partial(torch.mm, a, b, out=c), flops)
        x, y, z = (value.numpy() for value in (a, b, c))
        yield f"product numpy {m}×{k}×{n}", partial(_best_of, partial(np.matmul, x, y, out=z), flops)
    values = torch.randn(8192, generator=generator)
    for name in _TRANSCENDENTAL:
        function = partial(getattr(torch, name), values, out=torch.empty_like(values))
        yield f"transcendental torch {name}", partial(_best_of, function, float(values.numel()))
    for size in TRIAD_BYTES:
        a, b, c = (torch.randn(size // 12, generator=generator) for _ in range(3))
        repeats = max(1, 2**21 // size)

        def triad(a: torch.Tensor = a, b: torch.Tensor = b, c: torch.Tensor = c, n: int = repeats) -> None:
            for _ in range(n):
                torch.add(a, b, alpha=2.0, out=c)

        yield f"triad {size}", partial(_best_of, triad, float(size // 12 * 12 * repeats))


def _compiled_phases() -> Iterator[tuple[str, Callable[[float], float]]]:
    """Rates that take a compiler; none where evometa's kernels cannot be compiled either."""
    library = _library()
    if library is None:
        return
    names = {
        "multiply-add registers": "multiply_add_rate",
        "transcendental native exp": "exponential_rate",
        "transcendental native sigmoid": "logistic_rate",
    }
    for name, symbol in names.items():
        function = getattr(library, symbol)
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double]
        yield name, function


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


if __name__ == "__main__":
    print(json.dumps(_one_core(float(sys.argv[1]))))
