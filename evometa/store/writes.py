"""Rows of a campaign database from records; each function runs inside the caller's transaction."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from numbers import Integral, Real
from types import MappingProxyType

from evometa.errors import StoreError
from evometa.genome.genome import Genome
from evometa.store.records import Baseline, Evaluation, GenerationRecord, TaskResult, Timing, finite_or_none

SQLValue = int | float | str | bytes | None
_NOTHING: Mapping[str, str] = MappingProxyType({})


def sql_value(value: object) -> SQLValue:
    """``value`` as SQLite takes it: numbers of any library as int or float, those not finite as NULL.

    Lone surrogates, which the text of an exception may hold, are written as escapes.
    """
    if isinstance(value, float):  # most are
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return sql_text(value)
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, int | Integral):  # int first: an abstract class takes its time to answer
        return int(value)
    if isinstance(value, Real):
        return sql_value(float(value))
    raise StoreError(f"cannot store a value of type {type(value).__name__} in a campaign")


def sql_text(text: str) -> str:
    """``text`` as SQLite takes it, see :func:`sql_value`."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def insert(connection: sqlite3.Connection, table: str, rows: Iterable[Mapping[str, object]]) -> None:
    """One row a mapping of column to value; all rows have the columns of the first."""
    remaining = iter(rows)
    first = next(remaining, None)
    if first is None:
        return
    every = chain([first], remaining)
    _insert(connection, table, list(first), ([sql_value(row[column]) for column in first] for row in every))


def _insert(
    connection: sqlite3.Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[SQLValue]]
) -> None:
    """One row a list of the values of ``columns``; SQLite itself takes NaN as NULL."""
    statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    connection.executemany(statement, rows)


def insert_weights(connection: sqlite3.Connection, weights: Mapping[str, bytes]) -> None:
    """Blobs under their content hash; one that is there already stays."""
    if not weights:
        return
    from evometa.genome.codec import content_hash  # late: it brings torch, which readers do without

    wrong = next((name for name, data in weights.items() if content_hash(data) != name), None)
    if wrong is not None:
        raise StoreError(f"weights {wrong!r} are not stored: the name is not the SHA-256 of the bytes")
    connection.executemany("INSERT OR IGNORE INTO weights (hash, data) VALUES (?, ?)", weights.items())


def insert_genomes(
    connection: sqlite3.Connection, genomes: Iterable[Genome], updates: Mapping[str, str] = _NOTHING
) -> None:
    """New genomes and their lineage; ``updates`` by id as far as they are known."""
    genomes = list(genomes)
    insert(
        connection,
        "genomes",
        (
            {
                "id": genome.id,
                "family": genome.family,
                "name": genome.name,
                "genes": _genes_json(genome),
                "weights": genome.weights,
                "germline": genome.germline,
                "operator": genome.lineage.operator,
                "generation": genome.lineage.generation,
                "weights_origin": genome.lineage.weights,
                "updates": updates.get(genome.id),
            }
            for genome in genomes
        ),
    )
    insert(
        connection,
        "parents",
        (
            {"genome_id": genome.id, "position": position, "parent_id": parent}
            for genome in genomes
            for position, parent in enumerate(genome.lineage.parents)
        ),
    )


def insert_generation(connection: sqlite3.Connection, record: GenerationRecord) -> None:
    """A generation's totals, objectives, candidates and values. Raises StoreError when they disagree."""
    _check(record)
    generation = {"generation": record.index}
    totals = {
        "hypervolume": record.hypervolume,
        "n_failures": record.n_failures,
        "refinement_inner_steps": record.refinement_inner_steps,
        "evaluation_inner_steps": record.evaluation_inner_steps,
    }
    insert(connection, "generations", [{**generation, **totals}])
    insert(
        connection,
        "objectives",
        (
            {**generation, "position": position, "name": name, "reference": reference}
            for position, (name, reference) in enumerate(
                zip(record.objectives, record.reference_point, strict=True)
            )
        ),
    )
    place = {genome_id: position for position, genome_id in enumerate(record.population)}
    _insert(
        connection,
        "candidates",
        ("generation", "genome_id", "position", "place", "in_front"),
        (
            (record.index, candidate.genome_id, position, place.get(candidate.genome_id), candidate.in_front)
            for position, candidate in enumerate(record.candidates)
        ),
    )
    _insert(
        connection,
        "objective_values",
        ("generation", "genome_id", "objective", "value"),
        (
            (record.index, candidate.genome_id, name, value)
            for candidate in record.candidates
            for name, value in zip(record.objectives, candidate.values, strict=True)
        ),
    )


def insert_evaluations(connection: sqlite3.Connection, evaluations: Iterable[Evaluation]) -> None:
    """Evaluations and their task results."""
    (last,) = connection.execute("SELECT coalesce(max(number), 0) FROM evaluations").fetchone()
    rows: list[dict[str, object]] = []
    tasks: list[tuple[SQLValue, ...]] = []
    for number, evaluation in enumerate(evaluations, last + 1):
        own = {name: value for name, value in vars(evaluation).items() if name != "tasks"}
        rows.append({"number": number, **own})
        tasks += [
            (number, position, sql_text(task[0]), sql_text(task[1]), *task[2:])
            for position, task in enumerate(evaluation.tasks)
        ]
    insert(connection, "evaluations", rows)
    _insert(connection, "task_results", ("evaluation", "position", *TaskResult._fields), tasks)


def insert_streams(connection: sqlite3.Connection, generation: int, streams: Mapping[str, int]) -> None:
    """The random streams that a generation drew from."""
    rows = ({"generation": generation, "name": name, "seed": seed} for name, seed in streams.items())
    insert(connection, "streams", rows)


def insert_baselines(connection: sqlite3.Connection, baselines: Iterable[Baseline]) -> None:
    """Newly tuned hand-designed rules."""
    for baseline in baselines:
        grid = json.dumps([[finite_or_none(rate), finite_or_none(score)] for rate, score in baseline.grid])
        insert(connection, "baselines", [{**vars(baseline), "grid": grid}])


def insert_timings(connection: sqlite3.Connection, timings: Iterable[Timing]) -> None:
    """Wall-clock seconds."""
    insert(connection, "timings", (vars(timing) for timing in timings))


def _genes_json(genome: Genome) -> str:
    """Genes as an exported genome has them: tuples as lists, in order."""
    try:
        return json.dumps(dict(genome.genes), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"genome {genome.id!r} is not stored: its genes are not plain values ({error})"
        ) from error


def _check(record: GenerationRecord) -> None:
    where = f"generation {record.index} is not stored"
    n_objectives = len(record.objectives)
    if len(record.reference_point) != n_objectives:
        raise StoreError(
            f"{where}: {n_objectives} objectives, a reference point of {len(record.reference_point)} values"
        )
    for candidate in record.candidates:
        if len(candidate.values) != n_objectives:
            raise StoreError(
                f"{where}: candidate {candidate.genome_id!r} has {len(candidate.values)} values for "
                f"{n_objectives} objectives"
            )
    known = {candidate.genome_id for candidate in record.candidates}
    for genome_id in record.population:
        if genome_id not in known:
            raise StoreError(f"{where}: {genome_id!r} is in the population but not among the candidates")
    if len(set(record.population)) != len(record.population):
        raise StoreError(f"{where}: a genome stands twice in the population")
