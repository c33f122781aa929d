"""Which devices a campaign runs on, and with how many workers."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from evometa.errors import ConfigError
from evometa.inner.plan import GPU_WORKERS


def pick_devices(wanted: str) -> tuple[torch.device, ...]:
    """The devices of ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``cuda:N,M,…``.

    Raises ConfigError for a GPU that is not there or is named twice.
    """
    if wanted == "auto":
        return (torch.device("cuda" if torch.cuda.is_available() else "cpu"),)
    kind, _, numbers = wanted.partition(":")
    if kind != "cuda":
        return (torch.device(wanted),)
    n_gpus = torch.cuda.device_count()
    if n_gpus == 0:
        raise ConfigError(f"execution.device = {wanted!r}, but torch finds no CUDA GPU; use 'auto' or 'cpu'")
    if not numbers:
        return (torch.device("cuda"),)
    indices = [int(number) for number in numbers.split(",")]
    if max(indices) >= n_gpus:
        raise ConfigError(
            f"execution.device = {wanted!r}, but torch finds {n_gpus} GPU(s), 'cuda:0' the first"
        )
    if len(set(indices)) < len(indices):
        raise ConfigError(f"execution.device = {wanted!r} names a GPU twice; name each once")
    return tuple(torch.device("cuda", index) for index in indices)


def pick_device(wanted: str) -> torch.device:
    """The first of :func:`pick_devices`."""
    return pick_devices(wanted)[0]


def pick_workers(wanted: int, devices: torch.device | Sequence[torch.device]) -> int:
    """``wanted``, or for 0 one worker a core, of GPUs up to four for each. ConfigError for too few."""
    listed = [devices] if isinstance(devices, torch.device) else list(devices)
    if wanted == 0:
        n_cores = os.cpu_count() or 1
        if listed[0].type == "cpu":
            return n_cores
        return len(listed) * max(1, min(GPU_WORKERS, n_cores // len(listed)))
    if wanted < len(listed):
        raise ConfigError(
            f"execution.workers = {wanted}, but execution.device names {len(listed)} GPUs; "
            "use 0, or at least one worker a GPU"
        )
    return wanted
