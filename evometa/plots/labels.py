"""Text beside points that does not cover other text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from scipy.optimize import isotonic_regression

from evometa.plots.style import GREY, HALO

FloatArray = npt.NDArray[np.float64]

#: Points nearer than this in x share a column of labels, inches.
_COLUMN_INCHES = 0.45
_LINE_INCHES = 0.145
_GAP_INCHES = 0.16
_POINTS_PER_INCH = 72.0


def spread(wanted: FloatArray, gap: float, low: float, high: float) -> FloatArray:
    """Positions ``(n,)`` as near to ``wanted`` as can be, in the same order and at least ``gap`` apart.

    They stay inside [low, high], closer together where it is too short for them all. Least squares under
    order constraints is an isotonic regression (Best & Chakravarti 1990).
    """
    n = len(wanted)
    if n == 0:
        return np.empty(0)
    gap = min(gap, (high - low) / max(1, n - 1))
    order = np.argsort(wanted, kind="stable")
    offsets = gap * np.arange(n)
    free = isotonic_regression(np.asarray(wanted)[order] - offsets).x
    placed = np.empty(n)
    placed[order] = np.clip(free, low, high - offsets[-1]) + offsets
    return placed


def columns(x: FloatArray, width: float) -> list[list[int]]:
    """Indices of ``x`` ``(n,)`` from left to right, cut where neighbours lie more than ``width`` apart."""
    groups: list[list[int]] = []
    for index in np.argsort(x, kind="stable").tolist():
        if groups and x[index] - x[groups[-1][-1]] <= width:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def label_points(axes: Axes, points: FloatArray, texts: Sequence[str]) -> None:
    """Write ``texts`` to the right of ``points`` ``(n, 2)``, staggered in height, a line to each.

    Limits and scales of ``axes`` must be final.
    """
    figure = axes.get_figure(root=True)
    if figure is None or len(points) == 0:
        return
    figure.draw_without_rendering()  # settles the layout, which decides how far apart points are
    inches = axes.transData.transform(points) / figure.dpi
    (_, low), (_, high) = axes.transAxes.transform([(0, 0), (1, 1)]) / figure.dpi
    for group in columns(inches[:, 0], _COLUMN_INCHES):
        heights = spread(inches[group, 1], _LINE_INCHES, low + _LINE_INCHES / 2, high)
        edge = inches[group, 0].max() + _GAP_INCHES
        for index, height in zip(group, heights, strict=True):
            offset = (np.array([edge, height]) - inches[index]) * _POINTS_PER_INCH
            axes.annotate(
                texts[index],
                points[index],
                xytext=(offset[0], offset[1]),
                textcoords="offset points",
                ha="left",
                va="center",
                fontsize=7.5,
                arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3},
                path_effects=HALO,
                zorder=6,
            )
