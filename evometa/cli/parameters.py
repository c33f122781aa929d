"""Arguments and options that several verbs share, and what the shell offers to complete them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evometa.cli.output import Format
from evometa.errors import EvometaError

if TYPE_CHECKING:  # the store brings numpy: only where it is used, so that --help is quick
    from evometa.store import CampaignStore


def find_campaign(campaign: str, storage: Path | None) -> Path:
    """The database of a campaign given by name, or by the path of its database or folder."""
    from evometa.store import campaign_path, storage_root
    from evometa.store.paths import expanded

    path = expanded(Path(campaign))
    is_path = len(path.parts) != 1 or path.suffix == ".db"
    if not is_path:
        named = campaign_path(storage_root(storage), campaign)
        # os.path.isfile is False, where Path.is_file raises, for a path that the system cannot look up
        if os.path.isfile(named) or not os.path.isfile(path / named.name):
            return named
    return path if path.suffix == ".db" or os.path.isfile(path) else path / "campaign.db"


def open_campaign(campaign: str, storage: Path | None) -> CampaignStore:
    """The campaign, for reading. Raises StoreError, naming those that there are, for one that is missing."""
    from evometa.store import CampaignStore

    return CampaignStore.open(find_campaign(campaign, storage), readonly=True)


def code_of(campaign: str, allowed: bool) -> AbstractContextManager[None]:
    """Inside, code that ``campaign`` names is imported only where the user has ``allowed`` it.

    The names stand in its database, which a stranger may have made.
    """
    from evometa.registry import without_code

    return nullcontext() if allowed else without_code(f"campaign {campaign!r}")


def _campaign_on_the_line(context: typer.Context) -> CampaignStore:
    """The campaign that an unfinished command names; an option without its value leaves it unparsed."""
    given = context.params
    named = given.get("campaign") or given.get("source") or next(iter(context.args), "")
    return open_campaign(named, given.get("storage"))


def complete_campaign(context: typer.Context, incomplete: str) -> Iterator[str]:
    """Names of campaigns under the storage root."""
    from evometa.store import storage_root
    from evometa.store.paths import campaign_names

    with suppress(EvometaError):
        names = campaign_names(storage_root(context.params.get("storage")))
        yield from (name for name in names if name.startswith(incomplete))


def complete_genome(context: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Ids of a campaign's genomes, each with its family."""
    with suppress(EvometaError):
        with _campaign_on_the_line(context) as store:
            genomes = store.genomes()
        yield from ((one.id, one.name or one.family) for one in genomes if one.id.startswith(incomplete))


def complete_objective(context: typer.Context, incomplete: str) -> Iterator[str]:
    """Objectives of a campaign."""
    from evometa.config import config_from_json

    with suppress(EvometaError):
        with _campaign_on_the_line(context) as store:
            names = config_from_json(store.config()).objectives.use
        yield from (name for name in names if name.startswith(incomplete))


def complete_figure(incomplete: str) -> Iterator[str]:
    """Names of figures."""
    from evometa.plots.registry import FIGURES

    yield from (name for name in FIGURES.names() if name.startswith(incomplete))


CampaignArgument = Annotated[
    str,
    typer.Argument(
        metavar="CAMPAIGN",
        help="A campaign's name, or the path of its folder or database.",
        autocompletion=complete_campaign,
    ),
]
StorageOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        envvar="EVOMETA_STORAGE",
        help="Where campaigns are kept.  [default: populations/runs]",
        show_default=False,
    ),
]
AllowCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        envvar="EVOMETA_ALLOW_CODE",
        help="Import and run the code that the campaign names (pkg.module:attribute): it is yours.",
        show_default=False,
    ),
]
FormatOption = Annotated[
    Format,
    typer.Option("--format", "-f", help="A table for people; JSON or CSV for programs."),
]
