"""Final losses in the units that the field tells them in, for families that have one: PSNR, say."""

from __future__ import annotations

import numpy as np

from evometa.bench.measure import Entry, Results
from evometa.tasks.registry import metric_of


def final_metrics(results: Results, entry: Entry) -> list[float | None]:
    """For each task the mean over seeds of its final losses' metric; None where its family has none.

    A run that diverged counts with its initial loss.
    """
    values: list[float | None] = []
    for task, finals, losses in zip(results.tasks, results.finals(entry), entry.losses, strict=True):
        metric = metric_of(task.family)
        kept = np.where(np.isfinite(finals), finals, losses[:, 0])
        values.append(None if metric is None else float(metric.of(kept).mean()))
    return values


def mean_metrics(results: Results, entry: Entry) -> dict[str, float]:
    """Title of each metric → its mean over the tasks that have it and that ``entry`` was trained on."""
    found: dict[str, list[float]] = {}
    for task, value, on in zip(results.tasks, final_metrics(results, entry), entry.on, strict=True):
        metric = metric_of(task.family)
        if on and metric is not None and value is not None:
            found.setdefault(metric.title, []).append(value)
    return {title: float(np.mean(values)) for title, values in found.items()}
