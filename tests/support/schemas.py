"""Campaign databases as earlier versions of evometa wrote them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from evometa.store.schema import SCHEMA_VERSION

#: What takes a database of the version after the key back to that of the key.
BACK = {
    1: "DROP TABLE journal;",
    2: "DROP INDEX genomes_by_updates; ALTER TABLE genomes DROP COLUMN updates;",
}


def downgrade(path: Path, version: int) -> None:
    """Make the file what an evometa of that schema would have written."""
    with closing(sqlite3.connect(path)) as connection:
        for older in range(SCHEMA_VERSION - 1, version - 1, -1):
            connection.executescript(BACK[older])
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()
        connection.execute("VACUUM")  # or what was dropped would leave its pages in the middle
