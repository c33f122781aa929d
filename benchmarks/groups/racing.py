"""What racing and the functional hash save, and what they cost in quality.

The README's campaign is run with several seeds in each of several ways. Fronts are compared by the
hypervolume of their final values, on fresh tasks, with the plain campaign's reference point of the same seed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.groups.campaign import QUICKSTART
from benchmarks.rounds import Progress
from evometa.campaign.results import read_front
from evometa.campaign.session import run_campaign
from evometa.config import CampaignConfig, load_config
from evometa.evolution.front import FloatArray, bounds, hypervolume
from evometa.store import CampaignStore

#: Seeds of the campaigns.
N_SEEDS = 6
#: The plain way, with which the others are compared.
PLAIN = "plain"
#: What each way sets; ``{steps}`` stands for the inner steps that the plain campaign took.
WAYS: Mapping[str, Sequence[str]] = {
    PLAIN: ("evolution.skip_equal=false",),
    "equal genomes skipped": (),
    "racing": ("racing.enabled=true",),
    "racing, with as many inner steps": (
        "racing.enabled=true",
        "evolution.generations=1000",
        "budget.inner_steps={steps}",
    ),
}


@dataclass(frozen=True)
class Trial:
    """One campaign.

    Attributes:
        hypervolume: of its front, in [0, 1].
        evaluation_steps: inner steps of fitness evaluations.
        inner_steps: inner steps of its generations, meta-training included.
        seconds: of its generations; tuning and final measurements are the same for all.
        n_generations: how many there were.
        n_skipped: genomes that were not evaluated, being equal to others.
    """

    hypervolume: float
    evaluation_steps: int
    inner_steps: int
    seconds: float
    n_generations: int
    n_skipped: int


@dataclass(frozen=True)
class Saving:
    """A way beside the plain one, over the seeds.

    Attributes:
        trials: one a seed.
        evaluation_steps, seconds: medians, relative to the plain campaign of the same seed.
        gain: mean difference of the hypervolumes.
        interval: its 95 % interval, bootstrapped over the seeds.
    """

    trials: tuple[Trial, ...]
    evaluation_steps: float
    seconds: float
    gain: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, trials: Sequence[Trial], plain: Sequence[Trial]) -> Saving:
        """What ``trials`` save, each beside the plain one of its seed."""
        gains = np.array(
            [own.hypervolume - other.hypervolume for own, other in zip(trials, plain, strict=True)]
        )
        low, high = (0.0, 0.0)
        if gains.any():
            found = stats.bootstrap((gains,), np.mean, rng=np.random.default_rng(0), method="percentile")
            low, high = map(float, found.confidence_interval)

        def relative(name: str) -> float:
            pairs = zip(trials, plain, strict=True)
            return float(np.median([getattr(own, name) / getattr(other, name) for own, other in pairs]))

        return cls(
            tuple(trials), relative("evaluation_steps"), relative("seconds"), float(gains.mean()), (low, high)
        )

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return asdict(self)


def settings(way: str, seed: int, steps: int, device: str, *, quick: bool) -> CampaignConfig:
    """The README's campaign in one of the ways."""
    changes = [change.format(steps=max(steps, 1)) for change in WAYS[way]]
    sizes = [f"seed={seed}", "final.n_tasks=64", "final.test_tasks=1", f'execution.device="{device}"']
    if quick:
        sizes += ["evolution.population=4", "tasks.0.horizon=4", "refinement.max_steps=2", "final.n_tasks=2"]
        sizes += ["evolution.generations=2"]
        changes = [change for change in changes if not change.startswith("evolution.generations")]
    return load_config(
        QUICKSTART, [*sizes, *changes], name=f"{way} {seed}".replace(" ", "-").replace(",", "")
    )


def measure(progress: Progress, device: str, *, quick: bool) -> dict[str, Saving]:
    """Run the campaigns, the ways of one seed after each other, and compare."""
    seeds = range(2 if quick else N_SEEDS)
    trials: dict[str, list[Trial]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            reference, steps = None, 0
            for number, way in enumerate(WAYS):
                progress("racing", seed * len(WAYS) + number + 1, len(seeds) * len(WAYS))
                config = settings(way, seed, steps, device, quick=quick)
                path = run_campaign(config, Path(folder))
                with CampaignStore.open(path, readonly=True) as store:
                    if reference is None:
                        reference = np.array(store.generation(0).reference_point)
                        final = (*store.evaluations(purpose="final"), *store.evaluations(purpose="report"))
                        steps = store.n_inner_steps() - sum(one.inner_steps for one in final)
                    trials[way].append(_trial(store, reference))
    return {way: Saving.of(own, trials[PLAIN]) for way, own in trials.items()}


def _trial(store: CampaignStore, reference: FloatArray) -> Trial:
    front, records = read_front(store), store.generations()
    ideal, _ = bounds(front.objectives, front.values)
    skipped = [one for one in store.genomes() if store.first_with_updates_of(one.id) is not None]
    evaluation = sum(record.evaluation_inner_steps for record in records)
    return Trial(
        hypervolume(front.values, front.objectives, ideal, reference),
        evaluation,
        evaluation + sum(record.refinement_inner_steps for record in records),
        store.seconds(),
        len(records),
        len(skipped),
    )
