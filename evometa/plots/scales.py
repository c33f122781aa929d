"""Axes in an objective's own scale."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from evometa.objectives import Objective

FloatArray = npt.NDArray[np.float64]

#: Which multiples of powers of ten get a tick: the first row that gives no more than _MAX_TICKS.
_MULTIPLES = ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1,))
_MAX_TICKS = 8
#: Smallest extent of an axis, on its scale: what a single point is shown in.
_LEAST_EXTENT = 0.2


def scale_axis(axes: Axes, which: Literal["x", "y"], objective: Objective, values: FloatArray) -> None:
    """Give an axis the scale of ``objective``, its name and unit, and limits around ``values`` ``(n,)``."""
    axis: Axis = axes.xaxis if which == "x" else axes.yaxis
    set_scale = axes.set_xscale if which == "x" else axes.set_yscale
    set_limits = axes.set_xlim if which == "x" else axes.set_ylim
    if objective.scale == "log":
        set_scale("log", nonpositive="mask")
        values = values[values > 0]
    elif objective.scale == "log1p":
        set_scale("function", functions=(np.log1p, np.expm1))
    if len(values) == 0:
        values = np.ones(1)
    low, high = _limits(axis, values)
    set_limits(low, high)
    if objective.scale != "linear":
        axis.set_major_locator(FixedLocator(_ticks(low, high, objective)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_label_text(label(objective))


def label(objective: Objective) -> str:
    """Name and unit."""
    return f"{objective.name} ({objective.unit})" if objective.unit else objective.name


def in_words(objective: Objective, value: float) -> str:
    """A value with its name and unit."""
    return f"{objective.name} {value:.3g} {objective.unit}".rstrip()


def is_ratio(objective: Objective) -> bool:
    """Whether 1 means parity with what the unit names (``× tuned Adam``)."""
    return objective.unit.startswith("×")


def _limits(axis: Axis, values: FloatArray) -> tuple[float, float]:
    """Limits with a margin, equal on the axis' own scale."""
    transform = axis.get_transform()
    ends = transform.transform(np.array([values.min(), values.max()]))
    extent = max(float(ends[1] - ends[0]), _LEAST_EXTENT)
    missing = (extent - (ends[1] - ends[0])) / 2
    padded = np.array([ends[0] - missing - 0.15 * extent, ends[1] + missing + 0.1 * extent])
    low, high = transform.inverted().transform(padded)
    return float(low), float(high)


def log_ticks(low: float, high: float, most: int = _MAX_TICKS) -> list[float]:
    """Round numbers between the positive limits of a logarithmic axis, few enough to be read."""
    for multiples in _MULTIPLES:
        ticks = [m * 10.0**e for e in range(-12, 13) for m in multiples if low <= m * 10.0**e <= high]
        if len(ticks) <= most:
            break
    return ticks


def _ticks(low: float, high: float, objective: Objective) -> list[float]:
    """Round numbers between the limits, few enough to be read; with 0 on an axis that reaches it."""
    starts = [0.0] if objective.scale == "log1p" and low <= 0 else []
    least = max(low, 1.0) if objective.scale == "log1p" else low
    ticks = starts + log_ticks(least, high, _MAX_TICKS - len(starts))
    if len(ticks) < 3:  # a short stretch of the scale
        ticks = [float(tick) for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
    return ticks
