"""Tables in windows of every width: whole words, and nothing lost."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from evometa.cli.output import Column, Listing

ROWS = [
    {"name": "quick0", "meta_loss": 0.3956, "inner_steps": 1_020_220, "best": "adam, lr 0.0562"},
    {"name": "l2l", "meta_loss": 12.5, "inner_steps": 42, "best": "momentum, lr 0.316"},
]
LISTING = Listing("Campaigns", [Column(key) for key in ROWS[0]], ROWS)
WORDS = (
    "Campaigns name meta loss inner steps best quick0 0.3956 1,020,220 adam, lr 0.0562 l2l 12.5 42 momentum,"
)


def printed(width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(LISTING.view())
    return out.getvalue()


@pytest.mark.parametrize("width", range(22, 100))
def test_no_word_is_broken_or_lost(width: int) -> None:
    text = printed(width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert set(WORDS.split()) <= set(text.split())


def test_a_wide_window_has_a_frame_and_one_line_a_row() -> None:
    lines = printed(100).splitlines()
    assert lines[0] == "Campaigns"
    assert len(lines) == 7
    assert lines[4].split("│")[1:-1] == [" quick0 ", "    0.3956 ", "   1,020,220 ", " adam, lr 0.0562    "]


def test_a_narrow_window_drops_the_frame_and_then_the_columns() -> None:
    assert "│" in printed(50)
    assert "│" not in printed(40)
    assert printed(40).splitlines()[2].split() == ["name", "loss", "inner", "steps", "best"]
    records = [line.split() for line in printed(30).splitlines()[1:4]]
    assert records == [["name", "quick0"], ["meta", "loss", "0.3956"], ["inner", "steps", "1,020,220"]]
