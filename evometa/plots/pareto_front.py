"""The Pareto front: every pair of objectives, how the front moved, and where hand-designed rules stand."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evometa.evolution.front import non_dominated
from evometa.plots.labels import label_points
from evometa.plots.pareto_points import FloatArray, ParetoFrontData
from evometa.plots.scales import in_words, is_ratio, scale_axis
from evometa.plots.style import (
    GREY,
    HALO,
    INK,
    STROKES,
    family_mark,
    house_style,
    legend_beside,
    new_figure,
)

_FADE = ("#d3e3f0", "#b4cfe5", "#92b9d9", "#6fa2cc")


def staircase(values: FloatArray) -> FloatArray:
    """The corners of the region that points ``(n, 2)`` dominate, from left to right, ``(m, 2)``."""
    members = values[non_dominated(values)]
    members = members[np.argsort(members[:, 0])]
    corners = np.repeat(members, 2, axis=0)
    corners[1:, 1] = corners[:-1, 1].copy()  # go right at the height of the point before, then down
    return corners[1:]


def shown_values(data: ParetoFrontData) -> FloatArray:
    """What the axes must hold, ``(n, M)``: fronts, landmarks, and genomes no worse than these in quality.

    Quality is every objective that is a ratio. Genomes that failed would leave no room for the others.
    """
    named = [data.values, *data.earlier.values(), *(mark.values[None] for mark in data.landmarks)]
    values = np.concatenate(named)
    ratios = [k for k, objective in enumerate(data.objectives) if is_ratio(objective)]
    competitive = (data.others[:, ratios] <= values[:, ratios].max(axis=0)).all(axis=1)
    return np.concatenate([values, data.others[competitive]])


@house_style()
def plot_pareto_front(data: ParetoFrontData) -> Figure:
    """One panel for each pair of objectives: the first of the pair upwards, the second to the right."""
    n = len(data.objectives) - 1
    entries = list(_legend(data))
    size = (7.6, max(4.9, 1.2 + 0.19 * len(entries))) if n == 1 else (2.4 + 3.0 * n, 1.4 + 2.6 * n)
    figure = new_figure(*size, *_titles(data))
    cells = figure.add_gridspec(n, n)
    panels = {(i, j): figure.add_subplot(cells[i, j - 1]) for i, j in combinations(range(n + 1), 2)}
    for (i, j), axes in panels.items():
        _draw_pair(axes, data, j, i)
        if j - 1 > i:  # the panels left of it and below it carry the labels
            axes.set(xlabel="", ylabel="")
    if n == 1:
        legend_beside(panels[0, 1], entries)
    else:
        empty = figure.add_subplot(cells[n - 1, 0])
        empty.set_axis_off()
        empty.legend(handles=entries, loc="lower left", ncols=2, fontsize=7.5)
    for (i, j), axes in panels.items():
        _label_members(axes, data, j, i)
    if n == 1:  # in a grid the legend names the landmarks' shapes: there is no room for text
        points = np.array([mark.values[[1, 0]] for mark in data.landmarks]).reshape(-1, 2)
        label_points(panels[0, 1], points, [mark.label for mark in data.landmarks])
    return figure


def _titles(data: ParetoFrontData) -> tuple[str, str]:
    plural = "s" if data.n_generations > 1 else ""
    knee = ", ".join(in_words(o, v) for o, v in zip(data.objectives, data.values[data.knee], strict=True))
    measured = "the final evaluation on fresh tasks" if data.final else "the last generation"
    return (
        f"Pareto front after {data.n_generations} generation{plural}: lower left is better",
        f"Knee {data.ids[data.knee]} ({data.families[data.knee]}): {knee}. The front's values are from "
        f"{measured} (meta_valid), those of earlier fronts and other genomes from their own generation.",
    )


def _draw_pair(axes: Axes, data: ParetoFrontData, x: int, y: int) -> None:
    for which, k in (("x", x), ("y", y)):
        scale_axis(axes, which, data.objectives[k], shown_values(data)[:, k])  # type: ignore[arg-type]
    _draw_others(axes, data, x, y)
    for shade, values in zip(_FADE[-len(data.earlier) :], data.earlier.values(), strict=False):
        _draw_staircase(axes, values[:, [x, y]], shade, 1.3)
    _draw_staircase(axes, data.values[:, [x, y]], INK, 1.5)
    beyond = sum(not _is_inside(axes, point) for point in data.others[:, [x, y]])
    if beyond:
        axes.set_title(f"other genomes off the scale: {beyond}", loc="right", fontsize=7, color=GREY)
    for axis_line, k in ((axes.axvline, x), (axes.axhline, y)):
        if is_ratio(data.objectives[k]):
            axis_line(1.0, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1.2)
    for mark in data.landmarks:
        shape = family_mark(mark.family).marker
        axes.plot(mark.values[x], mark.values[y], shape, ms=6, mfc="white", mec=GREY, mew=1.1, zorder=3)
    for family, values in zip(data.families, data.values, strict=True):
        style = family_mark(family)
        axes.plot(
            values[x], values[y], style.marker, ms=8, color=style.colour, mec="white", mew=0.5, zorder=5
        )
    for index, role in _rings(data).items():
        axes.plot(
            *data.values[index, [x, y]], "o", ms=14, mfc="none", mec=STROKES[role].colour, mew=1.6, zorder=4
        )


def _draw_others(axes: Axes, data: ParetoFrontData, x: int, y: int) -> None:
    """All genomes that are not on the front, pale, as their families are drawn."""
    for family, places in data.places_of_others.items():
        style, points = family_mark(family), data.others[places]
        axes.scatter(
            points[:, x],
            points[:, y],
            s=13,
            marker=style.marker,
            color=style.colour,
            alpha=0.45,
            linewidths=0,
            zorder=1.5,
        )


def _is_inside(axes: Axes, point: FloatArray) -> bool:
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    return bool(left <= point[0] <= right and bottom <= point[1] <= top)


def _draw_staircase(axes: Axes, points: FloatArray, colour: str, width: float) -> None:
    """The border of what ``points`` dominate, carried on to the panel's upper and right edge."""
    corners = staircase(points)
    top, right = axes.get_ylim()[1], axes.get_xlim()[1]
    line = np.concatenate([[[corners[0, 0], top]], corners, [[right, corners[-1, 1]]]])
    axes.plot(line[:, 0], line[:, 1], color=colour, linewidth=width, zorder=2, solid_joinstyle="miter")


