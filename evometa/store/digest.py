"""Do two campaign databases hold the same? All counts but wall-clock times and where the campaign ran."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from pathlib import Path

from evometa.store.connection import connect_reader, errors_named
from evometa.store.schema import NOT_CONTENT


def content_digest(path: Path) -> dict[str, str]:
    """Table → SHA-256 of its columns' names and its rows in the order of the primary key.

    Equal for two runs of one configuration, however often one of them was killed and resumed and whatever
    its ``[execution]`` section says; the file's bytes are not.
    Raises StoreError for a missing, foreign or damaged file.
    """
    with closing(connect_reader(path)) as connection, errors_named(path):
        connection.execute("BEGIN")  # all tables as of one moment
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        digests: dict[str, str] = {}
        for (table,) in tables.fetchall():
            if table in NOT_CONTENT:
                continue
            columns = connection.execute(f'PRAGMA table_info("{table}")').fetchall()
            names = [name for _, name, *_ in columns]
            key = sorted((place, name) for _, name, *_, place in columns if place)
            order = ", ".join(f'"{name}"' for _, name in key)
            digest = hashlib.sha256(repr(names).encode())
            for row in connection.execute(f'SELECT * FROM "{table}" ORDER BY {order}'):
                digest.update(b"\n" + repr(tuple(map(_compact, names, row))).encode())
            digests[table] = digest.hexdigest()
        return digests


def _compact(column: str, value: object) -> object:
    """Blobs by their hash, so that a row's text stays short; a configuration without its ``execution``."""
    if isinstance(value, bytes):
        return ("blob", hashlib.sha256(value).hexdigest())
    if column == "config" and isinstance(value, str):
        config = json.loads(value)
        return json.dumps({key: config[key] for key in config if key != "execution"})
    return value
