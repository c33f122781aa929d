"""The machine that a result belongs to."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

#: Instruction sets that matter to what is timed.
_FLAGS = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512vl", "avx512_bf16", "amx_bf16", "asimd")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu() -> dict[str, Any]:
    """The first GPU."""
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "memory_gib": round(found.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }


def describe() -> dict[str, Any]:
    """Processor, caches, instruction sets, memory, system, and the versions of what is compared."""
    fields = _cpu_fields()
    known = set(fields.get("flags", fields.get("Features", "")).split())
    return {
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "family_model_stepping": "/".join(
            fields.get(name, "?") for name in ("cpu family", "model", "stepping")
        ),
        "cores": n_cores(),
        "caches": _caches(),
        "instruction_sets": [flag for flag in _FLAGS if flag in known],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": {name: _version(name) for name in ("evometa", "torch", "jax", "jaxlib", "numpy")},
        "load_average": round(os.getloadavg()[0], 2),
    }


def _cpu_fields() -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo; {} where there is none."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _caches() -> dict[str, str]:
    """Sizes such as ``{"L1 Data": "32K", "L2 Unified": "512K"}``."""
    found = {}
    for folder in sorted(_CACHES.glob("index*")):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found[f"L{level} {kind}"] = size
    return found


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
