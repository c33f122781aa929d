"""Between the loop's values and the store's rows: what is committed, and what a resumed driver finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from evometa.campaign.fitness import Evaluated
from evometa.campaign.lifetime import WeightBank
from evometa.campaign.runs import Runs
from evometa.config import CampaignConfig
from evometa.errors import StoreError, quoted
from evometa.genome.genome import BASELINE, Genome, Lineage
from evometa.inner.record import Status
from evometa.objectives.baseline import TunedBaseline
from evometa.rules.registry import RULES
from evometa.store import (
    Baseline,
    CampaignStore,
    Candidate,
    Evaluation,
    GenerationRecord,
    Purpose,
    Timing,
)
from evometa.tasks.base import Split

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Living:
    """What one generation hands to the next.

    Attributes:
        generation: index of the generation that left it; −1 before the first.
        population: the survivors.
        values: their objective values ``(n, M)``.
        stayed: ``(n,)`` whether they stayed in the generation's race to its end.
        runs: per survivor, every task run of its fitness evaluations so far.
        bank: their weights.
        reference: the hypervolume's reference point ``(M,)``, fixed by generation 0; None before.
        baselines: per task source, the tuned hand-designed rules by name; [] before generation 0.
    """

    generation: int
    population: list[Genome]
    values: FloatArray
    stayed: npt.NDArray[np.bool_]
    runs: dict[str, Runs]
    bank: WeightBank
    reference: FloatArray | None
    baselines: list[dict[str, TunedBaseline]]


@dataclass
class Bookkeeping:
    """What a generation commits besides genomes: seeds by stream, seconds and inner steps by phase."""

    streams: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    inner_steps: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """A generation's verdict on everyone in it.

    Attributes:
        genomes: parents and children.
        values: their objective values ``(n, M)``.
        kept: indices of the survivors.
        front: indices of the survivors that none of the survivors dominates.
        evaluated: this generation's evaluations by genome id.
        runs: per genome, every task run of its fitness evaluations so far.
        reference: the hypervolume's reference point ``(M,)``.
        hypervolume: of the front.
    """

    genomes: list[Genome]
    values: FloatArray
    kept: list[int]
    front: list[int]
    evaluated: Mapping[str, Evaluated]
    runs: dict[str, Runs]
    reference: FloatArray
    hypervolume: float


def restore(store: CampaignStore, config: CampaignConfig) -> Living:
    """The state after the last committed generation; an empty one for a new campaign."""
    last = store.last_generation()
    if last is None:
        nothing, nobody = np.empty((0, len(config.objectives.use))), np.empty(0, dtype=np.bool_)
        return Living(-1, [], nothing, nobody, {}, WeightBank(), None, [])
    population = store.population(last)
    values = store.objective_values(last)
    names = config.objectives.use
    bank = WeightBank()
    for genome in population:
        for name in {genome.weights, genome.germline} - {None}:
            bank.blobs[str(name)] = store.weights_bytes(str(name))
    runs: dict[str, list[Runs]] = {genome.id: [] for genome in population}
    left = set()
    for evaluation in store.evaluations(genome_ids=list(runs), purpose="fitness"):
        runs[evaluation.genome_id].append(Runs.of(evaluation.tasks))
        if evaluation.generation == last and evaluation.status == Status.PRUNED:
            left.add(evaluation.genome_id)
    return Living(
        generation=last,
        population=population,
        values=np.array([[values[genome.id][name] for name in names] for genome in population]),
        stayed=np.array([genome.id not in left for genome in population]),
        runs={name: Runs.joined(parts) for name, parts in runs.items()},
        bank=bank,
        reference=np.array(store.generation(0).reference_point),
        baselines=_stored_baselines(store, len(config.tasks)),
    )


def commit_generation(
    store: CampaignStore,
    config: CampaignConfig,
    living: Living,
    judged: Judged,
    children: Sequence[Genome],
    hashes: Mapping[str, str],
    book: Bookkeeping,
) -> None:
    """One transaction: the generation, its new genomes and weights, evaluations, streams and timings.

    ``hashes`` are the functional ones of the children, by id.
    """
    generation = living.generation
    front = {judged.genomes[index].id for index in judged.front}
    record = GenerationRecord(
        index=generation,
        objectives=config.objectives.use,
        reference_point=tuple(np.asarray(living.reference).tolist()),
        candidates=tuple(
            Candidate(genome.id, tuple(row.tolist()), genome.id in front)
            for genome, row in zip(judged.genomes, judged.values, strict=True)
        ),
        population=tuple(genome.id for genome in living.population),
        hypervolume=judged.hypervolume,
        n_failures=sum(found.failed for found in judged.evaluated.values()),
        refinement_inner_steps=book.inner_steps.get("refinement", 0),
        evaluation_inner_steps=book.inner_steps.get("evaluation", 0),
    )
    names = {name for genome in children for name in (genome.weights, genome.germline) if name}
    first = generation == 0
    store.commit_generation(
        record,
        genomes=[*children, *(_flat(baseline_genomes(living.baselines)) if first else ())],
        updates=hashes,
        evaluations=[
            _evaluation(identity, generation, "meta_valid", "fitness", found)
            for identity, found in judged.evaluated.items()
        ],
        weights={name: living.bank.blobs[name] for name in sorted(names)},
        streams=book.streams,
        baselines=_baseline_rows(config, living.baselines) if first else (),
        timings=_timings(generation, book),
    )


def commit_final(
    store: CampaignStore, living: Living, measured: Mapping[Split, Mapping[str, Evaluated]], book: Bookkeeping
) -> None:
    """One transaction: the final evaluations on meta_valid and the report on meta_test."""
    purposes: dict[Split, Purpose] = {"meta_valid": "final", "meta_test": "report"}
    evaluations = [
        _evaluation(identity, living.generation, split, purposes[split], found)
        for split, by_genome in measured.items()
        for identity, found in by_genome.items()
    ]
    store.commit_final(evaluations, streams=book.streams, timings=_timings(living.generation, book))


def baseline_genomes(baselines: Sequence[Mapping[str, TunedBaseline]]) -> list[list[Genome]]:
    """Per task source, each tuned hand-designed rule as a genome that is measured but takes no part."""
    return [
        [
            Genome(
                id=f"{BASELINE}-{rule}-{number}",
                family=rule,
                genes=tuned.candidate().genes,
                lineage=Lineage((), BASELINE, 0),
                name=rule,
            )
            for rule, tuned in by_rule.items()
        ]
        for number, by_rule in enumerate(baselines)
    ]


def _flat(groups: Sequence[Sequence[Genome]]) -> list[Genome]:
    return [genome for group in groups for genome in group]


def _evaluation(
    identity: str, generation: int, split: Split, purpose: Purpose, found: Evaluated
) -> Evaluation:
    return Evaluation(
        identity,
        generation,
        split,
        purpose,
        found.n_inner_steps,
        found.status.value,
        found.message,
        found.rows(),
    )


def _timings(generation: int, book: Bookkeeping) -> list[Timing]:
    return [
        Timing(generation, phase, seconds, book.inner_steps.get(phase, 0))
        for phase, seconds in book.seconds.items()
    ]


def _baseline_rows(
    config: CampaignConfig, baselines: Sequence[Mapping[str, TunedBaseline]]
) -> list[Baseline]:
    return [
        Baseline(
            task=str(number),
            rule=rule,
            horizon=config.tasks[number].horizon,
            learning_rate=tuned.lr,
            grid=tuple(zip(tuned.grid, tuned.scores, strict=True)),
            inner_steps=len(tuned.grid) * config.baseline.n_tasks * config.tasks[number].horizon,
        )
        for number, by_rule in enumerate(baselines)
        for rule, tuned in by_rule.items()
    ]


def is_known_baseline(row: Baseline, n_sources: int) -> bool:
    """Whether a stored row is of a registered rule and one of the campaign's sources."""
    return row.rule in RULES and row.task in map(str, range(n_sources))


def _stored_baselines(store: CampaignStore, n_sources: int) -> list[dict[str, TunedBaseline]]:
    found: list[dict[str, TunedBaseline]] = [{} for _ in range(n_sources)]
    for row in store.baselines():
        if not is_known_baseline(row, n_sources):
            raise StoreError(
                f"campaign {store.name!r} has a baseline {quoted(row.rule)} of source {quoted(row.task)}, "
                "one of them unknown; 'evometa doctor' tells what can be kept"
            )
        rates, scores = zip(*row.grid, strict=True)
        found[int(row.task)][row.rule] = TunedBaseline(row.rule, row.learning_rate, rates, scores)
    return found
