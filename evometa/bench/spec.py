"""What a bench is asked for: plain data, the same for equal commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evometa.bench.baselines import BASELINES, N_TRIALS, named
from evometa.bench.pool import POOL
from evometa.config import TaskSource
from evometa.errors import BenchError, GenomeError
from evometa.export.file import read_export
from evometa.genome.genome import Genome
from evometa.inner.cohort import Candidate
from evometa.rules.initialisation import joined
from evometa.rules.registry import RULES
from evometa.rules.seeds import load_seeds
from evometa.tasks.base import Split
from evometa.trees import Tree

#: The yardstick of every speedup and ratio; it is tuned whether it is asked for or not.
YARDSTICK = "adam"


@dataclass(frozen=True)
class GenomeFile:
    """A genome that enters the bench.

    Attributes:
        label: what tables and figures call it.
        candidate: the genome and its weights.
        horizon: inner steps it was evolved for; None where its file names none.
        provenance: what its file says of its origin; a stranger's words.
    """

    label: str
    candidate: Candidate
    horizon: int | None
    provenance: Mapping[str, object]


@dataclass(frozen=True)
class BenchSpec:
    """One bench.

    Attributes:
        genomes: entrants, in order; labels differ.
        sources: families that tasks are drawn from; what they say of tasks and horizons is not read.
        baselines: names of the tuned rivals; ``adam`` is always among them.
        n_tasks: tasks drawn from each source.
        n_seeds: trainings of each entrant on each task, with other initial parameters and minibatches.
        n_trials: learning rates tried for each baseline.
        horizon: inner steps of a training.
        seed: root of every random stream.
        split: that tasks are drawn from.
        generalise: whether there are also rows on tasks unlike those of the sources.
    """

    genomes: tuple[GenomeFile, ...]
    sources: tuple[TaskSource, ...]
    baselines: tuple[str, ...] = POOL
    n_tasks: int = 4
    n_seeds: int = 5
    n_trials: int = N_TRIALS
    horizon: int = 500
    seed: int = 0
    split: Split = "meta_test"
    generalise: bool = True

    def __post_init__(self) -> None:
        limits = {"n_tasks": 1, "n_seeds": 2, "n_trials": 2, "horizon": 2}
        for name, least in limits.items():
            if getattr(self, name) < least:
                raise BenchError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if not self.genomes or not self.sources:
            raise BenchError("a bench needs at least one genome and one task family")
        labels = [genome.label for genome in self.genomes]
        for label in labels:
            if labels.count(label) > 1:
                raise BenchError(f"two genome files are called {label!r}; rename one")
        for name in self.baselines:
            named(name).check()

    @property
    def rivals(self) -> tuple[str, ...]:
        """The baselines, each once, the yardstick first."""
        return tuple(dict.fromkeys((YARDSTICK, *self.baselines)))


def read_genome(path: Path) -> GenomeFile:
    """The genome in an exported file, or in a seed's JSON where nothing is learned.

    Nothing of the file is run: families that it names must be registered. Raises GenomeError, one line.
    """
    label = path.name if path.stem in BASELINES else path.stem
    if path.suffix == ".json":
        (genome,) = load_seeds([path])
        if RULES[genome.family].learned:
            raise GenomeError(f"{path}: rule {genome.family!r} has weights, which no JSON holds; export it")
        return GenomeFile(label, _candidate(genome, {}), None, {})
    found = read_export(path)
    return GenomeFile(label, _candidate(found.genome, joined(found.weights)), found.horizon, found.provenance)


def _candidate(genome: Genome, weights: Tree) -> Candidate:
    return Candidate(genome.id, genome.family, genome.genes, weights)
