"""Naming one genome of a campaign: ``--knee``, ``--best OBJECTIVE`` or ``--genome ID``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from evometa.cli.parameters import complete_genome, complete_objective

if TYPE_CHECKING:
    from evometa.genome.genome import Genome
    from evometa.store import CampaignStore

KneeOption = Annotated[bool, typer.Option("--knee", help="The front's knee: its best trade-off.")]
BestOption = Annotated[
    str | None,
    typer.Option(
        metavar="OBJECTIVE", help="The front's best in one objective.", autocompletion=complete_objective
    ),
]
GenomeOption = Annotated[
    str | None,
    typer.Option(metavar="ID", help="The genome of this id.", autocompletion=complete_genome),
]


def require_one(knee: bool, best: str | None, genome: str | None) -> None:
    """Raise the error for wrong usage unless exactly one genome is named."""
    n_selectors = knee + (best is not None) + (genome is not None)
    if n_selectors != 1:
        raise typer.BadParameter(
            f"{n_selectors or 'none'} of --knee, --best OBJECTIVE and --genome ID given: name exactly one"
        )


def chosen_genome(store: CampaignStore, best: str | None, genome: str | None) -> Genome:
    """The genome named; the knee where neither ``best`` nor ``genome`` is given."""
    if genome is not None:
        return store.genome(genome)
    from evometa.campaign import read_front

    front = read_front(store)
    return front.genomes[front.knee if best is None else front.best(best)]
