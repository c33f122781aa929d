"""Records from the rows of a campaign database; the way back is in :mod:`evometa.store.writes`.

SQLite holds any value in any column. A file that was damaged, or that a stranger made, may have a text where
a number belongs: each function here raises StoreError for it.
"""

from __future__ import annotations

import json
import math
import reprlib
from itertools import groupby
from types import NoneType
from typing import Any

from evometa.errors import StoreError
from evometa.genome.genes import Value
from evometa.genome.genome import Genome, Lineage
from evometa.store.records import (
    Baseline,
    Candidate,
    Evaluation,
    GenerationRecord,
    GenerationTotals,
    JournalEntry,
    TaskResult,
    Timing,
)

Row = tuple[Any, ...]

_NUMBER = (int, float)
_MAYBE_NUMBER = (int, float, NoneType)
_MAYBE_TEXT = (str, NoneType)
_GENOME = (str, str, str, str, _MAYBE_TEXT, _MAYBE_TEXT, str, int, str)
_EVALUATION = (int, str, int, str, str, int, str, str)
_TASK_RESULT = (int, str, str, str, *(_MAYBE_NUMBER,) * 6)
_BASELINE = (str, str, int, _NUMBER, str, int)
_OBJECTIVE = (str, _MAYBE_NUMBER)
_CANDIDATE = (str, (int, NoneType), int)
_VALUE = (str, str, _MAYBE_NUMBER)
_TIMING = (int, str, _NUMBER, int)
_ENTRY = (str, str, str)
_OWN_TOTALS = (int, _MAYBE_NUMBER, int, int, int)
_TOTALS = (_MAYBE_NUMBER, int, int, int)


def typed(row: Row, kinds: tuple[Any, ...], table: str) -> Row:
    """``row``, its values of these types. Raises StoreError for another one."""
    if not all(map(isinstance, row, kinds)):
        wrong = next(value for value, kind in zip(row, kinds, strict=True) if not isinstance(value, kind))
        raise damaged(table, f"{reprlib.repr(wrong)} stands where it cannot")
    return row


def damaged(table: str, what: str) -> StoreError:
    """The error for rows that no campaign writes."""
    return StoreError(f"the table {table} is damaged: {what}; 'evometa doctor' tells what can be kept")


def json_value(text: str, table: str) -> Any:
    """What the JSON of a row holds. Raises StoreError for a text that is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(table, f"{reprlib.repr(text)} is not JSON") from error


def genomes_of(rows: list[Row], parents: list[Row]) -> list[Genome]:
    """Genomes from their rows and the (genome, parent) pairs, sorted by genome."""
    parents_of = {
        child: tuple(p for _, p in pairs) for child, pairs in groupby(parents, key=lambda row: row[0])
    }
    return [
        Genome(
            id=row[0],
            family=row[1],
            name=row[2],
            genes=_genes(row[3]),
            weights=row[4],
            germline=row[5],
            lineage=Lineage(
                parents=parents_of.get(row[0], ()), operator=row[6], generation=row[7], weights=row[8]
            ),
        )
        for row in (typed(row, _GENOME, "genomes") for row in rows)
    ]


def _genes(text: str) -> dict[str, Value]:
    genes = json_value(text, "genomes")
    if not isinstance(genes, dict):
        raise damaged("genomes", f"genes are {reprlib.repr(genes)}")
    return {name: _gene(value) for name, value in genes.items()}


def _gene(value: object) -> Value:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if isinstance(value, bool | int | float | str):
        return value
    raise damaged("genomes", f"a gene is {reprlib.repr(value)}")


def evaluation_of(rows: list[Row]) -> Evaluation:
    """One evaluation from its rows, one a task; a single row of NULLs where it has no tasks."""
    tasks = tuple(
        TaskResult(*typed(row[8:], _TASK_RESULT, "task_results")[1:]) for row in rows if row[8] is not None
    )
    own = typed(rows[0][:8], _EVALUATION, "evaluations")
    _, genome_id, generation, split, purpose, inner_steps, status, message = own
    return Evaluation(genome_id, generation, split, purpose, inner_steps, status, message, tasks)


def baseline_of(row: Row) -> Baseline:
    """A tuned rule from its row."""
    task, rule, horizon, learning_rate, text, inner_steps = typed(row, _BASELINE, "baselines")
    grid = json_value(text, "baselines")
    if not isinstance(grid, list) or not all(_is_point(point) for point in grid):
        raise damaged("baselines", f"a grid is {reprlib.repr(grid)}")
    return Baseline(task, rule, horizon, learning_rate, tuple((x, y) for x, y in grid), inner_steps)


def totals_of(row: Row) -> GenerationTotals:
    """What a generation came to from its row."""
    return GenerationTotals(*typed(row, _OWN_TOTALS, "generations"))


def timing_of(row: Row) -> Timing:
    """The seconds of a phase from its row."""
    finite(row[2], "timings")
    return Timing(*typed(row, _TIMING, "timings"))


def entry_of(row: Row) -> JournalEntry:
    """An entry of the journal from its row."""
    topic, line, text = typed(row, _ENTRY, "journal")
    data = json_value(text, "journal")
    if not isinstance(data, dict):
        raise damaged("journal", f"{topic!r} holds {reprlib.repr(data)}")
    return JournalEntry(topic, line, data)


def finite(value: object, table: str) -> float:
    """A number that is one. Raises StoreError for text, infinities and the like."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise damaged(table, f"{reprlib.repr(value)} is no finite number")
    return value


def nan_where_none(value: object, table: str) -> float:
    """A number, or ``nan`` for NULL. Raises StoreError for anything else."""
    return math.nan if value is None else float(finite(value, table))


def _is_point(point: object) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(isinstance(n, _MAYBE_NUMBER) for n in point)


def generation_record(
    index: int, objectives: list[Row], candidates: list[Row], values: list[Row], totals: Row
) -> GenerationRecord:
    """A generation from its rows of objectives, candidates, values and totals."""
    names = tuple(name for name, _ in (typed(row, _OBJECTIVE, "objectives") for row in objectives))
    value_of = {
        (genome_id, objective): value
        for genome_id, objective, value in (typed(row, _VALUE, "objective_values") for row in values)
    }
    placed = sorted(
        (place, genome_id)
        for genome_id, place, _ in (typed(row, _CANDIDATE, "candidates") for row in candidates)
        if place is not None
    )
    missing = next(
        ((one, name) for one, *_ in candidates for name in names if (one, name) not in value_of), None
    )
    if missing is not None:
        raise damaged(
            "objective_values", f"genome {missing[0]!r} of generation {index} has no {missing[1]!r}"
        )
    totals = typed(totals, _TOTALS, "generations")
    return GenerationRecord(
        index=index,
        objectives=names,
        reference_point=tuple(reference for _, reference in objectives),
        candidates=tuple(
            Candidate(genome_id, tuple(value_of[genome_id, name] for name in names), bool(in_front))
            for genome_id, _, in_front in candidates
        ),
        population=tuple(genome_id for _, genome_id in placed),
        hypervolume=totals[0],
        n_failures=totals[1],
        refinement_inner_steps=totals[2],
        evaluation_inner_steps=totals[3],
    )
