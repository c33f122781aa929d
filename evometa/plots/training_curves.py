"""Training curves on fresh tasks: what the evolved optimizers do there, beside tuned hand-designed ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.lib.stride_tricks import sliding_window_view

from evometa.campaign.results import campaign_config, read_front
from evometa.inner.evaluate import evaluate
from evometa.inner.record import Status, UnrollRecord
from evometa.plots.contestants import (
    CPU,
    Contestant,
    Role,
    best_rival,
    fresh_tasks,
    highlighted,
    tuned_rule,
)
from evometa.plots.style import STROKES, house_style, label_panel, new_figure
from evometa.store import CampaignStore

FloatArray = npt.NDArray[np.float64]

N_TASKS = 16
#: Shares of the tasks between which a band lies, and their middle.
QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Curve:
    """One contestant on T tasks, relative to each task's initial loss; arrays have K + 1 points.

    Attributes:
        label, role: of the contestant.
        low, median, high: quantiles over the tasks; a run counts as infinite once it has diverged. The
            last point is what the objectives call the final loss.
        n_diverged: runs that did not complete.
    """

    label: str
    role: Role
    low: FloatArray
    median: FloatArray
    high: FloatArray
    n_diverged: int


@dataclass(frozen=True)
class TrainingPanel:
    """The curves on ``n_tasks`` tasks of ``source``; each point is the mean of the last ``window`` losses."""

    source: str
    n_tasks: int
    horizon: int
    window: int
    curves: list[Curve]


def training_curves_data(store: CampaignStore, n_tasks: int = N_TASKS) -> list[TrainingPanel]:
    """Best, knee, tuned Adam and the best other tuned rule, trained on fresh meta_valid tasks.

    One panel a task source. Raises StoreError before the first generation.
    """
    contestants = highlighted(store, read_front(store))
    contestants.append(tuned_rule(store, "adam", "adam"))
    if rival := best_rival(store):
        contestants.append(tuned_rule(store, rival, "other"))
    panels = []
    for number, source in enumerate(campaign_config(store).tasks):
        wanted = fresh_tasks(store, "training_curves", number, n_tasks)
        records = [evaluate([one.candidates[number]], wanted, CPU) for one in contestants]
        curves = [_curve(one, record) for one, record in zip(contestants, records, strict=True)]
        panels.append(TrainingPanel(source.use, n_tasks, source.horizon, records[0].final_window, curves))
    return panels


def relative_losses(record: UnrollRecord) -> FloatArray:
    """Losses of the first candidate ``(T, K + 1)`` over each task's initial loss.

    Each point is the mean of the last ``final_window`` losses, as far as there are so many; floored at the
    noise floor; infinite from the first loss on that is not finite.
    """
    losses = record.losses[0]
    lost = np.logical_or.accumulate(~np.isfinite(losses), axis=1)
    window = min(record.final_window, losses.shape[1])
    padded = np.pad(np.where(lost, np.inf, losses), ((0, 0), (window - 1, 0)), constant_values=np.nan)
    means = np.nanmean(sliding_window_view(padded, window, axis=1), axis=-1)
    floored = np.maximum(means, record.noise_floor)
    initial = np.where(lost[:, :1], 1.0, floored[:, :1])  # lost from the start: infinite throughout
    return np.asarray(floored / initial)


def _curve(contestant: Contestant, record: UnrollRecord) -> Curve:
    relative = relative_losses(record)
    # Observed values rather than interpolated ones: an infinite loss has no halfway.
    low, median, high = np.quantile(relative, QUANTILES, axis=0, method="inverted_cdf")
    n_diverged = int((record.status != Status.COMPLETE.value).sum())
    return Curve(contestant.label, contestant.role, low, median, high, n_diverged)


@house_style()
def plot_training_curves(panels: list[TrainingPanel]) -> Figure:
    """Median and band of the loss over inner steps, one panel a task source."""
    n_columns = min(2, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = new_figure(
        7.6 if n_columns == 1 else 11.0,
        1.2 + 3.8 * n_rows,
        "Loss during training on fresh meta_valid tasks",
        f"Line: median over {panels[0].n_tasks} tasks; band: 10% to 90% of them. Each loss is relative to "
        "its task's initial loss.",
    )
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, panel)
    for axes in list(grid.flat)[len(panels) :]:
        axes.remove()
    return figure


def _draw_panel(axes: Axes, panel: TrainingPanel) -> None:
    steps = np.arange(panel.horizon + 1)
    for curve in panel.curves:  # the solid line first: dashes on top of it stay visible
        stroke = STROKES[curve.role]
        low, median, high = (_drawable(values) for values in (curve.low, curve.median, curve.high))
        axes.fill_between(steps, low, high, color=stroke.colour, alpha=0.1, linewidth=0)
        for edge in (low, high):
            axes.plot(steps, edge, color=stroke.colour, lw=0.6, alpha=0.5)
        axes.plot(
            steps, median, color=stroke.colour, ls=stroke.dash, lw=stroke.width, label=_label(curve, panel)
        )
    axes.set_yscale("log")
    axes.set_ylim(*_limits(panel))
    axes.set_xlim(0, panel.horizon)
    axes.set_xlabel("inner step")
    axes.set_ylabel("loss ÷ initial loss")
    smoothed = f", mean of the last {panel.window} losses" if panel.window > 1 else ""
    label_panel(axes, f"{panel.source}, {panel.horizon} steps{smoothed}")
    axes.legend(loc="best")


def _label(curve: Curve, panel: TrainingPanel) -> str:
    lost = f" ({curve.n_diverged} of {panel.n_tasks} diverged)" if curve.n_diverged else ""
    return curve.label + lost


def _limits(panel: TrainingPanel) -> tuple[float, float]:
    """What holds every median, and the bands as far as a tenfold beyond: one that explodes is cut off."""
    medians = np.concatenate([[1.0], *(curve.median for curve in panel.curves)])
    medians = medians[np.isfinite(medians)]
    bands = np.concatenate([[1.0], *(np.r_[curve.low, curve.high] for curve in panel.curves)])
    bands = bands[np.isfinite(bands)]
    least, most = medians.min(), medians.max()
    return 0.7 * max(bands.min(), 0.1 * least), 1.4 * min(bands.max(), 10.0 * most)


def _drawable(values: FloatArray) -> FloatArray:
    return np.asarray(np.where(np.isfinite(values), values, np.nan))
