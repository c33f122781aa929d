"""What every verb prints: listings and reports as rich tables for people, as JSON or CSV for programs.

With ``--format json`` or ``csv`` nothing but the document goes to the standard output.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from evometa.cli.tables import FittedTable
from evometa.errors import one_line

#: Characters in a line when nobody's window limits it, so that no cell is cut in a file or a pipe.
_UNLIMITED = 10_000


class Format(StrEnum):
    """The forms in which a listing can be had."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def shown(value: object) -> str:
    """A value as people read it in a cell."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else ""
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}" if math.isfinite(value) else "–"
        case datetime():
            return f"{value.astimezone():%Y-%m-%d %H:%M}"
        case list() | tuple():
            return ", ".join(shown(item) for item in value)
        case _:
            return printable(str(value))


def printable(text: str) -> str:
    """``text`` in its lines, without what a terminal would take for commands: it may be a stranger's."""
    return "\n".join(map(one_line, text.split("\n")))


def duration(seconds: float) -> str:
    """A span of time in its two largest units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass(frozen=True)
class Column:
    """A column of a listing.

    Attributes:
        key: its name in JSON and CSV.
        title: its name for people; ``key`` with spaces unless given.
        show: how people read its values.
        readers: who gets to see it; programs read JSON and CSV.
    """

    key: str
    title: str = ""
    show: Callable[[Any], str] = shown
    readers: Literal["all", "people", "programs"] = "all"


@dataclass(frozen=True)
class Listing:
    """Rows of equal kind.

    Attributes:
        title: what is listed.
        columns: in order.
        rows: column key → value; a key without a column is left out.
        empty: what people read where there are no rows.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, object]]
    empty: str = "nothing to list"

    def keys(self) -> list[str]:
        """The keys of :meth:`records`."""
        return [column.key for column in self.columns if column.readers != "people"]

    def records(self) -> list[dict[str, object]]:
        """The rows as plain JSON data."""
        keys = self.keys()
        return [{key: _plain(row.get(key)) for key in keys} for row in self.rows]

    def view(self) -> RenderableType:
        """The rows as a table for people."""
        if not self.rows:
            return Text(printable(f"{self.title}: {self.empty}" if self.title else self.empty), style="dim")
        columns = [column for column in self.columns if column.readers != "programs"]
        return FittedTable(
            headers=[printable(column.title or column.key.replace("_", " ")) for column in columns],
            rows=[[column.show(row.get(column.key)) for column in columns] for row in self.rows],
            numeric=[_numeric([row.get(column.key) for row in self.rows]) for column in columns],
            title=printable(self.title),
        )


@dataclass(frozen=True)
class Fact:
    """One line of a report; without ``title`` it is for programs only."""

    key: str
    value: object
    title: str = ""
    show: Callable[[Any], str] = shown


@dataclass(frozen=True)
class Section:
    """A part of a report: a listing, which people may see in another form (``instead``)."""

    key: str
    listing: Listing
    instead: RenderableType | None = None


@dataclass(frozen=True)
class Report:
    """Facts about one thing, then listings that belong to it; CSV holds the first listing, or the facts."""

    title: str
    facts: Sequence[Fact]
    sections: Sequence[Section] = field(default_factory=tuple)


def emit(listing: Listing, form: Format) -> None:
    """Print a listing."""
    match form:
        case Format.TABLE:
            console().print(listing.view())
        case Format.JSON:
            _write_json(listing.records())
        case Format.CSV:
            _write_csv(listing.keys(), listing.records())


def emit_report(report: Report, form: Format) -> None:
    """Print a report."""
    facts = {fact.key: _plain(fact.value) for fact in report.facts}
    match form:
        case Format.TABLE:
            _print_report(report)
        case Format.JSON:
            _write_json({**facts, **{part.key: part.listing.records() for part in report.sections}})
        case Format.CSV if report.sections:
            emit(report.sections[0].listing, form)
        case Format.CSV:
            _write_csv(list(facts), [facts])


def console(*, stderr: bool = False) -> Console:
    """A console that takes text as it is; as wide as the window, or without limit where there is none."""
    found = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not found.is_terminal:
        found.width = _UNLIMITED
    return found


def print_error(message: str) -> None:
    """One line on the standard error."""
    line = Text.assemble(("error: ", "bold red"), one_line(" ".join(message.splitlines())))
    console(stderr=True).print(line, soft_wrap=True)


def _print_report(report: Report) -> None:
    out = console()
    out.print(Text(printable(report.title), style="bold"))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for fact in report.facts:
        if fact.title:
            grid.add_row(Text(printable(fact.title)), Text(fact.show(fact.value)))
    out.print(grid)
    for part in report.sections:
        out.print()
        out.print(part.listing.view() if part.instead is None else part.instead)


def _numeric(values: Sequence[object]) -> bool:
    numbers = [value for value in values if value is not None]
    return bool(numbers) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in numbers
    )


def _plain(value: object) -> object:
    """``value`` as JSON carries it: numbers that are not finite as null, times in ISO 8601."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case None | bool() | int() | float() | str():
            return value
        case datetime():
            return value.isoformat()
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return str(value)


def _write_json(document: object) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False), flush=True)


def _write_csv(header: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Lists and tables inside a cell are written as JSON."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        cells = [row.get(key) for key in header]
        writer.writerow(
            json.dumps(cell, ensure_ascii=False) if isinstance(cell, list | dict | bool) else cell
            for cell in cells
        )
    sys.stdout.flush()
