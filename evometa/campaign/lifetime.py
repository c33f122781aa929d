"""From a child's genes to a genome with weights: birth, inheritance and refinement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from evometa.campaign.blame import on_which_tasks_of
from evometa.campaign.fitness import refuse_failures
from evometa.errors import EvometaError, GenomeError
from evometa.evolution.reproduction import Child
from evometa.execution import Executor, RefinementUnit, UnitResult
from evometa.genome.codec import content_hash, weights_from_bytes, weights_to_bytes
from evometa.genome.genome import Genome, Lineage
from evometa.genome.space import Space
from evometa.genome.variation import inherit
from evometa.inner.cohort import Candidate, by_structure
from evometa.inner.evaluate import chunks
from evometa.inner.limit import megabytes
from evometa.inner.record import Status
from evometa.inner.task_set import TaskRequest
from evometa.meta import ESTIMATORS, Refinement, TaskStream, meta_genes, meta_structure
from evometa.meta.genes import whole
from evometa.meta.replay import PLAIN, RECORDED
from evometa.rng import torch_generator
from evometa.rules.cost import note_sizes
from evometa.rules.learner import Learner
from evometa.rules.learner_structure import has_weights
from evometa.store import JournalEntry
from evometa.tasks.base import Init
from evometa.tasks.options import described
from evometa.trees import Tree, count


@dataclass
class WeightBank:
    """Weights by content hash: those of the living population, and the blobs not yet in the database.

    They are kept as tensors too, from when they are put in or asked for: survivors are trained in every
    generation. What only waits to be refined has no hash yet.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    _trees: dict[str, Tree] = field(default_factory=dict, repr=False)
    _n_held: int = 0

    def hold(self, weights: Tree) -> str | None:
        """Keep ``weights``, which nobody edits, under a name that :meth:`named` replaces; None for none."""
        if not weights:
            return None
        self._n_held += 1
        name = f"held {self._n_held}"
        self._trees[name] = {own: weights[own] for own in sorted(weights)}  # the order in which sums are made
        return name

    def named(self, name: str | None) -> str | None:
        """The hash of the weights that are kept under ``name``; they are put in if they were only held."""
        if name is None or name in self.blobs:
            return name
        return self.put(self._trees[name])

    def put(self, weights: Tree) -> str | None:
        """Keep a copy of ``weights`` and return its hash; None for a genome without weights."""
        if not weights:
            return None
        # Copies, since the tensors of one candidate may be pieces of those of all.
        own = {each: weights[each].detach().cpu().clone() for each in sorted(weights)}
        data = weights_to_bytes(own)
        name = content_hash(data)
        self.blobs[name] = data
        self._trees[name] = own
        return name

    def get(self, name: str | None) -> Tree:
        """The weights of hash ``name``; {} for None."""
        if name is None:
            return {}
        if name not in self._trees:
            self._trees[name] = weights_from_bytes(self.blobs[name])
        return self._trees[name]

    def keep_only(self, names: set[str]) -> None:
        """Forget all weights but those of ``names``: memory stays flat over generations."""
        self.blobs = {name: data for name, data in self.blobs.items() if name in names}
        self._trees = {name: tree for name, tree in self._trees.items() if name in names}


def birth(
    children: Sequence[Child],
    parents: Mapping[str, Genome],
    bank: WeightBank,
    seed: int,
    generation: int,
    draw_start: Init | None = None,
) -> list[Genome]:
    """Genomes of ``children`` with fresh or inherited weights, not yet refined.

    Weights that are new have no hash before :func:`refine`, after which most are others. ``draw_start`` draws
    the params ``(N,)`` that a learned initialisation begins from.
    """
    genomes = []
    for index, child in enumerate(children):
        parent = None if child.weights_from is None else parents[child.weights_from]
        generator = torch_generator(seed, "weights", generation, index)
        try:
            start = None
            if draw_start is not None and child.genes.get("init") == "learned":
                start = draw_start(torch_generator(seed, "start", generation, index))
            name, how = _endowed(child, parent, bank, generator, start)
        except EvometaError:
            raise
        except Exception as error:  # a rule of a user's own may raise anything; it is named and chained
            what = f"a genome of the family {child.family!r} cannot be made from its genes"
            raise GenomeError(f"{what} ({described(error)}); mend the rule and resume") from error
        lineage = Lineage(child.parents, child.operator, generation, how)
        identity = f"{generation:03d}-{index:03d}"
        genomes.append(Genome(identity, child.family, child.genes, name, name, lineage, child.name))
    return genomes


