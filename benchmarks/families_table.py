"""The table of all families, on the console and as Markdown: ``python -m benchmarks.families_table FILE``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.groups.families import ENOUGH, REFERENCE_RULE, Row
from benchmarks.report import number, show

_TITLES = {
    "rule": "Rules, on the digits perceptron",
    "task": f"Tasks, with their own options, trained by {REFERENCE_RULE}",
}
_HEADERS = ("family", "inner steps/s", "of the roofline", "computing", "launching", "between", "traffic")
_BINDS = f"what takes the time, where the share is below {100 * ENOUGH:.0f} %"


def show_families(console: Console, rows: Sequence[Row]) -> dict[str, Any]:
    """Rates, shares, and what takes the time."""
    document: dict[str, dict[str, Any]] = {kind: {} for kind in _TITLES}
    for row in rows:
        document[row.kind][row.name] = row.to_json()
    for kind, title in _TITLES.items():
        cells = [_cells(name, found) for name, found in document[kind].items()]
        notes = [f"{line[0]}: {line[-1]}" for line in cells if line[-1]]
        show(console, title, _HEADERS, [line[:-1] for line in cells], notes)
    return document


def markdown(document: Mapping[str, Mapping[str, Any]]) -> str:
    """Both tables of the ``families`` of a benchmark's JSON document."""
    blocks = []
    for kind, title in _TITLES.items():
        headers = [*_HEADERS, _BINDS]
        lines = [headers, ["---"] * len(headers), *(_cells(*item) for item in document[kind].items())]
        table = ["| " + " | ".join(line) + " |" for line in lines]
        blocks.append("\n".join([f"**{title}**", "", *table]))
    return "\n\n".join(blocks) + "\n"


def _cells(name: str, found: Mapping[str, Any]) -> list[str]:
    """Of one family: as many as there are headers, and what binds it."""
    if "problem" in found:
        return [name, *["–"] * (len(_HEADERS) - 1), found["problem"]]
    rate = found["inner_steps_per_second"]
    spread = (found["highest"] - found["lowest"]) / 2 / rate
    shares = (found[share] for share in ("share", "computing", "launching", "between", "traffic"))
    return [name, f"{number(rate)} ±{100 * spread:.0f} %", *map(_percent, shares), found["binds"]]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1g} %"


def main(file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)]) -> None:
    """Print the tables of FILE, a document of ``python -m benchmarks --only families``, as Markdown."""
    document = json.loads(file.read_text(encoding="utf-8"))
    if "families" not in document:
        raise typer.BadParameter(f"{file} has no families; measure them with --only families")
    print(markdown(document["families"]), end="")


if __name__ == "__main__":
    typer.run(main)
