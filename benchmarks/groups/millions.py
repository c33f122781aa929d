"""A database with as many evaluations as wanted, made through the store as a campaign makes it.

Numbers are drawn; everything else is what a campaign on one source of tasks would have stored: parents and
children are evaluated in every generation, on two tasks. Genomes are of hand-designed rules, so that there
are no weights, which none of the commands timed on it read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from evometa.config import CampaignConfig, EvolutionConfig, TaskSource, config_to_json
from evometa.genome.genome import Genome, Lineage
from evometa.rules.learner import Learner
from evometa.store import CampaignStore, Candidate, Evaluation, GenerationRecord, TaskResult, Timing
from evometa.store.records import Purpose
from evometa.tasks.base import Split

OBJECTIVES = ("meta_loss", "state_floats")
N_TASKS = 2
#: Genomes that are evaluated in a generation, parents and children.
PER_GENERATION = 1000


def fill(path: Path, n_evaluations: int) -> tuple[int, int]:
    """Make a finished campaign at ``path``; how many evaluations and task results it has."""
    half = PER_GENERATION // 2
    n_generations = n_evaluations // PER_GENERATION + 1  # the first has no parents yet
    config = CampaignConfig(
        name=path.parent.name,
        tasks=(TaskSource("quadratic", n_tasks=N_TASKS),),
        evolution=EvolutionConfig(population=half, generations=n_generations),
    )
    genes = dict(Learner.of("adam", {}).genes)
    draw = np.random.default_rng(0)
    n = 0
    with CampaignStore.create(path, config_json=config_to_json(config)) as store:
        parents: list[str] = []
        for index in range(n_generations):
            children = [f"{index:04d}-{number:04d}" for number in range(half)]
            everyone = [*parents, *children]
            store.commit_generation(
                _record(index, everyone, children, draw),
                genomes=[
                    Genome(
                        child,
                        "adam",
                        genes,
                        lineage=Lineage((parents[i],) if parents else (), "mutation", index),
                    )
                    for i, child in enumerate(children)
                ],
                evaluations=_evaluations(everyone, index, "meta_valid", "fitness", draw),
                streams={"tasks": index},
                timings=[Timing(index, "generation", 1.0, 100)],
            )
            n += len(everyone)
            parents = children
        last = n_generations - 1
        front = [genome.id for genome in store.front(last)]
        store.commit_final(
            [
                *_evaluations(front, last, "meta_valid", "final", draw),
                *_evaluations(front, last, "meta_test", "report", draw),
            ]
        )
    n += 2 * len(front)
    return n, n * N_TASKS


def _record(
    index: int, everyone: list[str], children: list[str], draw: np.random.Generator
) -> GenerationRecord:
    values = draw.random((len(everyone), len(OBJECTIVES)))
    return GenerationRecord(
        index=index,
        objectives=OBJECTIVES,
        reference_point=(1.0, 1.0),
        candidates=tuple(
            Candidate(one, tuple(row), in_front=place % 50 == 0)
            for place, (one, row) in enumerate(zip(everyone, values, strict=True))
        ),
        population=tuple(children),
        hypervolume=float(draw.random()),
        evaluation_inner_steps=100 * len(everyone),
    )


def _evaluations(
    genomes: list[str], generation: int, split: Split, purpose: Purpose, draw: np.random.Generator
) -> Iterator[Evaluation]:
    numbers = draw.random((len(genomes), N_TASKS, 6)).tolist()
    for genome, rows in zip(genomes, numbers, strict=True):
        tasks = tuple(
            TaskResult._make(("quadratic", "spectrum of 10 coordinates", "complete", *row)) for row in rows
        )
        yield Evaluation(genome, generation, split, purpose, 100, "complete", "", tasks)
