"""Rows on tasks unlike those of the bench: longer, wider, deeper, with other units, of other families.

Every row compares with Adam tuned for that very row, so that it says how the genome carries over and not how
hard the tasks are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from evometa.bench.figures import Figures, figures
from evometa.bench.measure import Listener, measure
from evometa.bench.spec import YARDSTICK, BenchSpec, GenomeFile
from evometa.bench.statistics import Estimate
from evometa.config import TaskSource
from evometa.tasks import digits, tabular
from evometa.tasks.architectures import Architectures
from evometa.tasks.base import Split

#: Families whose options name an architecture, and what each split samples from.
_ARCHITECTURES: Mapping[str, Mapping[Split, Architectures]] = {
    "digits": digits.ARCHITECTURES,
    "tabular": tabular.ARCHITECTURES,
}
#: Times the horizon, times the width.
LONGER, WIDER = 10, 4
#: Hidden layers: more than any split has.
DEEPER = 4

#: Other families that a genome is tried on: quickly trained on, and the same whatever else is registered, so
#: that cards can be compared.
OTHER_FAMILIES = ("digits", "tabular", "quadratic", "rosenbrock")


@dataclass(frozen=True)
class Change:
    """One kind of unlikeness: what it is called, and the tasks that have it."""

    name: str
    sources: tuple[TaskSource, ...]
    horizon: int


@dataclass(frozen=True)
class GeneralisationRow:
    """A genome on changed tasks.

    Attributes:
        final_ratio: interquartile mean of its final losses over those of Adam, tuned on such tasks.
        divergence_rate, adam_divergence_rate: shares of runs.
    """

    change: str
    tasks: str
    horizon: int
    label: str
    final_ratio: Estimate
    divergence_rate: float
    adam_divergence_rate: float


def generalise(
    spec: BenchSpec,
    device: torch.device,
    *,
    cache: Path | None = None,
    listen: Listener = lambda line: None,
) -> tuple[GeneralisationRow, ...]:
    """All rows, in order of the changes, then of the genomes."""
    rows = []
    for genome in spec.genomes:
        for change in changes(spec, genome):
            listen(f"{genome.label}: {change.name} ({change.horizon} steps)")
            asked = replace(
                spec,
                genomes=(genome,),
                sources=change.sources,
                baselines=(YARDSTICK,),
                horizon=change.horizon,
                generalise=False,
            )
            found = figures(measure(asked, device, cache=cache, envelope=False))
            rows.append(_row(change, found.of(genome.label), found.of(YARDSTICK)))
    return tuple(rows)


def changes(spec: BenchSpec, genome: GenomeFile) -> list[Change]:
    """What the tasks of ``spec`` can be changed into for ``genome``."""
    trained = genome.horizon or spec.horizon
    what = "trained horizon" if genome.horizon else "horizon"
    found = [Change(f"{LONGER}× the {what}", spec.sources, LONGER * trained)]
    if genome.candidate.learner.initialisation is not None:
        return found  # it is for the one model that it was learned on
    kinds: dict[str, Callable[[TaskSource], dict[str, object]]] = {
        "sigmoid networks": lambda source: {"activations": ["sigmoid"]},
        "ReLU networks": lambda source: {"activations": ["relu"]},
        f"{WIDER}× wider": lambda source: {"widths": [WIDER * width for width in _widths(spec, source)]},
        f"{DEEPER} hidden layers of ELU": lambda source: {"depths": [DEEPER], "activations": ["elu"]},
    }
    networks = [source for source in spec.sources if source.use in _ARCHITECTURES]
    for name, options in kinds.items():
        changed = tuple(
            TaskSource(source.use, options={**source.options, **options(source)})  # type: ignore[dict-item]
            for source in networks
        )
        if changed:
            found.append(Change(name, changed, spec.horizon))
    seen = {source.use for source in spec.sources} | set(_names(genome.provenance.get("tasks")))
    for family in OTHER_FAMILIES:
        if family not in seen:
            found.append(Change(f"another family: {family}", (TaskSource(family),), spec.horizon))
    return found


def _widths(spec: BenchSpec, source: TaskSource) -> tuple[int, ...]:
    given = source.options.get("widths")
    if isinstance(given, list):
        return tuple(width for width in given if isinstance(width, int))
    return _ARCHITECTURES[source.use][spec.split].widths


def _names(given: object) -> list[str]:
    return [name for name in given if isinstance(name, str)] if isinstance(given, list) else []


def _row(change: Change, ours: Figures, adam: Figures) -> GeneralisationRow:
    return GeneralisationRow(
        change=change.name,
        tasks=", ".join(dict.fromkeys(source.use for source in change.sources)),
        horizon=change.horizon,
        label=ours.entry.label,
        final_ratio=ours.final_ratio,
        divergence_rate=ours.divergence_rate,
        adam_divergence_rate=adam.divergence_rate,
    )
