"""From a child's genes to a genome with weights: birth, inheritance and refinement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from evometa.evolution.reproduction import Child
from evometa.execution import Executor, RefinementUnit, UnitResult
from evometa.genome.codec import content_hash, weights_from_bytes, weights_to_bytes
from evometa.genome.genome import Genome, Lineage
from evometa.genome.variation import inherit
from evometa.inner.cohort import Candidate, by_structure
from evometa.inner.evaluate import chunks
from evometa.inner.record import Status
from evometa.inner.task_set import TaskRequest
from evometa.meta import ESTIMATORS, Estimator, Refinement, TaskStream
from evometa.rng import torch_generator
from evometa.rules.learner import Learner, has_weights
from evometa.trees import Tree, all_finite


@dataclass
class WeightBank:
    """Weights by content hash: those of the living population, and the blobs not yet in the database."""

    blobs: dict[str, bytes] = field(default_factory=dict)

    def put(self, weights: Tree) -> str | None:
        """Keep ``weights`` and return their hash; None for a genome without weights."""
        if not weights:
            return None
        data = weights_to_bytes(weights)
        name = content_hash(data)
        self.blobs[name] = data
        return name

    def get(self, name: str | None) -> Tree:
        """The weights of hash ``name``; {} for None."""
        return {} if name is None else weights_from_bytes(self.blobs[name])

    def keep_only(self, names: set[str]) -> None:
        """Forget all weights but those of ``names``: memory stays flat over generations."""
        self.blobs = {name: data for name, data in self.blobs.items() if name in names}


def birth(
    children: Sequence[Child], parents: Mapping[str, Genome], bank: WeightBank, seed: int, generation: int
) -> list[Genome]:
    """Genomes of ``children`` with fresh or inherited weights, not yet refined."""
    genomes = []
    for index, child in enumerate(children):
        learner = Learner.of(child.family, child.genes)
        weights = learner.init_weights(torch_generator(seed, "weights", generation, index))
        how = "initialised" if weights else "none"
        if child.weights_from is not None:
            weights, how = inherit(bank.get(parents[child.weights_from].germline), weights)
        name = bank.put(weights)
        lineage = Lineage(child.parents, child.operator, generation, how)
        identity = f"{generation:03d}-{index:03d}"
        genomes.append(Genome(identity, child.family, child.genes, name, name, lineage, child.name))
    return genomes


def candidate_of(genome: Genome, bank: WeightBank) -> Candidate:
    """What a unit of work needs of a genome."""
    return Candidate(genome.id, genome.family, genome.genes, bank.get(genome.weights))


@dataclass(frozen=True)
class Refined:
    """Genomes after their lifetime's meta-training, and what it cost."""

    genomes: list[Genome]
    n_inner_steps: int
    seconds: float


def refine(
    genomes: Sequence[Genome],
    bank: WeightBank,
    streams: Sequence[TaskStream],
    executor: Executor,
    progress: Callable[[UnitResult], None] | None = None,
) -> Refined:
    """Meta-train every genome that has weights and whose genes ask for it, as those genes say.

    A genome whose refinement fails keeps the weights it was born with, and its lineage says why.
    """
    wanting = [genome for genome in genomes if wants_refinement(genome)]
    units = _units(wanting, bank, streams, executor.device)
    # The longest first, so that no worker is left with one at the end.
    units.sort(key=lambda unit: -int(unit.candidates[0].genes["meta.steps"]))  # type: ignore[arg-type]
    outcome: dict[str, tuple[Tree | None, str]] = {}
    steps, seconds = 0, 0.0
    for result in executor.run(units, progress):
        seconds += result.seconds
        for index, candidate in enumerate(result.unit.candidates):
            outcome[candidate.id] = _lifetime(result, index)
        if isinstance(result.value, Refinement):
            steps += result.value.n_inner_steps * len(result.unit.candidates)
    return Refined([_written_back(genome, outcome, bank) for genome in genomes], steps, seconds)


def wants_refinement(genome: Genome) -> bool:
    """Whether a genome has weights and its genes ask for meta-training."""
    return has_weights(genome.family, genome.genes) and genome.genes["meta.write_back"] != "none"


def _units(
    genomes: Sequence[Genome], bank: WeightBank, streams: Sequence[TaskStream], device: torch.device
) -> list[RefinementUnit]:
    """Genomes of equal structure, estimator and meta-structure together, cut into chunks."""
    candidates = [candidate_of(genome, bank) for genome in genomes]
    units = []
    for members in by_structure(candidates).values():
        alike: dict[object, list[Candidate]] = {}
        for index in members:
            estimator = _estimator(candidates[index])
            key = (estimator.name, estimator.structure(candidates[index].genes))
            alike.setdefault(key, []).append(candidates[index])
        for group in alike.values():
            # The first meta-batch stands for the size of all of them.
            first = streams[0]
            sample = TaskRequest(first.use, first.options, "meta_train", first.n_tasks, 1, first.seed)
            live = _estimator(group[0]).live_steps(group[0].genes)
            for chunk in chunks(group, sample, device, live):
                units.append(RefinementUnit(tuple(group[i] for i in chunk), tuple(streams)))
    return units


def _estimator(candidate: Candidate) -> Estimator:
    return ESTIMATORS[str(candidate.genes["meta.estimator"])]


def _lifetime(result: UnitResult, index: int) -> tuple[Tree | None, str]:
    """The refined weights of one candidate (None where it failed) and what happened, in words."""
    if result.status != Status.COMPLETE or not isinstance(result.value, Refinement):
        return None, f"refinement failed ({result.status}: {result.message})"
    weights, skipped = result.value.weights[index], result.value.n_skipped[index]
    steps = int(result.unit.candidates[index].genes["meta.steps"])  # type: ignore[arg-type]
    if not all_finite(weights):
        return None, "refinement failed (its weights became non-finite)"
    note = f", {skipped} skipped for a non-finite meta-gradient" if skipped else ""
    return weights, f"refined {steps} meta-steps{note}"


def _written_back(genome: Genome, outcome: Mapping[str, tuple[Tree | None, str]], bank: WeightBank) -> Genome:
    if genome.id not in outcome:
        return genome
    weights, how = outcome[genome.id]
    lineage = replace(genome.lineage, weights=f"{genome.lineage.weights}; {how}")
    if weights is None:
        return replace(genome, lineage=lineage)
    name = bank.put(weights)
    heritable = genome.germline if genome.genes["meta.write_back"] == "baldwinian" else name
    return replace(genome, weights=name, germline=heritable, lineage=lineage)
