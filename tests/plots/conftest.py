"""Three small campaigns to draw: a finished one, one that was interrupted, one whose front has one member."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evometa.campaign import Campaign, GenerationSummary, Silent
from evometa.config import (
    BaselineConfig,
    CampaignConfig,
    EvolutionConfig,
    FinalConfig,
    ObjectivesConfig,
    RefinementConfig,
    TaskSource,
    config_to_json,
)
from evometa.execution import Executor, pick_device
from evometa.genome.codec import genome_to_json
from evometa.genome.genome import Genome
from evometa.store import CampaignStore

QUADRATIC = TaskSource("quadratic", n_tasks=3, horizon=10, options={"dim": 3})
ROSENBROCK = TaskSource("rosenbrock", n_tasks=2, horizon=4)

SMALL = CampaignConfig(
    name="small",
    seed=4,
    tasks=(QUADRATIC,),
    evolution=EvolutionConfig(
        population=6,
        generations=3,
        families=("sgd", "adam", "recurrent"),
        seeds=(),
        mutation_rate=0.5,
        crossover_probability=0.6,
    ),
    genes={"hidden": 4, "layers": 1, "meta.steps": 2},
    refinement=RefinementConfig(n_tasks=2),
    final=FinalConfig(n_tasks=4, test_tasks=2),
    baseline=BaselineConfig(n_tasks=3, n_points=3),
)


class _Interrupt(Silent):
    """Ctrl-C once a generation is in."""

    def __init__(self, generation: int) -> None:
        self.last = generation

    def generation(self, summary: GenerationSummary) -> None:
        if summary.generation == self.last:
            raise KeyboardInterrupt


def run_campaign(config: CampaignConfig, root: Path, interrupted_after: int | None = None) -> Path:
    """The database of ``config`` run under ``root``, as a whole or up to a generation."""
    path = root / config.name / "campaign.db"
    listener = Silent() if interrupted_after is None else _Interrupt(interrupted_after)
    with CampaignStore.create(path, config_json=config_to_json(config)) as store:
        cache = root / "baselines.json"  # tuned once for all of them
        campaign = Campaign(config, store, Executor(pick_device("cpu"), 1), listener, cache)
        if interrupted_after is None:
            campaign.run()
        else:
            with pytest.raises(KeyboardInterrupt):
                campaign.run()
    return path


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the campaigns lie."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def databases(root: Path) -> dict[str, Path]:
    """Campaigns by name."""
    seeds = root / "seeds"
    seeds.mkdir()
    for family in ("sgd", "adam"):
        seed = Genome(f"seed-{family}", family, {"lr": 0.01, "schedule": "constant"}, name=f"plain {family}")
        (seeds / f"{family}.json").write_text(genome_to_json(seed), encoding="utf-8")
    unfinished = replace(
        SMALL,
        name="unfinished",
        tasks=(QUADRATIC, ROSENBROCK),
        evolution=replace(SMALL.evolution, population=4, generations=9, seeds=(str(seeds),)),
        objectives=ObjectivesConfig(("meta_loss", "state_floats", "flops")),
    )
    single = replace(
        SMALL,
        name="single",
        evolution=replace(SMALL.evolution, population=4, generations=1, families=("sgd",)),
        genes={"schedule": "constant"},
    )
    return {
        "small": run_campaign(SMALL, root),
        "unfinished": run_campaign(unfinished, root, interrupted_after=1),
        "single": run_campaign(single, root),
    }


@pytest.fixture(scope="session")
def open_store(databases: dict[str, Path]) -> Iterator[Callable[[str], CampaignStore]]:
    """Opens one of the campaigns for reading, by name."""
    stores = {name: CampaignStore.open(path, readonly=True) for name, path in databases.items()}
    yield stores.__getitem__
    for store in stores.values():
        store.close()


@pytest.fixture(scope="session")
def small(open_store: Callable[[str], CampaignStore]) -> CampaignStore:
    """Finished after three generations: hand-designed and recurrent rules, two objectives."""
    return open_store("small")


@pytest.fixture(scope="session")
def unfinished(open_store: Callable[[str], CampaignStore]) -> CampaignStore:
    """Interrupted after two of nine generations: three objectives, two task sources, two named seeds."""
    return open_store("unfinished")


@pytest.fixture(scope="session")
def single(open_store: Callable[[str], CampaignStore]) -> CampaignStore:
    """Finished after its only generation; the front has one member."""
    return open_store("single")


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[CampaignStore]:
    """A campaign without a generation."""
    path = tmp_path / "empty" / "campaign.db"
    with CampaignStore.create(path, config_json=config_to_json(replace(SMALL, name="empty"))) as store:
        yield store
    shutil.rmtree(path.parent)
