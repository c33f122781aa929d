"""Mend a damaged campaign database: keep what can be read, roll back to the last sound generation.

What is rolled back is not lost: a campaign that is resumed computes the same again. The file as it was found
stays beside the mended one.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from evometa.errors import StoreError
from evometa.store.connection import build, close_writer, connect_writer, errors_named, require_campaign
from evometa.store.examination import OF_GENERATIONS, Finding, examine, first_touched
from evometa.store.lock import DriverLock
from evometa.store.paths import LOCK

#: A mending may bring other damage to light; so often it is looked again.
_MOST_ROUNDS = 10


@dataclass(frozen=True)
class Mended:
    """What a repair did.

    Attributes:
        found: what was wrong.
        copy: where the file as it was found lies.
        rolled_back_to: generations that are kept are those before this one; None where all are.
        n_removed: weights removed that no genome referred to.
        salvaged: whether rows had to be read out of a damaged file.
    """

    found: list[Finding]
    copy: Path
    rolled_back_to: int | None
    n_removed: int
    salvaged: bool


def repair(path: Path, examined: Callable[[Path], list[Finding]] = examine) -> Mended | None:
    """Mend the database at ``path`` by what ``examined`` finds; None where nothing is wrong.

    Raises StoreError where a driver holds the campaign, where nothing can be read out of it, or where the
    disk refuses; the file is then as it was.
    """
    require_campaign(path)
    lock = DriverLock(path.with_name(LOCK))
    try:
        found = examined(path)
        if not found:
            return None
        copy = _copy_beside(path)
        mending = path.with_name(path.name + ".mending")
        salvaged = any(finding.remedy == "salvage" for finding in found)
        try:
            if salvaged:
                first = _read_out(path, mending)
            else:
                _copy(path, mending)
                first = first_touched(found)
            kept, n_removed = _mend(mending, first, examined)
            _remove_logs(path)  # those of the file as it was: they fit no other
            os.replace(mending, path)
        finally:
            mending.unlink(missing_ok=True)
            _remove_logs(mending)
        return Mended(found, copy, kept, n_removed, salvaged)
    except OSError as error:
        raise StoreError(f"cannot mend {path}: {error.strerror}; the campaign is as it was") from error
    finally:
        lock.release()


def _mend(path: Path, first: int | None, examined: Callable[[Path], list[Finding]]) -> tuple[int | None, int]:
    """Roll back and remove until nothing is wrong; the first generation not kept, and the weights removed."""
    kept, n_removed = first, _cleaned(path, first)
    for _ in range(_MOST_ROUNDS):
        found = examined(path)
        if not found:
            return kept, n_removed
        if any(finding.remedy in ("salvage", "restore") for finding in found):
            break
        first = first_touched(found)
        n_removed += _cleaned(path, first)
        kept = first if kept is None or (first is not None and first < kept) else kept
    raise StoreError(f"campaign {path.parent.name!r} cannot be mended ({found[0].line}); restore a copy")


def _cleaned(path: Path, first: int | None) -> int:
    """Roll back to before generation ``first``, if any, and remove unused weights; how many those were."""
    with errors_named(path), closing(connect_writer(path)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")  # what is there contradicts itself
        connection.execute("BEGIN IMMEDIATE")
        if first is not None:
            _roll_back(connection, first)
        n_removed = connection.execute(
            """DELETE FROM weights WHERE hash NOT IN (
                SELECT weights FROM genomes WHERE weights IS NOT NULL
                UNION SELECT germline FROM genomes WHERE germline IS NOT NULL)"""
        ).rowcount
        connection.execute("COMMIT")
        close_writer(connection)
    return n_removed


def _roll_back(connection: sqlite3.Connection, first: int) -> None:
    """Remove generation ``first`` and all that came with it or after it."""
    # Final measurements go as well: they are of the last generation, and there is another one now.
    for table in (*OF_GENERATIONS, "generations"):
        connection.execute(f"DELETE FROM {table} WHERE generation >= ?", (first,))
    connection.execute("DELETE FROM task_results WHERE evaluation NOT IN (SELECT number FROM evaluations)")
    connection.execute("DELETE FROM parents WHERE genome_id NOT IN (SELECT id FROM genomes)")
    if first == 0:
        connection.execute("DELETE FROM baselines")
    connection.execute("UPDATE campaign SET finished = 0")


def _remove_logs(path: Path) -> None:
    for suffix in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _copy_beside(path: Path) -> Path:
    """A copy of the file under a name that is free, with its log where it has one."""
    number = 1
    while (copy := path.with_name(f"{path.name}.found-{number}")).exists():
        number += 1
    _copy(path, copy)
    return copy


def _copy(path: Path, into: Path) -> None:
    """The file, and the log that a killed driver may have left beside it."""
    shutil.copy2(path, into)
    log = path.with_name(path.name + "-wal")
    if log.exists():
        shutil.copy2(log, into.with_name(into.name + "-wal"))


def _read_out(path: Path, into: Path) -> int | None:
    """A new database with the rows of a damaged one, of each table those before the first unreadable one.

    Returns the generation from which on rows may be missing without a trace, the last one; None where all
    could be read.
    """
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as damaged:
        damaged.execute("PRAGMA writable_schema = ON")  # or SQLite would not open a file that was cut off
        try:
            config, finished = damaged.execute("SELECT config, finished FROM campaign").fetchone()
        except (sqlite3.DatabaseError, TypeError) as error:
            raise StoreError(
                f"campaign {path.parent.name!r}: not even its configuration can be read; restore a copy"
            ) from error
        into.unlink(missing_ok=True)
        build(into, config)
        with errors_named(into), closing(connect_writer(into)) as whole:
            whole.execute("PRAGMA foreign_keys = OFF")
            whole.execute("BEGIN IMMEDIATE")
            whole.execute("UPDATE campaign SET finished = ?", (finished,))
            tables = whole.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'campaign'"
            )
            complete = [_copy_rows(damaged, whole, table) for (table,) in tables.fetchall()]
            (last,) = whole.execute("SELECT coalesce(max(generation), 0) FROM generations").fetchone()
            whole.execute("COMMIT")
            close_writer(whole)
    return None if all(complete) else int(last)


def _copy_rows(damaged: sqlite3.Connection, whole: sqlite3.Connection, table: str) -> bool:
    """Whether all rows could be read."""
    known = {name for _, name, *_ in whole.execute(f"PRAGMA table_info({table})")}
    try:
        # In the order of the damaged file, which may be of an older schema and lack some, or the whole table.
        columns = [name for _, name, *_ in damaged.execute(f"PRAGMA table_info({table})") if name in known]
        if not columns:
            return True
        listed = ", ".join(columns)
        statement = f"INSERT OR IGNORE INTO {table} ({listed}) VALUES ({', '.join('?' * len(columns))})"
        for row in damaged.execute(f"SELECT {listed} FROM {table} NOT INDEXED"):
            whole.execute(statement, row)
    except sqlite3.DatabaseError:
        return False
    return True
