"""Tables that fit the window: whole words in every cell, nothing cut off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class FittedTable:
    """Rows under headers: framed where they fit, else without a frame, else one line for each cell.

    Attributes:
        headers: one for each column; they may have several lines.
        rows: as many cells each.
        numeric: whether a column is set to the right.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[bool]
    title: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(self.title, style="bold")
        n_columns = len(self.headers)
        framed = self._widths(options.max_width - 3 * n_columns - 1)
        if framed is not None:
            yield self._filled(Table(header_style="bold", box=box.HEAVY_HEAD), framed)
            return
        plain = self._widths(options.max_width - n_columns + 1)
        if plain is not None:
            table = Table(header_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)
            yield self._filled(table, plain)
            return
        yield self._records()

    def _widths(self, room: int) -> list[int] | None:
        """Characters for each column, ``room`` in all; None where a word would have to be broken."""
        columns = [(header, *cells) for header, *cells in zip(self.headers, *self.rows, strict=True)]
        whole = [max(cell_len(line) for cell in column for line in _lines(cell)) for column in columns]
        if sum(whole) <= room:
            return whole
        widths = [max(cell_len(word) for cell in column for word in _words(cell)) for column in columns]
        spare = room - sum(widths)
        if spare < 0:
            return None
        lacks = [most - least for most, least in zip(whole, widths, strict=True)]
        shares = range(len(widths), 0, -1)
        for share, column in zip(shares, sorted(range(len(widths)), key=lacks.__getitem__), strict=True):
            given = min(
                lacks[column], spare // share
            )  # what a column does not need is left to the longer ones
            widths[column] += given
            spare -= given
        return widths

    def _filled(self, table: Table, widths: Sequence[int]) -> Table:
        for header, width, numeric in zip(self.headers, widths, self.numeric, strict=True):
            table.add_column(
                Text(header), width=width, justify="right" if numeric else "left", overflow="fold"
            )
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def _records(self) -> Table:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="bold", overflow="fold")
        grid.add_column(overflow="fold")
        for index, row in enumerate(self.rows):
            if index:
                grid.add_row()
            for header, cell in zip(self.headers, row, strict=True):
                grid.add_row(Text(" ".join(header.split())), Text(cell))
        return grid


def _lines(cell: str) -> list[str]:
    return cell.splitlines() or [""]


def _words(cell: str) -> list[str]:
    return cell.split() or [""]
