"""Records from the rows of a campaign database; the way back is in :mod:`evometa.store.writes`."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

from evometa.genome.genes import Value
from evometa.genome.genome import Genome, Lineage
from evometa.store.records import Baseline, Candidate, Evaluation, GenerationRecord, TaskResult

Row = tuple[Any, ...]


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
        for row in rows
    ]


def _genes(text: str) -> dict[str, Value]:
    genes = json.loads(text)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in genes.items()}


def evaluation_of(rows: list[Row]) -> Evaluation:
    """One evaluation from its rows, one a task; a single row of NULLs where it has no tasks."""
    tasks = tuple(TaskResult(*row[9:]) for row in rows if row[8] is not None)
    _, genome_id, generation, split, purpose, inner_steps, status, message = rows[0][:8]
    return Evaluation(genome_id, generation, split, purpose, inner_steps, status, message, tasks)


def baseline_of(row: Row) -> Baseline:
    """A tuned rule from its row."""
    task, rule, horizon, learning_rate, grid, inner_steps = row
    return Baseline(task, rule, horizon, learning_rate, json.loads(grid), inner_steps)


def generation_record(
    index: int, objectives: list[Row], candidates: list[Row], values: list[Row], totals: Row
) -> GenerationRecord:
    """A generation from its rows of objectives, candidates, values and totals."""
    names = tuple(name for name, _ in objectives)
    value_of = {(genome_id, objective): value for genome_id, objective, value in values}
    placed = sorted((place, genome_id) for genome_id, place, _ in candidates if place is not None)
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
