"""What the Pareto figure shows: the front of a campaign, and what surrounds it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from evometa.campaign.results import Front, read_baselines, read_front
from evometa.objectives import Objective
from evometa.rules.registry import RULES
from evometa.store import CampaignStore, GenerationRecord

FloatArray = npt.NDArray[np.float64]

#: Fronts of earlier generations that are drawn, from pale to dark.
N_EARLIER = 4


@dataclass(frozen=True)
class Landmark:
    """A named rule that is no member of the front: its ``label``, its ``family``, its ``values`` ``(M,)``."""

    label: str
    family: str
    values: FloatArray


@dataclass(frozen=True)
class ParetoFrontData:
    """What the figure shows; M objectives.

    Attributes:
        objectives: the M objectives (with one only, the generation of birth is added as a second).
        ids, families: of the front's members, best in the first objective first.
        values: theirs, ``(n, M)``.
        best, knee: indices of the member best in the first objective and of the knee.
        final: whether ``values`` are from the final evaluation, else from the last generation's.
        n_generations: generations so far.
        earlier: generation → the values of its front ``(n, M)``, for a few earlier generations.
        others: last known values of all other genomes ``(n, M)``.
        other_families: theirs.
        landmarks: tuned hand-designed rules, before the campaign has finished its seed genomes.
    """

    objectives: list[Objective]
    ids: list[str]
    families: list[str]
    values: FloatArray
    best: int
    knee: int
    final: bool
    n_generations: int
    earlier: dict[int, FloatArray]
    others: FloatArray
    other_families: list[str]
    landmarks: list[Landmark]

    @property
    def places_of_others(self) -> dict[str, list[int]]:
        """Of each family the places of its genomes in ``others``, families in the registry's order."""
        order = [*RULES.names(), *self.other_families]
        return {
            family: [place for place, own in enumerate(self.other_families) if own == family]
            for family in sorted(set(self.other_families), key=order.index)
        }


def pareto_front_data(store: CampaignStore) -> ParetoFrontData:
    """The front of a campaign and what surrounds it. Raises StoreError before the first generation."""
    front = read_front(store)
    records = store.generations()
    latest = {candidate.genome_id: candidate.values for record in records for candidate in record.candidates}
    ids = [genome.id for genome in front.genomes]
    rest = [genome_id for genome_id in latest if genome_id not in ids]
    family_of = {genome.id: genome.family for genome in store.genomes(rest)}
    others = np.array([latest[genome_id] for genome_id in rest])
    data = ParetoFrontData(
        objectives=front.objectives,
        ids=ids,
        families=[genome.family for genome in front.genomes],
        values=front.values,
        best=front.best(front.objectives[0].name),
        knee=front.knee,
        final=front.final,
        n_generations=len(records),
        earlier={record.index: _front_values(record) for record in _a_few(records[:-1])},
        others=others.reshape(-1, len(front.objectives)),
        other_families=[family_of[genome_id] for genome_id in rest],
        landmarks=_tuned_rules(store) if front.final else _seeds(store, latest),
    )
    return data if len(front.objectives) > 1 else _with_birth(data, front, store, list(latest))


def _a_few(records: list[GenerationRecord]) -> list[GenerationRecord]:
    """At most :data:`N_EARLIER` of ``records`` at even distances, the first and the last among them."""
    if not records:
        return []
    places = np.linspace(0, len(records) - 1, N_EARLIER).round().astype(int)
    return [records[place] for place in sorted(set(places.tolist()))]


def _front_values(record: GenerationRecord) -> FloatArray:
    return np.array([candidate.values for candidate in record.candidates if candidate.in_front])


def _tuned_rules(store: CampaignStore) -> list[Landmark]:
    return [Landmark(found.rule, found.rule, found.values) for found in read_baselines(store)]


def _seeds(store: CampaignStore, latest: dict[str, tuple[float, ...]]) -> list[Landmark]:
    """The named seed genomes of generation 0 with their last known values."""
    seeds = [genome for genome in store.genomes(latest) if genome.lineage.operator == "seed" and genome.name]
    return [Landmark(genome.name, genome.family, np.array(latest[genome.id])) for genome in seeds]


def _with_birth(
    data: ParetoFrontData, front: Front, store: CampaignStore, evaluated: list[str]
) -> ParetoFrontData:
    """The same with the generation of birth as a second column: a single objective has no pairs."""
    born = {genome.id: float(genome.lineage.generation) for genome in store.genomes(evaluated)}

    def widened(values: FloatArray, births: list[float]) -> FloatArray:
        return np.column_stack([values, births])

    ids = [genome.id for genome in front.genomes]
    return replace(
        data,
        objectives=[
            *data.objectives,
            Objective("birth", "generation of birth", "generation", lambda _: 0.0, worst=0.0),
        ],
        values=widened(data.values, [born[identity] for identity in ids]),
        earlier={
            generation: widened(values, [float(generation)] * len(values))
            for generation, values in data.earlier.items()
        },
        others=widened(data.others, [born[identity] for identity in evaluated if identity not in ids]),
        landmarks=[replace(mark, values=np.append(mark.values, 0.0)) for mark in data.landmarks],
    )
