"""The bench card as a picture: one page."""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from evometa.bench.card import Card, CardRow, Verdict
from evometa.plots.scales import log_ticks
from evometa.plots.style import GREY, INK, house_style, new_figure

#: Verdict → colour, marker and what it means.
_MARKS: dict[Verdict, tuple[str, str, str]] = {
    "wins": ("#0072b2", "o", "the genome ends lower"),
    "loses": ("#d55e00", "X", "the genome ends higher"),
    "undecided": (GREY, "D", "undecided"),
}
_WIDTH = 8.3
_ROW_INCHES = 0.185
_LINE_INCHES = 0.16
#: Ratios beyond are drawn at the edge.
_MOST = 100.0


@house_style()
def plot_card(card: Card) -> Figure:
    """Facts on top, then every comparison as a point with its interval, then how it was measured."""
    facts = [f"{title}: {text}" for title, text in card.facts.items()]
    facts += [f"search: {card.search}"]
    lines = [line for fact in facts for line in textwrap.wrap(fact, 125, subsequent_indent="    ")]
    foot = textwrap.wrap(card.method, 135)
    groups = list(dict.fromkeys(row.group for row in card.rows))
    n_rows = len(card.rows) + 1.2 * len(groups)
    text_inches = _LINE_INCHES * len(lines) + 0.15
    foot_inches = _LINE_INCHES * len(foot) + 0.2
    axes_inches = _ROW_INCHES * n_rows
    panel_inches = axes_inches + 0.95
    height = 0.65 + text_inches + panel_inches + foot_inches
    figure = new_figure(_WIDTH, height, card.title, card.headline)
    figure.set_layout_engine(None)
    top = height - 0.62
    figure.text(
        0.015, top / height, "\n".join(lines), fontsize=8, va="top", linespacing=1.35, parse_math=False
    )
    figure.text(
        0.015, foot_inches / height, "\n".join(foot), fontsize=7, va="top", color=GREY, linespacing=1.3
    )
    bottom = foot_inches + 0.75
    axes = figure.add_axes((0.46, bottom / height, 0.36, axes_inches / height))
    _draw_rows(axes, card.rows, groups)
    handles = [
        Line2D([], [], color=colour, marker=marker, ls="-", lw=1.4, ms=5, label=text)
        for colour, marker, text in _MARKS.values()
    ]
    figure.legend(handles=handles, loc="lower right", bbox_to_anchor=(0.985, foot_inches / height), ncols=3)
    return figure


def _draw_rows(axes: Axes, rows: tuple[CardRow, ...], groups: list[str]) -> None:
    finite = [value for row in rows for value in (row.ratio.low, row.ratio.high)]
    left = 0.8 * max(1 / _MOST, min([0.5, *finite]))
    right = 1.25 * min(_MOST, max([2.0, *finite]))
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.axvline(1.0, color=INK, lw=1.0, zorder=1.5)
    ticks, labels, y = [], [], 0.0
    for group in groups:
        axes.text(-0.02, y, group, transform=axes.get_yaxis_transform(), ha="right", va="center",
                  fontsize=8, fontweight="bold")  # fmt: skip
        y += 1
        for row in (row for row in rows if row.group == group):
            _draw_row(axes, row, y)
            ticks.append(y)
            labels.append(textwrap.shorten(row.name, 58, placeholder="…"))
            y += 1
        y += 0.2
    axes.set_ylim(y - 0.5, -0.6)
    axes.set_yticks(ticks, labels, fontsize=7.5)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(FixedLocator(log_ticks(left, right)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("final loss ÷ the rival's (better ← 1 → worse)", fontsize=8)


def _draw_row(axes: Axes, row: CardRow, y: float) -> None:
    colour, marker, _ = _MARKS[row.verdict]
    left, right = axes.get_xlim()
    low, value, high = (min(max(x, left), right) for x in (row.ratio.low, row.ratio.value, row.ratio.high))
    axes.plot([low, high], [y, y], color=colour, lw=1.4, solid_capstyle="butt", zorder=2)
    axes.plot(value, y, marker, ms=5, color=colour, zorder=3, clip_on=False)
    text = "{} ({}–{})".format(*map(_number, (row.ratio.value, row.ratio.low, row.ratio.high)))
    if row.ratio.value >= 1000:
        text = f"{row.ratio.value:.1e}"
    axes.text(1.03, y, text + (" †" if row.note else ""), transform=axes.get_yaxis_transform(),
              va="center", fontsize=7.5, color=colour)  # fmt: skip


def _number(ratio: float) -> str:
    """Two digits at least."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"
