"""Connections to a campaign database, and SQLite's errors in a user's words.

A driver works in write-ahead-log mode, in which readers never wait for it nor it for them, and goes back
to a rollback journal when it closes, so that a campaign at rest is one file that can be read where nothing
can be written. ``synchronous = FULL``: a generation that was committed survives a power cut as far as the
disk honours fsync; at one commit a generation this costs nothing. The log needs shared memory, so the
storage must be a local disk of the machine that runs the campaign.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from evometa.errors import StoreError, quoted, unknown
from evometa.store.paths import DATABASE, campaign_names, refusal
from evometa.store.schema import APPLICATION_ID, MIGRATIONS, SCHEMA, SCHEMA_VERSION

_BUSY_SECONDS = 30.0

#: What is no plain table or index, told by its SQL, for the columns beside it may lie.
_COMPUTED = """
    SELECT name, 'no table or index' FROM sqlite_master WHERE sql NOT LIKE 'CREATE TABLE %'
        AND sql NOT LIKE 'CREATE INDEX %' AND sql NOT LIKE 'CREATE UNIQUE INDEX %'
    UNION ALL SELECT tables.name, 'a table with a computed column' FROM sqlite_master AS tables
        JOIN pragma_table_xinfo(tables.name) WHERE sql LIKE 'CREATE TABLE %' AND hidden <> 0
    LIMIT 1"""

_REMEDIES = {
    sqlite3.SQLITE_FULL: "the disk is full; free space, then continue with --resume (what is stored is safe)",
    sqlite3.SQLITE_IOERR: "the disk failed ({error}); check it, then continue with --resume",
    sqlite3.SQLITE_READONLY_ROLLBACK: "its driver was killed while it was being read; open it again",
    sqlite3.SQLITE_READONLY: "it is not writable here; copy the campaign elsewhere and give that --storage",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check the permissions of the file and its directory",
    sqlite3.SQLITE_BUSY: "another program keeps it locked; close that program and try again",
    sqlite3.SQLITE_CORRUPT: "it is truncated or damaged ({error}); 'evometa doctor' tells what can be kept",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database; put a copy in its place, or give another --storage",
    sqlite3.SQLITE_CONSTRAINT: "the rows contradict what is stored ({error}); nothing was written",
}


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """SQLite's complaints as a StoreError of one line that names the campaign and what to do."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0)
        remedy = _REMEDIES.get(code) or _REMEDIES.get(code & 0xFF) or "database error: {error}"
        what = remedy.format(error=error)
        raise StoreError(f"campaign {path.parent.name!r} ({path}): {what}") from error


def make_directory(directory: Path) -> None:
    """Make ``directory`` and those above it, such that a power cut does not take them away again.

    Raises StoreError where that cannot be.
    """
    made = [one for one in (directory, *directory.parents) if not os.path.lexists(one)]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for one in made:
            _sync_directory(one.parent)
    except OSError as error:
        raise refusal(f"cannot make the directory {directory}", error) from error


def build(path: Path, config_json: str) -> None:
    """Make the database of a new campaign; it appears under ``path`` whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        with errors_named(path), closing(sqlite3.connect(partial, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = OFF")  # a failed build is thrown away, not rolled back
            connection.executescript(f"BEGIN;\n{SCHEMA}")
            connection.execute("INSERT INTO campaign (id, config) VALUES (1, ?)", (config_json,))
            connection.execute("COMMIT")
        partial.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise refusal(f"cannot write {path}", error) from error


def connect_writer(path: Path) -> sqlite3.Connection:
    """A driver's connection; checks that ``path`` is a campaign this version can continue."""
    require_campaign(path)
    with errors_named(path):
        connection = _checked(path, "rw")
        _migrate(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """A read-only connection, good while a driver writes; makes no file."""
    require_campaign(path)
    with errors_named(path):
        try:
            return _checked(path, "ro")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
                raise
        _checked(path, "rw").close()  # a driver was killed while it changed the journal's mode: undo that
        return _checked(path, "ro")


def close_writer(connection: sqlite3.Connection) -> None:
    """Close a driver's connection and leave one file behind, unless a reader still looks at the log.

    A transaction that an interruption left open, between its first statement and the block that would have
    rolled it back, is undone.
    """
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
    finally:
        connection.close()


def require_campaign(path: Path) -> None:
    """Raises StoreError, with the campaigns that there are, when ``path`` is no file."""
    if not os.path.isfile(path):  # unlike Path.is_file, also for a directory that may not be searched
        if os.path.lexists(path):
            what = "a directory" if os.path.isdir(path) else "no regular file"
            raise StoreError(f"campaign {path.parent.name!r}: {path} is {what}, expected a campaign database")
        if path.name != DATABASE:  # a file named by its path, not a campaign by its name
            raise StoreError(f"there is no campaign database {path}")
        root = path.parent.parent
        raise StoreError(f"{unknown('campaign', path.parent.name, campaign_names(root))} in {root}")


def _require_own_log(path: Path) -> None:
    """Raises StoreError where a log lies beside a database that was at rest: it is another's.

    A killed driver leaves a log. SQLite would read it into whatever file is put in the place of the killed
    one's, as a backup may be, and so mix the two.
    """
    log = path.with_name(path.name + "-wal")

    def has_log() -> bool:
        with suppress(OSError):
            return log.stat().st_size > 0
        return False

    # Asked twice: a driver that is just ending removes its log before it marks the file as at rest.
    if has_log() and _is_at_rest(path) and has_log():
        raise StoreError(
            f"campaign {path.parent.name!r}: {log} does not belong to the {path.name} beside it; if that is "
            f"a backup that was put back, remove {log.name} and continue"
        )


def _is_at_rest(path: Path) -> bool:
    """Whether the file says that it needs no log: SQLite's "file format write version" is 1."""
    try:
        with path.open("rb") as file:
            return file.read(20)[18:19] == b"\x01"
    except OSError:
        return False  # what is the matter is told when it is opened


def _checked(path: Path, mode: str) -> sqlite3.Connection:
    _require_own_log(path)
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS)
    try:
        # The file may be a stranger's: what its schema computes may use no function with side effects.
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        _check_identity(connection, path)
        _check_tables(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_identity(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise StoreError(
            f"{path} is not an evometa campaign but an empty or foreign SQLite database; put a copy of the "
            "campaign in its place, or give another --storage"
        )
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"campaign {path.parent.name!r} was written by a newer evometa (schema {version}, this one reads "
            f"up to {SCHEMA_VERSION}); upgrade with 'pip install --upgrade evometa'"
        )


def _check_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StoreError where the file holds more than tables of data: no query of ours may run its SQL."""
    found = connection.execute(_COMPUTED).fetchone()
    if found is not None:
        name, what = found
        raise StoreError(
            f"campaign {path.parent.name!r} ({path}): {quoted(str(name))} is {what}, which no campaign "
            "holds; the file was made or changed by another program"
        )


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring a database of an older schema up to this one, whole or not at all."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version < SCHEMA_VERSION:
        steps = "".join(MIGRATIONS[old] for old in range(version, SCHEMA_VERSION))
        connection.executescript(f"BEGIN;\n{steps}\nPRAGMA user_version = {SCHEMA_VERSION};\nCOMMIT;")


def _sync_directory(directory: Path) -> None:
    """Make a rename durable: the name lives in the directory, not in the file."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