def _endowed(
    child: Child,
    parent: Genome | None,
    bank: WeightBank,
    generator: torch.Generator,
    start: torch.Tensor | None,
) -> tuple[str | None, str]:
    """Under which name the child's first weights are kept, and how it came by them."""
    learner = Learner.of(child.family, child.genes)
    if parent is not None and parent.germline and learner.structure == _structure(parent):
        return parent.germline, "inherited"  # all of the parent's weights, and no others
    weights = learner.init_weights(generator, start)
    note_sizes(learner, weights)
    how = "initialised" if weights else "none"
    if parent is not None:
        weights, how = inherit(bank.get(parent.germline), weights)
    return bank.hold(weights), how


def _structure(genome: Genome) -> Hashable:
    return Learner.of(genome.family, genome.genes).structure


def candidate_of(genome: Genome, bank: WeightBank) -> Candidate:
    """What a unit of work needs of a genome."""
    return Candidate(genome.id, genome.family, genome.genes, bank.get(genome.weights))


@dataclass(frozen=True)
class Refined:
    """Genomes after their lifetime's meta-training, and what it cost.

    ``ways`` says how many had their meta-gradients fitted into memory in which way.
    """

    genomes: list[Genome]
    n_inner_steps: int
    seconds: float
    ways: Mapping[str, int]


def refine(
    genomes: Sequence[Genome],
    bank: WeightBank,
    streams: Sequence[TaskStream],
    executor: Executor,
    progress: Callable[[UnitResult], None] | None = None,
    max_failed: float = 1.0,
    spaces: Mapping[str, Space] | None = None,
) -> Refined:
    """Meta-train every genome that has weights and whose genes ask for it, as those genes say.

    What is written into genes keeps to ``spaces``, by family, if they are given.

    A genome whose refinement fails keeps the weights it was born with, and its lineage says why. Raises
    TaskError where more than the share ``max_failed`` of them fail.
    """
    wanting = [genome for genome in genomes if wants_refinement(genome)]
    units = _units(wanting, bank, streams, executor)
    outcome: dict[str, tuple[str | None, str]] = {}

    def take(result: UnitResult) -> None:
        for index, candidate in enumerate(result.unit.candidates):
            weights, how = _lifetime(result, index)
            outcome[candidate.id] = None if weights is None else bank.put(weights), how
        if progress is not None:
            progress(result)

    ways: Counter[str] = Counter()
    steps, seconds = 0, 0.0
    results = executor.run(units, take)
    names = ", ".join(repr(stream.use) for stream in streams)
    refuse_failures(
        results,
        f"meta-training on tasks {names}",
        max_failed,
        lambda failed: on_which_tasks_of(failed, streams, executor),
    )
    for result in results:
        seconds += result.seconds
        if isinstance(result.value, Refinement):
            steps += result.value.n_inner_steps * len(result.unit.candidates)
            ways.update({way: len(result.unit.candidates) for way in result.value.ways})
    grown = [_named(_written_back(genome, outcome, bank, spaces or {}), bank) for genome in genomes]
    return Refined(grown, steps, seconds, ways)


def _named(genome: Genome, bank: WeightBank) -> Genome:
    """The genome with the hashes of its weights."""
    weights, germline = bank.named(genome.weights), bank.named(genome.germline)
    if (weights, germline) == (genome.weights, genome.germline):
        return genome
    return replace(genome, weights=weights, germline=germline)


