"""Reading genomes from a campaign database, and what every reading goes through."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from evometa.errors import StoreError, closest
from evometa.genome.genome import BASELINE, Genome
from evometa.store.connection import errors_named
from evometa.store.rows import Row, genomes_of

#: bound to a JSON array, a list of any length; one "?" an entry would meet SQLite's limit
LISTED = "(SELECT value FROM json_each(?))"
_GENOME = (
    "SELECT id, family, name, genes, weights, germline, operator, generation, weights_origin FROM genomes"
)
_PARENTS = "SELECT genome_id, parent_id FROM parents"
_ANCESTORS = """
    WITH RECURSIVE ancestor (id) AS (
        SELECT parent_id FROM parents WHERE genome_id = :id
        UNION SELECT parent_id FROM parents JOIN ancestor ON genome_id = ancestor.id
    ) SELECT id FROM ancestor JOIN genomes USING (id) ORDER BY number DESC"""


class GenomeQueries:
    """The genomes of an open campaign; see :class:`~evometa.store.queries.Queries`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @property
    def name(self) -> str:
        """The campaign's name: that of its directory."""
        return self.path.parent.name

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside belongs to one moment, though a driver may commit meanwhile."""
        if self._connection.in_transaction:
            yield
            return
        with errors_named(self.path):
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:  # an error of the disk ends it by itself
                self._connection.execute("ROLLBACK")

    def families(self) -> list[str]:
        """The families that genomes belong to, sorted."""
        return [str(row[0]) for row in self._rows("SELECT DISTINCT family FROM genomes ORDER BY family")]

    def genome(self, genome_id: str) -> Genome:
        """One genome."""
        return self.genomes([genome_id])[0]

    def genomes(self, ids: Iterable[str] | None = None) -> list[Genome]:
        """The genomes named in ``ids``, in that order; all in order of birth without."""
        if ids is None:
            with self.snapshot():
                parents = self._rows(f"{_PARENTS} ORDER BY genome_id, position")
                return genomes_of(self._rows(f"{_GENOME} ORDER BY number"), parents)
        wanted = list(ids)
        chosen = json.dumps(wanted)
        with self.snapshot():
            parents = self._rows(
                f"{_PARENTS} WHERE genome_id IN {LISTED} ORDER BY genome_id, position", (chosen,)
            )
            rows = self._rows(f"{_GENOME} WHERE id IN {LISTED}", (chosen,))
            found = {genome.id: genome for genome in genomes_of(rows, parents)}
            for genome_id in wanted:
                if genome_id not in found:
                    raise self._unknown_genome(genome_id)
        return [found[genome_id] for genome_id in wanted]

    def ancestors(self, genome_id: str) -> list[Genome]:
        """Every genome that ``genome_id`` descends from, once each, the youngest first."""
        with self.snapshot():
            self.genome(genome_id)
            return self.genomes(row[0] for row in self._rows(_ANCESTORS, {"id": genome_id}))

    def known_updates(self, hashes: Iterable[str]) -> set[str]:
        """Which of the functional ``hashes`` belong to a stored genome; none before schema 3."""
        if self._schema() < 3:
            return set()
        listed = json.dumps(sorted(set(hashes)))
        rows = self._rows(f"SELECT DISTINCT updates FROM genomes WHERE updates IN {LISTED}", (listed,))
        return {updates for (updates,) in rows}

    def first_with_updates_of(self, genome_id: str) -> str | None:
        """The oldest other genome that makes the same updates; None where there is none or nobody knows."""
        if self._schema() < 3:
            return None
        rows = self._rows(
            """SELECT other.id FROM genomes AS own JOIN genomes AS other USING (updates)
            WHERE own.id = ? AND other.number < own.number ORDER BY other.number LIMIT 1""",
            (genome_id,),
        )
        return str(rows[0][0]) if rows else None

    def n_genomes(self) -> int:
        """How many genomes there have been; baselines take no part and are not counted."""
        return int(self._rows("SELECT count(*) FROM genomes WHERE operator <> ?", (BASELINE,))[0][0])

    def _schema(self) -> int:
        """The file's version, which may be an older one where it is only read."""
        return int(self._rows("PRAGMA user_version")[0][0])

    def _rows(self, sql: str, parameters: Row | Mapping[str, object] = ()) -> list[Row]:
        with errors_named(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    def _unknown_genome(self, genome_id: str) -> StoreError:
        near = closest(genome_id, (row[0] for row in self._rows("SELECT id FROM genomes")))
        hint = f"; did you mean {near!r}?" if near else ""
        return StoreError(f"campaign {self.name!r} has no genome {genome_id!r}{hint}")
