"""Loss curves of a bench: each entrant on each task, with what its seeds make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from evometa.bench.speedup import DECAY, smooth
from evometa.plots.entrants import Entrant, strokes
from evometa.plots.style import Stroke, house_style, label_panel, new_figure
from evometa.tasks.metric import Metric

FloatArray = npt.NDArray[np.float64]

_MAX_COLUMNS = 3


@dataclass(frozen=True)
class LossCurve:
    """One entrant's smoothed loss on a task; arrays have K + 1 points, in the unit of the loss.

    Attributes:
        low, median, high: over the seeds: least, middle and largest; infinite once as many have diverged.
        n_diverged: seeds whose run did not stay finite.
    """

    entrant: Entrant
    low: FloatArray
    median: FloatArray
    high: FloatArray
    n_diverged: int


@dataclass(frozen=True)
class LossPanel:
    """The curves on one task, and the unit that its family tells its losses in, if any."""

    task: str
    n_seeds: int
    curves: list[LossCurve]
    metric: Metric | None = None


def loss_panel_data(
    task: str, entrants: Sequence[Entrant], losses: Sequence[FloatArray], metric: Metric | None = None
) -> LossPanel:
    """A panel from each entrant's losses ``(seeds, K + 1)``, as many seeds for all; K may differ.

    Raises ValueError where the numbers of seeds differ.
    """
    counts = {len(runs) for runs in losses}
    if len(counts) != 1:
        raise ValueError(f"entrants have {sorted(counts)} seeds, expected as many for each")
    curves = []
    for one, runs in zip(entrants, losses, strict=True):
        smoothed = smooth(runs)
        # Observed values rather than interpolated ones: an infinite loss has no halfway.
        low, median, high = np.quantile(smoothed, (0.0, 0.5, 1.0), axis=0, method="inverted_cdf")
        curves.append(LossCurve(one, low, median, high, int(np.isinf(smoothed[:, -1]).sum())))
    return LossPanel(task, counts.pop(), curves, metric)


@house_style()
def plot_loss_curves(panels: Sequence[LossPanel]) -> Figure:
    """One panel a task; the entrants are those of the first panel, in its order."""
    n_columns = min(_MAX_COLUMNS, len(panels))
    n_rows = -(-len(panels) // n_columns)
    entrants = [curve.entrant for curve in panels[0].curves]
    stroke_of = dict(zip(entrants, strokes(entrants), strict=True))
    figure = new_figure(
        7.6 if n_columns == 1 else 3.7 * n_columns,
        1.5 + 2.7 * n_rows,
        "Loss during training, task by task",
        f"Line: median over {panels[0].n_seeds} seeds; band: from the lowest to the highest of them. Losses "
        f"are moving averages (decay {DECAY:g} a step); a line ends where more than half of its seeds have "
        "diverged.",
    )
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, panel, stroke_of)
    for axes in list(grid.flat)[len(panels) :]:
        axes.remove()
    handles = [
        Line2D([], [], color=stroke.colour, ls=stroke.dash, lw=stroke.width, label=one.label)
        for one, stroke in stroke_of.items()
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=min(len(handles), 2 + n_columns))
    return figure


def _draw_panel(axes: Axes, panel: LossPanel, stroke_of: dict[Entrant, Stroke]) -> None:
    for curve in panel.curves:
        stroke = stroke_of[curve.entrant]
        steps = np.arange(len(curve.median))
        low, median, high = (_drawable(values) for values in (curve.low, curve.median, curve.high))
        top = 3 if curve.entrant.kind == "genome" else 2
        axes.fill_between(steps, low, high, color=stroke.colour, alpha=0.12, linewidth=0, zorder=top - 1)
        axes.plot(steps, median, color=stroke.colour, ls=stroke.dash, lw=stroke.width, zorder=top)
    axes.set_yscale("log", nonpositive="mask")
    axes.set_ylim(*_limits(panel))
    axes.set_xlim(0, max(len(curve.median) for curve in panel.curves) - 1)
    axes.set_xlabel("inner step")
    axes.set_ylabel("loss")
    if panel.metric is not None:
        _draw_scale(axes, panel.metric)
    label_panel(axes, panel.task)
    lost = [f"{curve.entrant.label} {curve.n_diverged}" for curve in panel.curves if curve.n_diverged]
    if lost:
        text = f"diverged, of {panel.n_seeds}:\n" + "\n".join(lost)
        axes.text(0.98, 0.97, text, transform=axes.transAxes, ha="right", va="top", fontsize=7)


def _draw_scale(axes: Axes, metric: Metric) -> None:
    """On the right, round values of ``metric`` where their losses are."""
    values = MaxNLocator(5).tick_values(*sorted(metric.of(axes.get_ylim())))
    beside = axes.secondary_yaxis("right")
    beside.set_yticks(metric.loss_at(values), [f"{value:g}" for value in values])
    beside.minorticks_off()
    beside.set_ylabel(metric.title)


def _limits(panel: LossPanel) -> tuple[float, float]:
    """From below the lowest median to above the highest first loss: what rises beyond it is cut off."""
    shown = np.concatenate([curve.median for curve in panel.curves])
    shown = shown[np.isfinite(shown) & (shown > 0)]
    if len(shown) == 0:
        return 0.1, 1.0
    start = max(curve.median[0] for curve in panel.curves if np.isfinite(curve.median[0]))
    return 0.8 * float(shown.min()), 1.25 * float(start)


def _drawable(values: FloatArray) -> FloatArray:
    return np.asarray(np.where(np.isfinite(values), values, np.nan))
