"""``evometa compare CAMPAIGN``: one genome against tuned hand-designed rules on the same held-out tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from evometa.cli.output import Column, Format, Listing, emit
from evometa.cli.parameters import (
    AllowCodeOption,
    CampaignArgument,
    FormatOption,
    StorageOption,
    code_of,
    open_campaign,
)
from evometa.cli.selection import BestOption, GenomeOption, KneeOption, chosen_genome, require_one

if TYPE_CHECKING:
    from evometa.bench import Rival
    from evometa.config import TaskSource
    from evometa.genome.genes import Value


def compare(
    campaign: CampaignArgument,
    rivals: Annotated[
        list[str],
        typer.Option(
            "--with",
            metavar="RULE[:GENE=VALUE]",
            help="A hand-designed rule: `momentum`, `nesterov:one_minus_momentum=0.05`, …; may be repeated.",
        ),
    ],
    knee: KneeOption = False,
    best: BestOption = None,
    genome: GenomeOption = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:OPTION=VALUE,…]",
            help="A task family, or an experiment's TOML.  [default: the campaign's tasks]",
            show_default=False,
        ),
    ] = None,
    horizon: Annotated[
        int | None,
        typer.Option(min=1, help="Inner steps of a training.  [default: the campaign's]", show_default=False),
    ] = None,
    n_tasks: Annotated[int, typer.Option("--tasks", min=2, help="Held-out tasks to train on.")] = 512,
    n_points: Annotated[int, typer.Option("--points", min=2, help="Learning rates to tune over.")] = 15,
    per_decade: Annotated[int, typer.Option(min=1, max=1000, help="Of those, how many in a decade.")] = 4,
    split: Annotated[str, typer.Option(help="Split of the held-out tasks.")] = "meta_test",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the tuning and the held-out tasks.")] = 0,
    storage: StorageOption = None,
    allow_code: AllowCodeOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Compare one genome with tuned hand-designed rules: final losses on the same tasks, paired.

    Each rule's learning rate is tuned on as many separate meta_train tasks, for the smallest mean. The
    difference is genome minus rule, with a 95 % bootstrap interval over tasks: below zero, the genome wins.
    Beside it stands the share of tasks on which the genome ends lower, with Wilson's 95 % interval.
    Tasks other than the campaign's and a longer training show how far the genome carries.
    """
    require_one(knee, best, genome)
    from evometa.tasks import SPLITS

    if split not in SPLITS:
        raise typer.BadParameter(f"--split is {split!r}: allowed is one of {', '.join(SPLITS)}")
    from evometa import bench
    from evometa.campaign.results import campaign_config, stored_candidate
    from evometa.execution import pick_device

    parsed = [parse_rival(text) for text in rivals]
    with code_of(campaign, allow_code):
        with open_campaign(campaign, storage) as store, store.snapshot():
            config = campaign_config(store)
            chosen = chosen_genome(store, best, genome)
            candidate = stored_candidate(store, chosen)
        device = pick_device(config.execution.device)
        rows = []
        for source in _sources(config.tasks, on, horizon):
            for rival in parsed:
                found = bench.compare(
                    candidate,
                    rival,
                    source,
                    split=split,
                    n_tasks=n_tasks,
                    n_points=n_points,
                    seed=seed,
                    device=device,
                    per_decade=per_decade,
                )
                made = {"tasks": source.use, "horizon": source.horizon}
                rows.append({**made, **vars(found), "verdict": found.verdict})
    title = f"{chosen.family} {chosen.id} of {campaign} on {n_tasks} {split} tasks, final loss"
    told = any(row["metric"] for row in rows) or form is not Format.TABLE
    emit(Listing(title, (*_COLUMNS, *(_METRIC if told else ())), rows), form)


def _sources(own: Sequence[TaskSource], on: str | None, horizon: int | None) -> list[TaskSource]:
    """A campaign's ``own`` tasks, or those that ``on`` names, for as long a training unless given."""
    from evometa.bench.sources import task_sources

    if on is None:
        return [replace(source, horizon=horizon or source.horizon) for source in own]
    longest = max(source.horizon for source in own)
    return [replace(source, horizon=horizon or longest) for source in task_sources([on])]


_COLUMNS = (
    Column("tasks"),
    Column("horizon", "steps"),
    Column("rival", "against"),
    Column("learning_rate", "tuned lr"),
    Column("genome_mean", "genome\nmean"),
    Column("rival_mean", "rule\nmean"),
    Column("genome_median", "genome\nmedian"),
    Column("rival_median", "rule\nmedian"),
    Column("difference", "difference\nof means"),
    Column("interval", "95 % interval"),
    Column("wins", "share of\ntasks won"),
    Column("wins_interval", "its 95 %\ninterval"),
    Column("n_lost", "diverged"),
    Column("verdict", "genome is"),
)
_METRIC = (
    Column("metric", "in other\nwords"),
    Column("genome_metric", "genome\nmean"),
    Column("rival_metric", "rule\nmean"),
)


def parse_rival(text: str) -> Rival:
    """``rule`` or ``rule:gene=value:…``. Raises GenomeError or UnknownNameError for what does not exist."""
    from evometa.bench import Rival
    from evometa.errors import GenomeError
    from evometa.rules.learner_structure import learner_space
    from evometa.rules.registry import RULES

    name, *settings = text.split(":")
    family = RULES[name]
    if family.learned:
        raise GenomeError(f"--with {text}: {name!r} is learned; expected a hand-designed rule")
    genes: dict[str, Value] = {}
    for setting in settings:
        gene, sign, value = setting.partition("=")
        if not sign:
            raise GenomeError(f"--with {text}: {setting!r} is not GENE=VALUE")
        try:
            genes[gene] = float(value)
        except ValueError:
            genes[gene] = value
    learner_space(family).complete({"schedule": "constant", **genes})
    return Rival(name, genes)
