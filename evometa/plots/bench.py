"""All figures of a bench, and the files they are written to."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from evometa.bench.figures import BenchFigures
from evometa.bench.measure import Entry, Results
from evometa.bench.spec import YARDSTICK
from evometa.errors import BenchError
from evometa.plots.entrants import Entrant
from evometa.plots.loss_curves import LossPanel, loss_panel_data, plot_loss_curves
from evometa.plots.performance_profile import performance_profile_data, plot_performance_profile
from evometa.plots.style import DPI, house_style
from evometa.plots.task_speedups import plot_task_speedups, task_speedups_data
from evometa.tasks.registry import metric_of

#: Baselines in the figure of curves: Adam and the best of the others, for more could not be told apart.
_MOST_RIVALS = 3


def bench_figures(results: Results, found: BenchFigures) -> dict[str, Figure]:
    """File name, without its ending → figure."""
    entrants = [_entrant(entry) for entry in results.entries]
    profile = performance_profile_data(entrants, found.times, measure="inner steps", pool=found.pool)
    drawn = {
        "profile": plot_performance_profile(profile),
        "curves": plot_loss_curves(_panels(results, found)),
    }
    genomes = [
        (_entrant(one.entry), one.speedup)
        for one in found.entrants
        if one.entry.kind == "genome" and one.speedup is not None
    ]
    if genomes:
        data = task_speedups_data(
            [task.label for task in results.tasks],
            [entrant for entrant, _ in genomes],
            [speedup for _, speedup in genomes],
            results.spec.n_seeds,
        )
        drawn["speedups"] = plot_task_speedups(data)
    return drawn


def _panels(results: Results, found: BenchFigures) -> list[LossPanel]:
    rivals = [one for one in found.entrants if one.entry.kind == "baseline" and one.entry.on.all()]
    best = sorted(rivals, key=lambda one: (one.entry.label != YARDSTICK, -one.score))[:_MOST_RIVALS]
    shown = [entry for entry in results.entries if entry.kind == "genome"] + [one.entry for one in best]
    return [
        loss_panel_data(
            task.label,
            [_entrant(entry) for entry in shown],
            [entry.losses[number] for entry in shown],
            metric_of(task.family),
        )
        for number, task in enumerate(results.tasks)
    ]


def _entrant(entry: Entry) -> Entrant:
    if entry.kind == "genome":
        return Entrant(entry.label, "genome")
    return Entrant(entry.label, "adam" if entry.label == YARDSTICK else "rival")


def save(figures: dict[str, Figure], folder: Path) -> list[Path]:
    """Write each figure as PNG into ``folder``; returns the files. Raises BenchError where it cannot."""
    files = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        try:
            with house_style():
                figure.savefig(path, dpi=DPI)
        except OSError as error:
            raise BenchError(f"cannot write to {folder}: {error.strerror}; name another --out") from error
        files.append(path)
    return files
