"""Trains with the standalone files of a folder where nothing but PyTorch can be imported.

:func:`command` writes ``<name>.trained.pt`` beside every ``<name>.py``. Tests import this module too, for
:func:`trained` with the library's own optimizer.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

N_STEPS = 60
HORIZON = 18  # less than a third of the run, so that steps beyond the horizon are compared as well
SHAPES = ((3, 4), (3,), ())
DTYPES = (torch.float32, torch.float64)
#: As in compute_device.py, which cannot be imported where nothing but PyTorch can.
DEVICE = torch.device(os.environ.get("EVOMETA_TEST_DEVICE", "cpu"))
#: What a file must do without.
ABSENT = ("evometa", "numpy", "safetensors")

Make = Callable[..., torch.optim.Optimizer]


def trained(make: Make, dtype: torch.dtype, *, interrupted: bool) -> Tensor:
    """All parameters after each of N_STEPS steps, ``(K, N)``.

    Two groups with options of their own; gradients of many magnitudes; a loss that is missing at times.
    ``interrupted``: half-way the state is saved and read by another optimizer, which goes on.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)

    params = [torch.nn.Parameter(drawn(shape)) for shape in SHAPES]

    def made() -> torch.optim.Optimizer:
        groups = [{"params": params[:1], "weight_decay": 1e-3}, {"params": params[1:], "lr": 0.5}]
        return make(groups, lr=1.0, horizon=HORIZON)

    optimizer = made()
    visited = []
    for k in range(N_STEPS):
        for parameter in params:
            parameter.grad = drawn(tuple(parameter.shape)) * 10.0 ** (k % 5 - 3)
        loss = None if k % 10 == 7 else drawn(()).abs()
        optimizer.step(loss=loss)  # type: ignore[call-arg]
        visited.append(torch.cat([parameter.detach().flatten() for parameter in params]))
        if interrupted and k == N_STEPS // 2:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            optimizer = made()
            optimizer.load_state_dict(torch.load(file, weights_only=True))
    return torch.stack(visited)


def command(folder: Path) -> list[str]:
    """What trains with every file of a folder; PyTorch itself takes NumPy in if it finds it."""
    start = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({ABSENT!r}))\n"
        f"runpy.run_path({__file__!r}, run_name='__main__')"
    )
    return [sys.executable, "-I", "-c", start, str(folder)]


def main(folder: Path) -> None:
    """Train with every file of the folder."""
    sys.path.insert(0, str(folder))
    for path in sorted(folder.glob("*.py")):
        module = importlib.import_module(path.stem)
        after = {str(dtype): trained(module.EvolvedOptimizer, dtype, interrupted=True) for dtype in DTYPES}
        torch.save(after, path.with_suffix(".trained.pt"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
