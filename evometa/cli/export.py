"""``evometa export CAMPAIGN``: one genome as a file that ``evometa.load_optimizer`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from evometa.cli.output import console
from evometa.cli.parameters import (
    CampaignArgument,
    StorageOption,
    complete_genome,
    complete_objective,
    open_campaign,
)

if TYPE_CHECKING:
    from evometa.campaign import Front
    from evometa.genome.genome import Genome
    from evometa.store import CampaignStore


def export(
    campaign: CampaignArgument,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE.safetensors", help="The file to write; one that exists is replaced."),
    ],
    knee: Annotated[bool, typer.Option("--knee", help="The front's knee: its best trade-off.")] = False,
    best: Annotated[
        str | None,
        typer.Option(
            metavar="OBJECTIVE",
            help="The front's best in one objective.",
            autocompletion=complete_objective,
        ),
    ] = None,
    genome: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The genome of this id.", autocompletion=complete_genome),
    ] = None,
    storage: StorageOption = None,
) -> None:
    """Export one optimizer: its weights and its genome in one safetensors file.

    Name exactly one of **--knee**, **--best** and **--genome**. Values are those on meta_valid.
    """
    n_selectors = knee + (best is not None) + (genome is not None)
    if n_selectors != 1:
        raise typer.BadParameter(
            f"{n_selectors or 'none'} of --knee, --best OBJECTIVE and --genome ID given: name exactly one"
        )
    with open_campaign(campaign, storage) as store, store.snapshot():
        from evometa.export import export_genome
        from evometa.genome.codec import weights_from_bytes

        chosen = _chosen(store, best, genome)
        weights = {} if chosen.weights is None else weights_from_bytes(store.weights_bytes(chosen.weights))
        horizon, provenance = _provenance(store, chosen)
    export_genome(out, chosen, weights, horizon=horizon, provenance=provenance)
    _explain(out, chosen)


def _chosen(store: CampaignStore, best: str | None, genome: str | None) -> Genome:
    if genome is not None:
        return store.genome(genome)
    from evometa.campaign import read_front

    front = read_front(store)
    return front.genomes[front.knee if best is None else front.best(best)]


def _provenance(store: CampaignStore, genome: Genome) -> tuple[int, dict[str, object]]:
    """The horizon that the genome was evolved for, and where it comes from."""
    import evometa
    from evometa.campaign import read_front
    from evometa.campaign.results import campaign_config

    config = campaign_config(store)
    provenance: dict[str, object] = {
        "campaign": store.name,
        "seed": config.seed,
        "evometa": evometa.__version__,
        "tasks": [source.use for source in config.tasks],
        **_front_values(read_front(store), genome),
    }
    return max(source.horizon for source in config.tasks), provenance


def _front_values(front: Front, genome: Genome) -> dict[str, object]:
    """Objective → value on each split that was measured; {} for a genome outside the front."""
    ids = [member.id for member in front.genomes]
    if genome.id not in ids:
        return {}
    row = ids.index(genome.id)
    measured = {"meta_valid": front.values, "meta_test": front.test_values}
    return {
        split: {objective.name: float(values[row, j]) for j, objective in enumerate(front.objectives)}
        for split, values in measured.items()
        if values is not None
    }


def _explain(out: Path, genome: Genome) -> None:
    called = f" ({genome.name})" if genome.name else ""
    use = f'''import evometa

optimizer = evometa.load_optimizer("{out}", model.parameters(), lr=1.0)
# then, as with any torch.optim optimizer:  loss.backward(); optimizer.step()'''
    screen = console()
    screen.print(f"Exported {genome.family} {genome.id}{called} to {out}\n")
    screen.print(Text(use, style="cyan"))