def _label_members(axes: Axes, data: ParetoFrontData, x: int, y: int) -> None:
    """``best`` and ``knee`` below their points, where the front leaves room."""
    for index, role in _rings(data).items():
        axes.annotate(
            "best, knee" if data.best == data.knee else role,
            (data.values[index, x], data.values[index, y]),
            xytext=(0, -9),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7.5,
            color=STROKES[role].colour,
            path_effects=HALO,
            zorder=6,
        )


def _rings(data: ParetoFrontData) -> dict[int, str]:
    """Which members are ringed, and as what."""
    return {data.knee: "knee", data.best: "best"}


def _legend(data: ParetoFrontData) -> Iterator[Line2D]:
    def entry(label: str, **style: object) -> Line2D:
        return Line2D([], [], label=label, **{"linestyle": "none", **style})  # type: ignore[arg-type]

    yield entry("front", color=INK, linestyle="-", linewidth=1.5)
    for family in dict.fromkeys(data.families):
        mark = family_mark(family)
        yield entry(f"  {family}", marker=mark.marker, color=mark.colour, markersize=7, mec="white")
    names = {"knee": "knee", "best": f"best {data.objectives[0].name}"}
    if data.best == data.knee:
        names["best"] += " and knee"
    for role in _rings(data).values():
        ring = {"marker": "o", "markersize": 10, "mfc": "none", "mew": 1.6}
        yield entry(names[role], mec=STROKES[role].colour, **ring)
    for shade, generation in zip(_FADE[-len(data.earlier) :], data.earlier, strict=False):
        yield entry(f"front of generation {generation}", color=shade, linestyle="-", linewidth=1.3)
    hollow = {"mfc": "white", "mec": GREY, "markersize": 6}
    if len(data.objectives) == 2 and data.landmarks:
        yield entry("tuned hand-designed rule" if data.final else "seed genome", marker="o", **hollow)
    elif len(data.objectives) > 2:
        kind = "tuned" if data.final else "seed"
        for landmark in data.landmarks:
            yield entry(f"{kind} {landmark.label}", marker=family_mark(landmark.family).marker, **hollow)
    if len(data.others):
        yield entry("other genomes")
    for family in data.places_of_others:
        mark = family_mark(family)
        yield entry(f"  {family}", marker=mark.marker, color=mark.colour, markersize=4, alpha=0.6)
    ratios = [objective for objective in data.objectives if is_ratio(objective)]
    if ratios:
        parity = ratios[0].unit.removeprefix("×").strip()
        yield entry(f"as good as {parity}", color=GREY, linestyle=(0, (1, 2)), linewidth=0.8)
