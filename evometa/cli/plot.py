"""``evometa plot CAMPAIGN``: draw a campaign's figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evometa.cli.output import console
from evometa.cli.parameters import (
    AllowCodeOption,
    CampaignArgument,
    StorageOption,
    code_of,
    complete_figure,
    open_campaign,
)


def plot(
    campaign: CampaignArgument,
    figure: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Draw this figure; may be repeated.  [default: every figure]",
            autocompletion=complete_figure,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder for the files.  [default: plots/CAMPAIGN]", show_default=False
        ),
    ] = None,
    storage: StorageOption = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Draw a campaign's figures, and print the paths of the files."""
    with code_of(campaign, allow_code), open_campaign(campaign, storage) as store:
        from evometa.plots.registry import FIGURES, draw

        names = list(dict.fromkeys(figure or FIGURES.names()))
        for name in names:
            FIGURES[name]  # an unknown name is refused before anything is drawn
        folder = out or Path("plots", store.name)
        for name in names:
            for path in draw(name, store, folder):
                console().print(str(path))
