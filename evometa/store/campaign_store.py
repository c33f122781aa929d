"""The campaign database as its driver and its readers use it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from evometa.errors import StoreError
from evometa.genome.genome import Genome
from evometa.store import writes
from evometa.store.connection import (
    build,
    close_writer,
    connect_reader,
    connect_writer,
    errors_named,
    make_directory,
    require_campaign,
)
from evometa.store.lock import DriverLock
from evometa.store.paths import LOCK
from evometa.store.queries import Queries
from evometa.store.records import Baseline, Evaluation, GenerationRecord, JournalEntry, Timing


class CampaignStore(Queries):
    """One campaign's database; a context manager.

    The one driver opens it for writing, under a lock, and commits a generation at a time; any number of
    readers open it read-only meanwhile. A process that is killed leaves whole generations only.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: DriverLock | None) -> None:
        """Use :meth:`create` or :meth:`open`."""
        super().__init__(path, connection)
        self._lock = lock

    @classmethod
    def create(cls, path: Path, *, config_json: str) -> Self:
        """Begin a campaign and open it for writing.

        Raises StoreError when ``path`` exists, when another driver holds it, or when the disk refuses.
        """
        make_directory(path.parent)
        lock = DriverLock(path.with_name(LOCK))
        try:
            if path.exists():
                raise StoreError(
                    f"campaign {path.parent.name!r} exists already in {path.parent.parent}; continue it with "
                    "--resume or choose another --name"
                )
            build(path, config_json)
            return cls(path, connect_writer(path), lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, path: Path, *, readonly: bool = False) -> Self:
        """Open a campaign: to continue it, or with ``readonly`` to look at it, which makes no file.

        Raises StoreError when there is none (naming those there are), when the file is foreign, damaged or
        from a newer version, and, for writing, when another driver holds it.
        """
        if readonly:
            return cls(path, connect_reader(path), None)
        require_campaign(path)
        lock = DriverLock(path.with_name(LOCK))
        try:
            return cls(path, connect_writer(path), lock)
        except BaseException:
            lock.release()
            raise

    def close(self) -> None:
        """Close the database and give the lock up; a second call does nothing."""
        if self._lock is None:
            self._connection.close()
            return
        try:
            with errors_named(self.path):
                close_writer(self._connection)
        finally:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def commit_generation(
        self,
        record: GenerationRecord,
        *,
        genomes: Iterable[Genome] = (),
        updates: Mapping[str, str] | None = None,
        evaluations: Iterable[Evaluation] = (),
        weights: Mapping[str, bytes] | None = None,
        streams: Mapping[str, int] | None = None,
        baselines: Iterable[Baseline] = (),
        timings: Iterable[Timing] = (),
    ) -> None:
        """Store everything that is new in one generation, whole or not at all.

        Args:
            record: what the generation came to; its index follows the last one stored.
            genomes: born in this generation; a genome never changes once stored.
            updates: genome id → what its updates hash to, of those for which that is known.
            evaluations: made in this generation, of any stored genome.
            weights: safetensors bytes by content hash; those already stored may be repeated.
            streams: name → seed of the random streams drawn from.
            baselines: tuned in this generation.
            timings: wall-clock seconds; no part of the campaign's content.

        Raises StoreError when the rows contradict each other or what is stored, or when the disk refuses.
        """
        with self._transaction():
            last = self.last_generation()
            expected = 0 if last is None else last + 1
            if record.index != expected:
                raise StoreError(
                    f"campaign {self.name!r}: generation {record.index} is not stored, the next is {expected}"
                )
            # What is referred to comes first: while any reference leads nowhere, SQLite goes through all
            # genomes for every new blob of weights.
            writes.insert_weights(self._connection, weights or {})
            writes.insert_genomes(self._connection, genomes, updates or {})
            writes.insert_generation(self._connection, record)
            self._insert_results(record.index, evaluations, streams or {}, baselines, timings)
            self._connection.execute("UPDATE campaign SET finished = 0")

    def commit_final(
        self,
        evaluations: Iterable[Evaluation],
        *,
        genomes: Iterable[Genome] = (),
        streams: Mapping[str, int] | None = None,
        baselines: Iterable[Baseline] = (),
        timings: Iterable[Timing] = (),
    ) -> None:
        """Store the final and report evaluations, whole or not at all, and call the campaign finished.

        They belong to the last generation; ``genomes`` are those measured only now, such as the tuned
        baselines. Raises StoreError as :meth:`commit_generation` does.
        """
        with self._transaction():
            last = self.last_generation()
            if last is None:
                raise StoreError(f"campaign {self.name!r} has no generation to finish with")
            writes.insert_genomes(self._connection, genomes)
            self._insert_results(last, evaluations, streams or {}, baselines, timings)
            self._connection.execute("UPDATE campaign SET finished = 1")

    def replace_config(self, config_json: str) -> None:
        """Store a configuration with more generations or another budget; the campaign is unfinished then."""
        with self._transaction():
            self._connection.execute("UPDATE campaign SET config = ?, finished = 0", (config_json,))

    def note(self, entry: JournalEntry) -> None:
        """Store an entry of the journal, in place of an older one on its topic."""
        with self._transaction():
            self._connection.execute(
                "INSERT OR REPLACE INTO journal (topic, line, data) VALUES (?, ?, ?)",
                (entry.topic, entry.line, json.dumps(dict(entry.data), sort_keys=True)),
            )

    def _insert_results(
        self,
        generation: int,
        evaluations: Iterable[Evaluation],
        streams: Mapping[str, int],
        baselines: Iterable[Baseline],
        timings: Iterable[Timing],
    ) -> None:
        writes.insert_evaluations(self._connection, self._dated(evaluations, generation))
        writes.insert_streams(self._connection, generation, streams)
        writes.insert_baselines(self._connection, baselines)
        writes.insert_timings(self._connection, timings)

    def _dated(self, evaluations: Iterable[Evaluation], generation: int) -> Iterator[Evaluation]:
        for evaluation in evaluations:
            if evaluation.generation != generation:
                raise StoreError(
                    f"campaign {self.name!r}: an evaluation of {evaluation.genome_id!r} says generation "
                    f"{evaluation.generation} and comes with generation {generation}"
                )
            yield evaluation

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with errors_named(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk ends the transaction by itself
                    self._connection.execute("ROLLBACK")
                raise
