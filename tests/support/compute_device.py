"""Where tests compute: the device that ``pytest --device NAME`` names, a CPU unless told otherwise."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import torch

#: Set by tests/conftest.py; processes that tests start inherit it.
VARIABLE = "EVOMETA_TEST_DEVICE"
DEVICE = torch.device(os.environ.get(VARIABLE, "cpu"))
ON_CPU = DEVICE.type == "cpu"


def on_device(part: Any) -> Any:
    """Prepared tasks, which are drawn on a CPU, with all their tensors on the device."""
    indices = None if part.indices is None else part.indices.to(DEVICE)
    dtype = part.params.dtype
    return replace(part, tasks=part.tasks.to(DEVICE, dtype), params=part.params.to(DEVICE), indices=indices)
