"""``evometa list``: the campaigns there are."""

from __future__ import annotations

from collections.abc import Mapping

from evometa.cli.output import Column, Format, Listing, emit, printable, shown
from evometa.cli.parameters import FormatOption, StorageOption


def list_campaigns(storage: StorageOption = None, form: FormatOption = Format.TABLE) -> None:
    """List the campaigns: their state, how far they came, and their best values."""
    from evometa import store

    root = store.storage_root(storage)
    rows = [
        {
            "name": found.name,
            "state": found.state,
            "generations": found.n_generations,
            "genomes": found.n_genomes,
            "best": found.best,
            "written": found.written,
            "problem": found.problem,
        }
        for found in store.list_campaigns(root)
    ]
    columns = [
        Column("name"),
        Column("state"),
        Column("generations"),
        Column("genomes"),
        Column("best", show=_values),
        Column("written"),
    ]
    if any(row["problem"] for row in rows) or form is not Format.TABLE:
        columns.append(Column("problem"))
    none_yet = f"none in {root}; begin one with 'evometa run experiments/quickstart.toml'"
    emit(Listing("Campaigns", columns, rows, empty=none_yet), form)


def _values(best: Mapping[str, float]) -> str:
    return printable(", ".join(f"{name} {shown(value)}" for name, value in best.items()))
