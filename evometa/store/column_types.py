"""Values of a type that their column never has: SQLite would hold them, and no campaign writes them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

from evometa.store.schema import SCHEMA

#: How SQLite calls the values of a column by its declared type.
_STORED_AS = {"INTEGER": "'integer'", "REAL": "'real'", "TEXT": "'text'", "BLOB": "'blob'"}
#: Of a row of these tables the generation that it came with; 0 where it cannot be told.
_GENERATION_OF = {
    "weights": "(SELECT min(generation) FROM genomes WHERE hash IN (weights, germline))",
    "parents": "(SELECT generation FROM genomes WHERE id = genome_id)",
    "task_results": "(SELECT generation FROM evaluations WHERE number = evaluation)",
    "baselines": "0",
}
#: Tables that are of no generation: rolling back does not mend them.
_OF_NONE = frozenset({"campaign", "journal"})


def wrong_types(connection: sqlite3.Connection) -> Iterator[tuple[str, int | None]]:
    """What is said of every column with wrong values, and the first generation touched; None where none is.

    A column of an older schema that is not there yet is left out.
    """
    for table, columns in _declared().items():
        present = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}
        generation = _GENERATION_OF.get(table, "NULL" if table in _OF_NONE else "generation")
        for column, stored_as, may_be_null in columns:
            if column not in present:
                continue
            allowed = f"{_STORED_AS[stored_as]}, 'null'" if may_be_null else _STORED_AS[stored_as]
            infinite = f" OR abs({column}) = 9e999" if stored_as == "REAL" else ""
            rows = connection.execute(
                f"SELECT {generation} FROM {table} WHERE typeof({column}) NOT IN ({allowed}){infinite}"
            )
            found = [row[0] if isinstance(row[0], int) else 0 for row in rows]
            if found:
                line = f"{len(found)} rows of {table} hold no {stored_as} in {column}"
                yield line, None if table in _OF_NONE else max(0, min(found))


def _declared() -> dict[str, list[tuple[str, str, bool]]]:
    """Of every table its columns: name, type, whether it may be NULL."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {
            table: [
                (name, kind, not not_null and not key)
                for _, name, kind, not_null, _, key in connection.execute(f"PRAGMA table_info({table})")
            ]
            for table in tables
        }
