"""Trainings of baselines kept by joblib.Memory, so that another bench on the same tasks trains nothing.

joblib keeps results as pickles, and reading a pickle runs whatever it says. The folder must therefore be the
user's own: by default it lies in the user's cache (:func:`user_cache`), never beside campaigns or genomes,
which people hand on to one another. A folder that others can write into is refused. One that you got from
somebody else and unpacked is as dangerous, and cannot be told from your own: do not name it as a cache.

Nothing is ever removed; the folder may be deleted at any time.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import joblib
import numpy as np
import numpy.typing as npt
import torch

from evometa import native
from evometa.bench import training
from evometa.bench.baselines import Baseline
from evometa.bench.training import BaselineRun
from evometa.errors import BenchError
from evometa.inner.precision import current_precision
from evometa.inner.record import UnrollRecord
from evometa.inner.task_set import TaskRequest
from evometa.tasks.registry import TASKS

#: What is stored of a training: plain arrays by name.
Arrays = Mapping[str, npt.NDArray[np.generic]]


def user_cache() -> Path:
    """Where trainings are kept unless told otherwise: a folder in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "evometa" / "bench"


def trained(
    baseline: Baseline,
    rates: Sequence[float],
    wanted: TaskRequest,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    cache: Path | None = None,
) -> BaselineRun:
    """:func:`evometa.bench.training.train`, or what it gave when it was last asked the same.

    ``cache`` is the user's own folder; None keeps and reads nothing. Tasks that do not come with evometa are
    trained on every time: their code may change under the same name. Seconds are those of the training that
    was kept. Raises what ``train`` does, and BenchError for a folder that cannot be used.
    """
    if cache is None or wanted.use not in TASKS.built_in:
        return training.train(baseline, rates, wanted, device, dtype)
    baseline.check()
    _check_folder(cache)
    memory = joblib.Memory(cache, verbose=0)
    remembered = memory.cache(_arrays, ignore=["baseline", "rates", "wanted", "device", "dtype"])
    key = training_key(baseline, rates, wanted, device, dtype)
    return _run(baseline.name, rates, remembered(key, baseline, rates, wanted, device, dtype))


def training_key(
    baseline: Baseline,
    rates: Sequence[float],
    wanted: TaskRequest,
    device: torch.device,
    dtype: torch.dtype,
) -> str:
    """All that a training depends on, as JSON: what is asked for, versions, and how this machine computes."""
    versions = {name: importlib.metadata.version(name) for name in ("evometa", "torch", "scikit-learn")}
    versions["python"] = platform.python_version()  # the task family "text" reads what Python ships
    on_gpu = device.type == "cuda"
    facts = {
        "baseline": asdict(baseline),
        "rates": list(rates),
        "tasks": asdict(wanted),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{device.type} {platform.machine()}",
        "dtype": str(dtype),
        "precision": current_precision(),
        "kernels": native.enabled(),
        "versions": versions | baseline.versions(),
    }
    return json.dumps(facts, sort_keys=True)


def _check_folder(cache: Path) -> None:
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = cache.stat()
    except OSError as error:
        raise BenchError(f"cache folder {str(cache)!r} cannot be used: {error.strerror}") from error
    if found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
        raise BenchError(
            f"others can write into the cache folder {str(cache)!r}, and reading it would run what they put "
            "there: name a folder of your own"
        )


def _arrays(
    key: str,
    baseline: Baseline,
    rates: Sequence[float],
    wanted: TaskRequest,
    device: torch.device,
    dtype: torch.dtype,
) -> Arrays:
    """What joblib keeps under ``key``: a training as plain arrays."""
    run = training.train(baseline, rates, wanted, device, dtype)
    figures = ("seconds", "optimizer_seconds", "state_bytes_per_param")
    record = {field.name: np.asarray(getattr(run.record, field.name)) for field in fields(UnrollRecord)}
    return record | {name: np.asarray(getattr(run, name)) for name in figures}


def _run(baseline: str, rates: Sequence[float], kept: Arrays) -> BaselineRun:
    """The inverse of :func:`_arrays`."""
    record = UnrollRecord(
        losses=kept["losses"].astype(np.float64),
        valid_losses=kept["valid_losses"].astype(np.float64),
        status=kept["status"].astype(np.str_),
        final_window=int(kept["final_window"].item()),
        noise_floor=float(kept["noise_floor"].item()),
        descriptions=tuple(str(line) for line in kept["descriptions"]),
        family=str(kept["family"].item()),
    )
    return BaselineRun(
        baseline=baseline,
        rates=tuple(rates),
        record=record,
        seconds=float(kept["seconds"].item()),
        optimizer_seconds=float(kept["optimizer_seconds"].item()),
        state_bytes_per_param=float(kept["state_bytes_per_param"].item()),
    )
