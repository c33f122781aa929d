"""What a campaign found, read from its store: the front that counts, its knee, its best, its report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evometa.campaign.runs import Runs, objective_values
from evometa.config import CampaignConfig, config_from_json
from evometa.errors import StoreError, unknown
from evometa.evolution.front import knee, non_dominated
from evometa.genome.codec import weights_from_bytes
from evometa.genome.genome import BASELINE, Genome
from evometa.inner.cohort import Candidate
from evometa.objectives import Objective, find_objective
from evometa.store import CampaignStore, Purpose

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Front:
    """A campaign's Pareto front.

    Attributes:
        genomes: its members, best in the first objective first.
        values: their objective values ``(n, M)``: from the final evaluation on fresh meta_valid tasks where
            ``final``, else those of the last generation.
        test_values: the same on meta_test ``(n, M)``; None before the campaign has finished.
        objectives: the M objectives.
        final: whether the campaign has finished.
        knee: index of the knee.
    """

    genomes: list[Genome]
    values: FloatArray
    test_values: FloatArray | None
    objectives: list[Objective]
    final: bool
    knee: int

    def best(self, name: str) -> int:
        """Index of the member best in objective ``name``. Raises StoreError for an unknown name."""
        names = [objective.name for objective in self.objectives]
        if name not in names:
            raise StoreError(unknown("objective of this campaign", name, names))
        return int(np.argmin(self.values[:, names.index(name)]))


@dataclass(frozen=True)
class BaselineValues:
    """A tuned hand-designed rule on the same tasks as the front.

    Attributes:
        rule: its name.
        values, test_values: objective values ``(M,)`` on the final meta_valid tasks and on meta_test.
        learning_rates: the tuned one of each task source.
    """

    rule: str
    values: FloatArray
    test_values: FloatArray
    learning_rates: tuple[float, ...]


def campaign_config(store: CampaignStore) -> CampaignConfig:
    """The configuration stored with a campaign."""
    return config_from_json(store.config(), source=f"campaign {store.name!r}")


def campaign_objectives(store: CampaignStore) -> list[Objective]:
    """The objectives of a campaign in order."""
    return [find_objective(name) for name in campaign_config(store).objectives.use]


def stored_candidate(store: CampaignStore, genome: Genome) -> Candidate:
    """A genome of the store with the weights it acts with: ready to be trained with or exported."""
    weights = {} if genome.weights is None else weights_from_bytes(store.weights_bytes(genome.weights))
    return Candidate(genome.id, genome.family, genome.genes, weights)


def read_front(store: CampaignStore) -> Front:
    """The campaign's front as it stands. Raises StoreError before the first generation is committed."""
    last = store.last_generation()
    if last is None:
        raise StoreError(f"campaign {store.name!r} has no finished generation yet")
    objectives = campaign_objectives(store)
    genomes = store.front(last)
    if not genomes:
        raise StoreError(
            f"campaign {store.name!r} has no front after generation {last}; "
            "'evometa doctor' tells what can be kept"
        )
    if store.status() == "finished":
        values = _values(store, genomes, objectives, "final")
        test_values = _values(store, genomes, objectives, "report")
    else:
        stored = store.objective_values(last)
        try:
            values = np.array([[stored[g.id][o.name] for o in objectives] for g in genomes])
        except KeyError as error:
            raise StoreError(
                f"campaign {store.name!r} has no value of {error} for every genome of its front; "
                "'evometa doctor' tells what can be kept"
            ) from error
        test_values = None
    members = sorted(non_dominated(values), key=lambda index: tuple(values[index]))
    values = values[members]
    return Front(
        genomes=[genomes[index] for index in members],
        values=values,
        test_values=None if test_values is None else test_values[members],
        objectives=objectives,
        final=test_values is not None,
        knee=knee(values, objectives),
    )


def read_baselines(store: CampaignStore) -> list[BaselineValues]:
    """The tuned hand-designed rules of a finished campaign; [] before it has finished."""
    if store.status() != "finished":
        return []
    objectives = campaign_objectives(store)
    rates: dict[str, list[float]] = defaultdict(list)
    for row in store.baselines():
        rates[row.rule].append(row.learning_rate)
    final, report = _pooled(store, "final"), _pooled(store, "report")
    found = []
    for rule, lrs in rates.items():
        ids = [f"{BASELINE}-{rule}-{number}" for number in range(len(lrs))]
        genome = store.genome(ids[0])

        def of(runs: dict[str, Runs], ids: list[str] = ids, genome: Genome = genome) -> FloatArray:
            pooled = {genome.id: Runs.joined(runs[identity] for identity in ids)}
            return np.asarray(objective_values([genome], pooled, objectives)[0])

        found.append(BaselineValues(rule, of(final), of(report), tuple(lrs)))
    return found


def _values(
    store: CampaignStore, genomes: Sequence[Genome], objectives: Sequence[Objective], purpose: Purpose
) -> FloatArray:
    runs = _pooled(store, purpose)
    missing = next((genome.id for genome in genomes if genome.id not in runs), None)
    if missing is not None:
        raise StoreError(
            f"campaign {store.name!r} has no {purpose} measurement of genome {missing}; 'evometa doctor' "
            "tells what can be kept"
        )
    return objective_values(genomes, runs, objectives)


def _pooled(store: CampaignStore, purpose: Purpose) -> dict[str, Runs]:
    """Task runs by genome of every evaluation made for ``purpose``."""
    parts: dict[str, list[Runs]] = defaultdict(list)
    for evaluation in store.evaluations(purpose=purpose):
        parts[evaluation.genome_id].append(Runs.of(evaluation.tasks))
    return {name: Runs.joined(own) for name, own in parts.items()}
