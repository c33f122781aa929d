"""The share of a campaign's wall-clock that is not inner training, at P = 256 and G = 50.

A campaign is run as a user runs it; whatever passes outside the executor's runs (variation, ranking, store,
the figure drawn in the end) is not inner training. Nor are runs that hash updates to find equal genomes, nor
is counting the operations of every new structure, which workers do inside the runs where an objective asks
for it: it is timed once more afterwards, and a worker's share of that is added.
So is a worker's share of the processor's time that the driver's own thread takes inside the runs, to hand
units out and to unpack results.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.rounds import Progress
from evometa.campaign.events import GenerationSummary, Silent
from evometa.campaign.runs import reads_flops
from evometa.campaign.session import run_campaign
from evometa.config import CampaignConfig, load_config
from evometa.execution import Executor, FingerprintUnit, Unit, pick_devices, pick_workers
from evometa.genome.genome import Genome
from evometa.native import build_all
from evometa.objectives import find_objective
from evometa.plots.registry import draw
from evometa.rules.cost import count_anew
from evometa.rules.learner import Learner
from evometa.store import CampaignStore

#: The campaign of the README's first minutes, which this one enlarges.
QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.toml"


@dataclass(frozen=True)
class Share:
    """Seconds of one campaign.

    Attributes:
        total_seconds: from its start to its figure.
        inner_seconds: inside the executor's runs.
        driving_seconds: of processor time that the driver's own thread takes inside the executor's runs.
        counting_seconds: of counting the operations of all its structures, alone.
        figure_seconds: of drawing the Pareto front.
        n_workers: processes that train and count side by side.
    """

    population: int
    generations: int
    n_tasks: int
    horizon: int
    total_seconds: float
    inner_seconds: float
    driving_seconds: float
    counting_seconds: float
    figure_seconds: float
    n_workers: int

    @property
    def other_seconds(self) -> float:
        """Wall-clock that is not inner training."""
        inside = self.driving_seconds + self.counting_seconds
        return self.total_seconds - self.inner_seconds + inside / self.n_workers

    @property
    def other(self) -> float:
        """Share of the wall-clock that is not inner training."""
        return self.other_seconds / self.total_seconds

    @property
    def other_seconds_per_generation(self) -> float:
        """What a generation takes beside its inner training."""
        return (self.other_seconds - self.figure_seconds) / self.generations

    def to_json(self) -> dict[str, Any]:
        """Everything, with the share."""
        return {**asdict(self), "other_share": self.other}


def settings(device: str = "cpu", *, quick: bool) -> CampaignConfig:
    """The README's campaign, with P = 256 and G = 50."""
    population, generations = (4, 2) if quick else (256, 50)
    sizes = [f"evolution.population={population}", f"evolution.generations={generations}"]
    if quick:
        sizes += ["tasks.0.horizon=4", "refinement.max_steps=4", "final.n_tasks=2", "final.test_tasks=2"]
    return load_config(QUICKSTART, [*sizes, f'execution.device="{device}"'])


@contextmanager
def timed_executor() -> Iterator[list[tuple[float, float]]]:
    """Of every run in the block that trains the seconds, and those that this thread computed."""
    seconds: list[tuple[float, float]] = []
    run = Executor.run

    def timed(self: Executor, units: Sequence[Unit], *args: Any) -> Any:
        if units and isinstance(units[0], FingerprintUnit):
            return run(self, units, *args)
        started, used = time.perf_counter(), time.thread_time()
        try:
            return run(self, units, *args)
        finally:
            computed = 0.0 if self.is_inline else time.thread_time() - used
            seconds.append((time.perf_counter() - started, computed))

    Executor.run = timed  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        Executor.run = run  # type: ignore[method-assign]


def counting_seconds(genomes: Iterable[Genome]) -> float:
    """Of counting the operations of every structure among ``genomes`` once, in this process."""
    learners = [Learner.of(genome.family, genome.genes) for genome in genomes]
    distinct = {own.rule_family.structure(dict(own.genes)): own for own in learners}
    started = time.perf_counter()
    for learner in distinct.values():
        count_anew(learner)
    return time.perf_counter() - started


class _Watch(Silent):
    """Tells the generations."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def generation(self, summary: GenerationSummary) -> None:
        self.progress("campaign", summary.generation + 1, summary.n_generations)


def measure(progress: Progress, device: str, *, quick: bool) -> Share:
    """Run the campaign in a temporary folder."""
    config = settings(device, quick=quick)
    build_all()  # once a machine, not once a campaign
    with tempfile.TemporaryDirectory() as folder, timed_executor() as inner:
        started = time.perf_counter()
        path = run_campaign(config, Path(folder), listener=_Watch(progress))
        drawing = time.perf_counter()
        with CampaignStore.open(path, readonly=True) as store:
            draw("pareto_front", store, Path(folder))
            ended = time.perf_counter()
            counts = reads_flops(map(find_objective, config.objectives.use))
            counting = counting_seconds(store.genomes()) if counts else 0.0
    (source,) = config.tasks
    return Share(
        population=config.evolution.population,
        generations=config.evolution.generations,
        n_tasks=source.n_tasks,
        horizon=source.horizon,
        total_seconds=ended - started,
        inner_seconds=sum(seconds for seconds, _ in inner),
        driving_seconds=sum(used for _, used in inner),
        counting_seconds=counting,
        figure_seconds=ended - drawing,
        n_workers=pick_workers(config.execution.workers, pick_devices(config.execution.device)),
    )
