"""``evometa export``: one genome as a file that ``evometa.load_optimizer`` reads, or as Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from evometa.cli.output import console, printable
from evometa.cli.parameters import AllowCodeOption, StorageOption, code_of, complete_campaign, open_campaign
from evometa.cli.selection import BestOption, GenomeOption, KneeOption, chosen_genome, require_one
from evometa.errors import GenomeError

if TYPE_CHECKING:
    from evometa.campaign import Front
    from evometa.export.file import Exported
    from evometa.genome.genome import Genome
    from evometa.store import CampaignStore


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CAMPAIGN|FILE",
            help="A campaign's name, or the path of its folder or database; or a FILE.safetensors that was "
            "exported before.",
            autocompletion=complete_campaign,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.safetensors",
            help="The file for evometa.load_optimizer; one that exists is replaced.",
        ),
    ] = None,
    standalone: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.py",
            help="A Python file that needs PyTorch alone, made from the rule's own code; replaced likewise.",
        ),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.md",
            help="A bench card, as evometa bench writes it, that goes along.  [default: the one that the "
            "file has]",
            show_default=False,
        ),
    ] = None,
    knee: KneeOption = False,
    best: BestOption = None,
    genome: GenomeOption = None,
    storage: StorageOption = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Export one optimizer: its weights and its genome in one safetensors file, or as readable Python.

    Of a campaign name exactly one of **--knee**, **--best** and **--genome**, of a file none of them; and
    **--out**, **--standalone** or both. Values are those on meta_valid.
    """
    from_file = Path(source).suffix == ".safetensors"
    if from_file and (knee or best is not None or genome is not None):
        raise GenomeError(f"{source} holds one genome: leave out --knee, --best and --genome")
    if not from_file:
        require_one(knee, best, genome)
    if out is None and standalone is None:
        raise typer.BadParameter("nothing to write: name a file with --out, or with --standalone")

    from evometa.export import export_genome
    from evometa.export.file import read_card, read_export
    from evometa.export.standalone import export_standalone

    if from_file:
        found = read_export(Path(source))
    else:
        with code_of(source, allow_code), open_campaign(source, storage) as store, store.snapshot():
            found = _of_campaign(store, chosen_genome(store, best, genome))
    chosen, weights, horizon, provenance = found.genome, found.weights, found.horizon, found.provenance
    if horizon is None:
        raise GenomeError(f"{source} names no trained horizon; export its genome from the campaign again")
    page = found.card if card is None else read_card(card)
    if out is not None:
        export_genome(out, chosen, weights, horizon=horizon, provenance=provenance, card=page)
        _explain([out], chosen, f'import evometa\n\noptimizer = evometa.load_optimizer("{out}", ')
    if standalone is not None:
        files = export_standalone(
            standalone, chosen, weights, horizon=horizon, provenance=provenance, card=page
        )
        use = f"from {standalone.stem} import EvolvedOptimizer\n\noptimizer = EvolvedOptimizer("
        _explain(files, chosen, use)


def _of_campaign(store: CampaignStore, genome: Genome) -> Exported:
    """A genome with its weights, the horizon that it was evolved for, and where it comes from."""
    import evometa
    from evometa.campaign import read_front
    from evometa.campaign.results import campaign_config, stored_candidate
    from evometa.campaign.starts import common_model
    from evometa.export.file import Exported
    from evometa.rules.initialisation import by_tensor

    candidate, config = stored_candidate(store, genome), campaign_config(store)
    weights = dict(candidate.weights)
    if candidate.learner.initialisation is not None:
        weights = by_tensor(weights, common_model(config.tasks).layout)
    provenance: dict[str, object] = {
        "campaign": store.name,
        "seed": config.seed,
        "evometa": evometa.__version__,
        "tasks": [source.use for source in config.tasks],
        "task_options": [dict(source.options) for source in config.tasks],
        "search": {"inner_steps": store.n_inner_steps(), "seconds": _seconds(store)},
        **_front_values(read_front(store), genome),
    }
    return Exported(genome, weights, max(source.horizon for source in config.tasks), provenance, None)


def _seconds(store: CampaignStore) -> float:
    """What all generations so far took, on the machines of the campaign."""
    return round(sum(one.seconds for one in store.timings() if one.phase == "generation"), 1)


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


def _explain(files: list[Path], genome: Genome, start: str) -> None:
    called = f" ({genome.name})" if genome.name else ""
    names = " and ".join(map(str, files))
    begin = (
        "optimizer.initialise()  # the learned initialisation\n"
        if genome.genes.get("init") == "learned"
        else ""
    )
    use = f"""{start}model.parameters(), lr=1.0)
{begin}# then, as with any torch.optim optimizer:  loss.backward(); optimizer.step()"""
    screen = console()
    screen.print(printable(f"Exported {genome.family} {genome.id}{called} to {names}") + "\n")
    screen.print(Text(use, style="cyan"))
