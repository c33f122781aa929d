"""The command line, telling which phase of a campaign it is in.

``python -c "from soak.observed import main; main()" FD MOMENT WORDS…`` does what ``evometa WORDS`` does, and
writes a line on the pipe FD whenever a phase begins: ``start-up`` (also tuning), ``creation`` of the file,
``migration``, ``refinement``, ``evaluation``, ``commit``, ``breeding``, ``final``, ``end``.

With ``commit:500`` as MOMENT the process kills itself with SIGKILL before the 500th instruction of SQLite's
machine in that phase; with ``count`` it tells after each ``commit`` and ``migration`` how many there were;
with ``-`` SQLite is left alone.
"""

from __future__ import annotations

import functools
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: The loop's phases under the names of the report.
_NAMES = {
    "refinement": "refinement",
    "evaluation": "evaluation",
    "precision": "evaluation",
    "final": "final",
    "report": "final",
}


class Observer:
    """Tells phases on a pipe, and counts SQLite's instructions in them."""

    def __init__(self, pipe: int, moment: str) -> None:
        self._pipe = pipe
        self._counts = moment != "-"
        self._last_phase, _, number = moment.partition(":")
        self._last_instruction = int(number or 0)
        self._phase = "start-up"
        self._n_instructions = 0

    def begin(self, phase: str) -> None:
        """A phase begins."""
        if self._counts and self._phase in ("commit", "migration"):
            os.write(self._pipe, f"{self._phase}={self._n_instructions}\n".encode())
        self._phase, self._n_instructions = phase, 0
        os.write(self._pipe, f"{phase}\n".encode())

    def watch(self, connection: sqlite3.Connection) -> None:
        """Count the instructions of ``connection``."""
        if self._counts:
            connection.set_progress_handler(self._instruction, 1)

    def _instruction(self) -> None:
        self._n_instructions += 1
        if self._phase == self._last_phase and self._n_instructions == self._last_instruction:
            os.kill(os.getpid(), signal.SIGKILL)


def _around(
    owner: Any, name: str, before: Callable[..., object], after: Callable[[Any], object] = lambda result: None
) -> None:
    """Have ``owner.name`` call ``before`` with its arguments, and ``after`` with what it returns."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        before(*arguments, **options)
        result = original(*arguments, **options)
        after(result)
        return result

    setattr(owner, name, wrapped)


def _is_older(connection: sqlite3.Connection) -> bool:
    from evometa.store.schema import SCHEMA_VERSION

    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return bool(version < SCHEMA_VERSION)


def observe(observer: Observer) -> None:
    """Have evometa's command line in this process report to ``observer``."""
    from evometa.cli.progress import Lines
    from evometa.store import CampaignStore, connection

    def entered(_: Any, name: str, n_runs: int) -> None:
        observer.begin(_NAMES.get(name, "start-up"))

    def migrating(opened: sqlite3.Connection) -> None:
        if _is_older(opened):
            observer.watch(opened)
            observer.begin("migration")

    def committing(store: Any, *_: Any, **__: Any) -> None:
        observer.watch(store._connection)
        observer.begin("commit")

    def creating(path: Path, _: str) -> None:
        observer.begin("creation")

    _around(Lines, "phase", entered)
    _around(connection, "_migrate", migrating, lambda _: observer.begin("start-up"))
    _around(CampaignStore, "commit_generation", committing, lambda _: observer.begin("breeding"))
    _around(CampaignStore, "commit_final", committing, lambda _: observer.begin("end"))
    import evometa.store.campaign_store as campaign_store

    _around(campaign_store, "build", creating, lambda _: observer.begin("start-up"))


def main() -> None:
    """See the module."""
    _, pipe, moment, *words = sys.argv
    from evometa.cli.app import main as evometa

    observe(Observer(int(pipe), moment))
    sys.argv = ["evometa", *words]
    evometa()
