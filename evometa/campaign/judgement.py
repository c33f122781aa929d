"""The verdict on a generation: who is evaluated on what, what everyone is worth, and who survives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from evometa.campaign.events import Listener
from evometa.campaign.fitness import CommonTasks, Evaluated, evaluate_all
from evometa.campaign.lifetime import candidate_of
from evometa.campaign.persistence import Judged, Living
from evometa.campaign.racing import race
from evometa.campaign.runs import Runs, objective_values, reads_flops
from evometa.config import CampaignConfig
from evometa.evolution.front import bounds, hypervolume, non_dominated
from evometa.evolution.ranking import survivors
from evometa.execution import Executor
from evometa.genome.genome import Genome
from evometa.objectives import Objective

FloatArray = npt.NDArray[np.float64]


def judge(
    genomes: list[Genome],
    tasks: Sequence[CommonTasks],
    before: Living,
    objectives: Sequence[Objective],
    config: CampaignConfig,
    executor: Executor,
    listener: Listener,
) -> tuple[Judged, float]:
    """Evaluate ``genomes`` on ``tasks``, in a race if the configuration asks for one, and select.

    Also returns the seconds of work. What a survivor went through in earlier generations counts with it.
    """
    size = config.evolution.population
    candidates = [candidate_of(genome, before.bank) for genome in genomes]

    def evaluate(members: Sequence[int], some: Sequence[CommonTasks]) -> tuple[list[Evaluated], float]:
        listener.phase("evaluation", len(members) * len(some))
        found, seconds = evaluate_all(
            [candidates[index] for index in members],
            some,
            executor,
            listener.unit,
            counted=reads_flops(objectives),
            max_failed=config.execution.max_failed_fraction,
        )
        return [found[genomes[index].id] for index in members], seconds

    def value(members: Sequence[int], runs: Sequence[Runs], pooled: bool) -> FloatArray:
        own = {genomes[index].id: one for index, one in zip(members, runs, strict=True)}
        counted = _joined(before.runs, own) if pooled else own
        return objective_values([genomes[index] for index in members], counted, objectives)

    rungs = config.racing.rungs if config.racing.enabled else ()
    run = race(len(genomes), tasks, rungs, size, evaluate, value)
    kept = _survivors(run.values, run.left, size)
    best = [index for index in kept if run.left[index] == len(rungs)]
    front = [best[place] for place in non_dominated(run.values[best])]
    ideal, reference = bounds(objectives, run.values)
    reference = reference if before.reference is None else before.reference
    volume = hypervolume(run.values[front], objectives, ideal, reference)
    evaluated = {genome.id: one for genome, one in zip(genomes, run.evaluated, strict=True)}
    runs = _joined(before.runs, {identity: one.runs for identity, one in evaluated.items()})
    judged = Judged(genomes, run.values, kept, front, evaluated, runs, reference, volume)
    return judged, run.seconds


def _joined(earlier: Mapping[str, Runs], own: Mapping[str, Runs]) -> dict[str, Runs]:
    """``own`` runs, by genome, each after the genome's earlier ones."""
    return {
        name: Runs.joined((earlier[name], runs)) if name in earlier else runs for name, runs in own.items()
    }


def _survivors(values: FloatArray, left: npt.NDArray[np.int64], size: int) -> list[int]:
    """Indices of the ``size`` that survive: whoever got farther in the race, and of equals NSGA-II's."""
    kept: list[int] = []
    for rung in sorted(set(left.tolist()), reverse=True):
        (members,) = np.nonzero(left == rung)
        kept += members[survivors(values[members], size - len(kept))].tolist()
        if len(kept) == size:
            break
    return sorted(kept)