def memory_entry(ways: Mapping[str, int], generation: int, max_bytes: int | None) -> JournalEntry | None:
    """How backpropagation was fitted into memory in a generation; None where there was enough for all."""
    if set(ways) <= {PLAIN, RECORDED}:
        return None
    counts = ", ".join(f"{way} for {ways[way]}" for way in sorted(ways))
    within = "" if max_bytes is None else f" within {megabytes(max_bytes)} a worker"
    line = f"generation {generation}: meta-gradients by backpropagation{within}: {counts} genomes"
    return JournalEntry("memory", line, {"generation": generation, "max_bytes": max_bytes, **ways})


def wants_refinement(genome: Genome) -> bool:
    """Whether a genome has weights and its genes ask for meta-training."""
    return has_weights(genome.family, genome.genes) and genome.genes["meta.write_back"] != "none"


def _units(
    genomes: Sequence[Genome], bank: WeightBank, streams: Sequence[TaskStream], executor: Executor
) -> list[RefinementUnit]:
    """Genomes of equal structure, estimator and meta-structure together, cut into chunks.

    The longest come first, so that no worker is left with one at the end. An update of a network takes about
    a multiply-add for each of its weights.
    """
    candidates = [candidate_of(genome, bank) for genome in genomes]
    units: list[tuple[int, RefinementUnit]] = []
    for members in by_structure(candidates).values():
        alike: dict[object, list[Candidate]] = {}
        for index in members:
            key = meta_structure(meta_genes(candidates[index].genes))
            alike.setdefault(key, []).append(candidates[index])
        for group in alike.values():
            # The first meta-batch stands for the size of all of them.
            first = streams[0]
            sample = TaskRequest(first.use, first.options, "meta_train", first.n_tasks, 1, first.seed)
            genes = meta_genes(group[0].genes)
            footprint = ESTIMATORS[str(genes["meta.estimator"])].footprint(genes)
            updates = whole(genes, "meta.steps") * whole(genes, "meta.truncation") * footprint.n_trainings
            work = updates * count(group[0].weights)
            cut = chunks(
                group,
                sample,
                executor.device,
                footprint.breadth,
                max_bytes=executor.max_bytes,
                fit=footprint.candidates_in,
            )
            for chunk in cut:
                unit = RefinementUnit(tuple(group[i] for i in chunk), tuple(streams))
                units.append((work * len(chunk), unit))
    return [unit for _, unit in sorted(units, key=lambda pair: -pair[0])]


def _lifetime(result: UnitResult, index: int) -> tuple[Tree | None, str]:
    """The refined weights of one candidate (None where it failed) and what happened, in words."""
    if result.status != Status.COMPLETE or not isinstance(result.value, Refinement):
        return None, f"refinement failed ({result.status}: {result.message})"
    weights = result.value.weights[index]
    skipped = result.value.n_skipped[index]
    steps = int(result.unit.candidates[index].genes["meta.steps"])  # type: ignore[arg-type]
    if not result.value.finite[index]:
        return None, "refinement failed (its weights became non-finite)"
    note = f", {skipped} skipped for a non-finite meta-gradient" if skipped else ""
    return weights, f"refined {steps} meta-steps{note}"


def _written_back(
    genome: Genome,
    outcome: Mapping[str, tuple[str | None, str]],
    bank: WeightBank,
    spaces: Mapping[str, Space],
) -> Genome:
    """The genome after its lifetime: ``outcome`` has the name of its weights, None where that failed.

    What is inherited stands in the genes where they can say it.
    """
    if genome.id not in outcome:
        return genome
    name, how = outcome[genome.id]
    lineage = replace(genome.lineage, weights=f"{genome.lineage.weights}; {how}")
    if name is None:
        return replace(genome, lineage=lineage)
    if genome.genes["meta.write_back"] == "baldwinian":
        return replace(genome, weights=name, lineage=lineage)
    learner = Learner.of(genome.family, genome.genes)
    if learner.rule_family.is_formula:
        genes, weights = learner.absorbed(bank.get(name), spaces.get(genome.family))
        genome, name = replace(genome, genes={**genome.genes, **genes}), bank.put(weights)
    return replace(genome, weights=name, germline=name, lineage=lineage)
