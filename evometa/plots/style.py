"""The one house style: canvas, palette, marks of rule families and of the roles that curves play.

Figures are built without pyplot, so nothing global changes and no display is needed; ``house_style`` sets
matplotlib's parameters for the time of a call only. No meaning rests on colour alone: whatever differs in
colour differs in shape or dash as well. Palette: Okabe & Ito 2008, told apart in every common form of
colour blindness.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.typing import LineStyleType

from evometa.rules.registry import RULES

DPI = 150
INK = "#222222"
GREY = "#767676"
PALE = "#c4c4c4"

#: Okabe & Ito's palette without black and without yellow, which is too light for lines on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
#: One more or less than colours in any multiple, so that the pairs do not repeat for many families.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "8", "d")

_HOUSE = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "font.family": "DejaVu Sans",  # comes with matplotlib: a figure looks the same everywhere
    "font.size": 8.5,
    "grid.color": "#ebebeb",
    "grid.linewidth": 0.7,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.7,
    "svg.hashsalt": "evometa",  # equal figures give equal files
    "text.color": INK,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
}
_MARGIN_INCHES = 0.12
_HEADLINE_INCHES = 0.3
_LINE_INCHES = 0.165
_NOTE_INCHES = 0.2
_LETTERS_PER_INCH = 15.5

#: White around the letters: text stays readable on top of lines.
HALO = (withStroke(linewidth=2.5, foreground="white"),)


@contextmanager
def house_style() -> Iterator[None]:
    """matplotlib's defaults, whatever the user's own settings are, with the house's on top."""
    with matplotlib.style.context(["default", _HOUSE]):
        yield


def new_figure(width: float, height: float, headline: str, detail: str) -> Figure:
    """A canvas of ``width`` × ``height`` inches that says what there is to be seen.

    ``detail`` stands in small print under the headline: how it was obtained, how to read it.
    """
    lines = textwrap.wrap(detail, int(_LETTERS_PER_INCH * width))
    top = _MARGIN_INCHES + _HEADLINE_INCHES + _LINE_INCHES * len(lines)
    rect = (0, _NOTE_INCHES / height, 1, 1 - (top + _NOTE_INCHES) / height)
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(rect=rect, w_pad=0.09))
    x = _MARGIN_INCHES / width
    figure.text(x, 1 - 0.1 / height, headline, fontsize=11, fontweight="bold", va="top")
    figure.text(x, 1 - 0.34 / height, "\n".join(lines), fontsize=8, color=GREY, va="top", linespacing=1.35)
    return figure


def set_note(figure: Figure, note: str) -> None:
    """A small line in the lower right corner: whose figure this is."""
    width, height = figure.get_size_inches()
    figure.text(1 - _MARGIN_INCHES / width, 0.06 / height, note, fontsize=7, color=GREY, ha="right")


@dataclass(frozen=True)
class Mark:
    """How members of one rule family are drawn."""

    colour: str
    marker: str


def family_mark(family: str) -> Mark:
    """Colour and shape of a rule family: the same in every figure of every campaign."""
    names = RULES.names()
    index = names.index(family) if family in names else len(names)
    return Mark(PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)])


@dataclass(frozen=True)
class Stroke:
    """How a curve is drawn that plays one role."""

    colour: str
    dash: LineStyleType
    width: float = 1.9


#: What a curve stands for → how it is drawn.
STROKES = {
    "best": Stroke("#d55e00", "-", 2.2),
    "knee": Stroke("#0072b2", (0, (6, 1.5)), 2.2),
    "member": Stroke(PALE, "-", 1.0),
    "adam": Stroke(INK, (0, (1.2, 1.2))),
    "other": Stroke("#009e73", "-."),
}


def label_panel(axes: Axes, text: str) -> None:
    """A panel's own small title."""
    axes.set_title(text, fontsize=9, color=INK)


def legend_beside(axes: Axes, handles: Sequence[Artist]) -> None:
    """A legend to the right of ``axes``, from its top downwards."""
    axes.legend(handles=list(handles), loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0)


def legend_above(axes: Axes, handles: Sequence[Artist], n_columns: int = 1) -> None:
    """A legend on top of ``axes``."""
    axes.legend(
        handles=list(handles), loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=n_columns, borderaxespad=0.2
    )
