"""``evometa show CAMPAIGN [GENOME]``: everything about a campaign, or about one of its genomes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evometa.cli.output import Column, Fact, Format, Listing, Report, Section, emit_report
from evometa.cli.parameters import (
    AllowCodeOption,
    CampaignArgument,
    FormatOption,
    StorageOption,
    code_of,
    complete_genome,
    open_campaign,
)

if TYPE_CHECKING:
    from evometa.store import CampaignStore


def show(
    campaign: CampaignArgument,
    genome: Annotated[
        str | None,
        typer.Argument(
            metavar="GENOME",
            help="A genome's id, as in the listing of `evometa pareto`.",
            autocompletion=complete_genome,
        ),
    ] = None,
    storage: StorageOption = None,
    allow_code: AllowCodeOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show a campaign's settings and generations, or one genome: genes, lineage, and what it does."""
    with code_of(campaign, allow_code), open_campaign(campaign, storage) as store, store.snapshot():
        if genome is None:
            report = _campaign_report(store)
        else:
            from evometa.cli.genome_report import genome_report

            report = genome_report(store, genome)
    emit_report(report, form)


def _campaign_report(store: CampaignStore) -> Report:
    return Report(
        f"Campaign {store.name}", _settings(store), (Section("by_generation", _generations(store)),)
    )


def _settings(store: CampaignStore) -> list[Fact]:
    from dataclasses import asdict

    from evometa.config import config_from_json

    config = config_from_json(store.config(), source=f"campaign {store.name!r}")
    tasks = [f"{one.use} ({one.n_tasks} tasks of {one.horizon} steps)" for one in config.tasks]
    held = [f"{name} = {value}" for name, value in config.genes.items()]
    evolution, refinement = config.evolution, config.refinement
    return [
        Fact("name", store.name),
        Fact("description", config.description, "about" if config.description else ""),
        Fact("state", store.status(), "state"),
        Fact("config", asdict(config)),
        Fact("tasks", tasks, "tasks"),
        Fact("objectives", config.objectives.use, "objectives"),
        Fact("population", evolution.population, "population"),
        Fact("generations", evolution.generations, "generations"),
        Fact("families", evolution.families, "rule families", lambda names: ", ".join(names) or "all"),
        Fact("seeds", [str(Path(path)) for path in evolution.seeds], "seed genomes"),
        Fact("held_genes", held, "genes held" if held else ""),
        Fact("refinement", refinement.enabled, "refinement", lambda on: "on" if on else "off"),
        Fact("seed", config.seed, "random seed", str),
        Fact("genomes", store.n_genomes(), "genomes so far"),
        Fact("inner_steps", store.n_inner_steps(), "inner steps so far"),
    ]


def _generations(store: CampaignStore) -> Listing:
    totals, best, front = store.totals(), store.best_by_generation(), store.front_sizes()
    seconds = {one.generation: one.seconds for one in store.timings() if one.phase == "generation"}
    names = list(best.get(0, ()))
    rows: list[dict[str, object]] = [
        {
            "generation": one.index,
            **{f"best.{name}": value for name, value in best.get(one.index, {}).items()},
            "hypervolume": one.hypervolume,
            "front": front.get(one.index, 0),
            "failures": one.n_failures,
            "inner_steps": one.refinement_inner_steps + one.evaluation_inner_steps,
            "seconds": seconds.get(one.index),
        }
        for one in totals
    ]
    columns = [
        Column("generation"),
        *(Column(f"best.{name}", f"best {name}") for name in names),
        Column("hypervolume"),
        Column("front"),
        Column("failures"),
        Column("inner_steps"),
        Column("seconds"),
    ]
    return Listing("Generations", columns, rows, empty="none finished yet")
