"""The search space of schedules: the gene that names one, and the genes of each."""

from __future__ import annotations

from dataclasses import replace

from evometa.errors import GenomeError
from evometa.genome.genes import Choice, Gene
from evometa.genome.space import Space
from evometa.registry import MadeOf
from evometa.rules.registry import SCHEDULES
from evometa.rules.schedule_base import ScheduleFamily


def schedule_space() -> Space:
    """The gene ``schedule`` and the conditional genes of every registered schedule."""
    return _schedule_space()


def _space_of(registered: list[tuple[str, ScheduleFamily]]) -> Space:
    """Genes of one name that several schedules share (a warm-up) become one gene active for each of them."""
    names = tuple(name for name, _ in registered)
    merged: dict[str, Gene] = {"schedule": Choice("schedule", names, note="factor on the step over time")}
    for gene in (
        replace(gene, when={"schedule": (name,), **gene.when})
        for name, family in registered
        for gene in family.space
    ):
        if gene.name not in merged:
            merged[gene.name] = gene
            continue
        first = merged[gene.name]
        if replace(first, when={}) != replace(gene, when={}) or set(first.when) != {"schedule"}:
            raise GenomeError(f"gene {gene.name!r} is declared differently by two schedules")
        merged[gene.name] = replace(
            first, when={"schedule": (*first.when["schedule"], *gene.when["schedule"])}
        )
    return Space(tuple(merged.values()))


_schedule_space = MadeOf(SCHEDULES, _space_of)
