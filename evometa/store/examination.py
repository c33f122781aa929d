"""What is wrong with a campaign database: pages, references, hashes, lineage and counts.

A generation is built on those before it, and all that it holds can be computed again from them. So damage is
told by the first generation that it touches: from there on a campaign is rolled back
(:mod:`evometa.store.repair`) and run again.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evometa.errors import StoreError
from evometa.store.column_types import wrong_types
from evometa.store.connection import connect_reader, errors_named

#: What helps: run again from ``Finding.generation`` on; remove what nobody refers to; a copy of the file.
Remedy = Literal["roll back", "remove", "salvage", "restore"]

#: Lines of SQLite's own check that are told.
_MOST_LINES = 5


@dataclass(frozen=True)
class Finding:
    """Something wrong.

    Attributes:
        line: one line for reading.
        remedy: what helps.
        generation: with "roll back" the first generation that is touched.
    """

    line: str
    remedy: Remedy
    generation: int | None = None


#: Tables whose rows belong to a generation.
OF_GENERATIONS = (
    "genomes",
    "evaluations",
    "objective_values",
    "candidates",
    "objectives",
    "streams",
    "timings",
)
#: Rows that contradict others: title with the columns in braces, and a query for the generation and columns.
_CONTRADICTIONS: tuple[tuple[str, str], ...] = (
    (
        "generation {0} is missing",
        """SELECT own.generation - 1, own.generation - 1 FROM generations AS own
        LEFT JOIN generations AS before ON before.generation = own.generation - 1
        WHERE own.generation > 0 AND before.generation IS NULL""",
    ),
    (
        "there are no tuned baselines",
        """SELECT 0 WHERE EXISTS (SELECT * FROM generations) AND NOT EXISTS (SELECT * FROM baselines)""",
    ),
    (
        "how {0} was tuned is not there",
        """SELECT generation, id FROM genomes WHERE operator = 'baseline'
        AND id NOT IN (SELECT 'baseline-' || rule || '-' || task FROM baselines)""",
    ),
    (
        "generation {0} has no random streams",
        """SELECT generation, generation FROM generations
        WHERE generation NOT IN (SELECT generation FROM streams)""",
    ),
    (
        "generation {0} has {1} objectives, generation 0 has {2}",
        """SELECT generation, generation, n, (SELECT count(*) FROM objectives WHERE generation = 0)
        FROM (SELECT g.generation, count(o.name) AS n FROM generations AS g
            LEFT JOIN objectives AS o USING (generation) GROUP BY g.generation)
        WHERE n = 0 OR n <> (SELECT count(*) FROM objectives WHERE generation = 0)""",
    ),
    (
        "generation {0} has {1} candidates, numbered up to {2}",
        """SELECT generation, generation, n, last FROM (
            SELECT g.generation, count(c.genome_id) AS n, coalesce(max(c.position), -1) AS last
            FROM generations AS g LEFT JOIN candidates AS c USING (generation) GROUP BY g.generation)
        WHERE n = 0 OR n <> last + 1""",
    ),
    (
        "the population of generation {0} has {1} genomes in places up to {2}",
        """SELECT generation, generation, n, last FROM (
            SELECT generation, count(place) AS n, coalesce(max(place), -1) AS last
            FROM candidates GROUP BY generation)
        WHERE n = 0 OR n <> last + 1""",
    ),
    (
        "generation {0} has no front",
        "SELECT generation, generation FROM candidates GROUP BY generation HAVING max(in_front) = 0",
    ),
    (
        "generation {0} has {1} objective values, its candidates ask for {2}",
        """SELECT generation, generation, n_values, n_candidates * n_objectives FROM (
            SELECT generation,
                (SELECT count(*) FROM objective_values AS v WHERE v.generation = g.generation) AS n_values,
                (SELECT count(*) FROM candidates AS c WHERE c.generation = g.generation) AS n_candidates,
                (SELECT count(*) FROM objectives AS o WHERE o.generation = g.generation) AS n_objectives
            FROM generations AS g)
        WHERE n_values <> n_candidates * n_objectives""",
    ),
    (
        "generation {0} was ranked by {1} inner steps, its evaluations have {2}",
        """SELECT generation, generation, evaluation_inner_steps, steps FROM (
            SELECT g.generation, g.evaluation_inner_steps, coalesce(sum(e.inner_steps), 0) AS steps
            FROM generations AS g LEFT JOIN evaluations AS e
                ON e.generation = g.generation AND e.purpose = 'fitness' GROUP BY g.generation)
        WHERE evaluation_inner_steps <> steps""",
    ),
    (
        "genome {1} is a candidate of generation {0} and is not there",
        """SELECT c.generation, c.generation, c.genome_id FROM candidates AS c
        LEFT JOIN genomes AS g ON g.id = c.genome_id WHERE g.id IS NULL""",
    ),
    (
        "genome {1} is a candidate of generation {0} and born in {2}",
        """SELECT c.generation, c.generation, c.genome_id, g.generation FROM candidates AS c
        JOIN genomes AS g ON g.id = c.genome_id WHERE g.generation > c.generation""",
    ),
    (
        "genome {1} of generation {0} asks for weights that are not there",
        """SELECT g.generation, g.generation, g.id FROM genomes AS g
        WHERE g.weights IS NOT NULL AND g.weights NOT IN (SELECT hash FROM weights)
            OR g.germline IS NOT NULL AND g.germline NOT IN (SELECT hash FROM weights)""",
    ),
    (
        "genome {1} of generation {0} descends from {2}, which is not there",
        """SELECT child.generation, child.generation, child.id, p.parent_id FROM parents AS p
        JOIN genomes AS child ON child.id = p.genome_id
        LEFT JOIN genomes AS parent ON parent.id = p.parent_id WHERE parent.id IS NULL""",
    ),
    (
        "genome {1} of generation {0} descends from {2} of generation {3}",
        """SELECT child.generation, child.generation, child.id, parent.id, parent.generation
        FROM parents AS p JOIN genomes AS child ON child.id = p.genome_id
        JOIN genomes AS parent ON parent.id = p.parent_id WHERE parent.generation >= child.generation""",
    ),
    (
        "the genes of genome {1} of generation {0} are not JSON",
        "SELECT generation, generation, id FROM genomes WHERE NOT json_valid(genes)",
    ),
    *(
        (
            f"{table} has rows of generation {{0}}, which is not there",
            f"""SELECT DISTINCT generation, generation FROM {table}
            WHERE generation NOT IN (SELECT generation FROM generations)""",
        )
        for table in OF_GENERATIONS
    ),
    (
        "an evaluation of generation {0} is of genome {1}, which is not there",
        """SELECT e.generation, e.generation, e.genome_id FROM evaluations AS e
        LEFT JOIN genomes AS g ON g.id = e.genome_id WHERE g.id IS NULL""",
    ),
    (
        "the evaluation of genome {1} in generation {0} ({2}) has {3} runs, numbered up to {4}",
        """SELECT e.generation, e.generation, e.genome_id, e.purpose, count(t.position),
            coalesce(max(t.position), -1)
        FROM evaluations AS e LEFT JOIN task_results AS t ON t.evaluation = e.number GROUP BY e.number
        HAVING count(t.position) = 0 OR count(t.position) <> max(t.position) + 1""",
    ),
    (
        "evaluations of generation {0} ({1}) have from {2} to {3} runs",
        """SELECT generation, generation, purpose, min(n), max(n) FROM (
            SELECT e.generation, e.purpose, count(t.position) AS n, g.operator = 'baseline' AS on_one_source
            FROM evaluations AS e JOIN genomes AS g ON g.id = e.genome_id
            LEFT JOIN task_results AS t ON t.evaluation = e.number
            WHERE e.status IN ('complete', 'diverged') GROUP BY e.number)
        GROUP BY generation, purpose, on_one_source HAVING min(n) <> max(n)""",
    ),
    (
        "the campaign is called finished and has no final evaluations of generation {0}",
        """SELECT last, last FROM (SELECT max(generation) AS last FROM generations), campaign
        WHERE campaign.finished AND last NOT IN
            (SELECT generation FROM evaluations WHERE purpose <> 'fitness')""",
    ),
    (
        "genome {1} is in the front of generation {0}, the last one, and has no final measurements",
        """SELECT c.generation, c.generation, c.genome_id FROM candidates AS c, campaign
        WHERE campaign.finished AND c.in_front AND c.generation = (SELECT max(generation) FROM generations)
            AND c.genome_id NOT IN (SELECT genome_id FROM evaluations WHERE purpose <> 'fitness')""",
    ),
    (
        # Evaluations are numbered as they come: that of a run without one is no older than the one before.
        "there are runs of an evaluation that is not there, of generation {0} at the earliest",
        """SELECT DISTINCT generation, generation FROM (
            SELECT coalesce((SELECT generation FROM evaluations WHERE number < t.evaluation
                ORDER BY number DESC LIMIT 1), 0) AS generation
            FROM task_results AS t WHERE evaluation NOT IN (SELECT number FROM evaluations))""",
    ),
)


def examine(path: Path) -> list[Finding]:
    """What is wrong with the database at ``path``, the gravest first; [] for a sound one. Writes nothing.

    Raises StoreError where there is no campaign database to examine: a missing, foreign or newer file.
    """
    try:
        connection = connect_reader(path)
    except StoreError as error:
        return [_damage(error)]
    with closing(connection):
        try:
            with errors_named(path):
                connection.execute("BEGIN")
                pages = list(_pages(connection))
                if pages:
                    return pages
                types = list(_types(connection))
                if types:  # what else is asked would compare them
                    return types
                return [*_contradictions(connection), *_weights(connection)]
        except StoreError as error:
            return [_damage(error)]


def _damage(error: StoreError) -> Finding:
    """What is found where SQLite calls the file damaged. Raises ``error`` where it says another thing."""
    code = getattr(error.__cause__, "sqlite_errorcode", 0)
    if code & 0xFF != sqlite3.SQLITE_CORRUPT:
        raise error
    return Finding(f"the file is truncated or damaged ({error.__cause__})", "salvage")


def first_touched(findings: list[Finding]) -> int | None:
    """The first generation that has to be computed again; None where none has."""
    return min((f.generation for f in findings if f.generation is not None), default=None)


def _pages(connection: sqlite3.Connection) -> Iterator[Finding]:
    rows = connection.execute(f"PRAGMA integrity_check({_MOST_LINES})").fetchall()
    if rows != [("ok",)]:
        for (line,) in rows:
            yield Finding(f"the file is damaged: {' '.join(str(line).split())}", "salvage")


def _types(connection: sqlite3.Connection) -> Iterator[Finding]:
    for line, generation in wrong_types(connection):
        yield Finding(line, "restore" if generation is None else "roll back", generation)


def _contradictions(connection: sqlite3.Connection) -> Iterator[Finding]:
    for title, query in _CONTRADICTIONS:
        for generation, *values in connection.execute(query):
            yield Finding(title.format(*values), "roll back", generation)


def _weights(connection: sqlite3.Connection) -> Iterator[Finding]:
    users: dict[str, int] = {}
    for names in ("weights", "germline"):
        rows = connection.execute(
            f"SELECT {names}, min(generation) FROM genomes WHERE {names} IS NOT NULL GROUP BY {names}"
        )
        for name, generation in rows:
            users[name] = min(generation, users.get(name, generation))
    unused = 0
    for name, data in connection.execute("SELECT hash, data FROM weights"):
        if name not in users:
            unused += 1
        elif hashlib.sha256(data).hexdigest() != name:
            line = f"the weights {name[:12]}… of generation {users[name]} do not match their hash"
            yield Finding(line, "roll back", users[name])
    if unused:
        yield Finding(f"{unused} weights are stored that no genome refers to", "remove")
