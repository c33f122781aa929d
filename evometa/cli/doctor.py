"""``evometa doctor CAMPAIGN``: is it sound, and if not, what helps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evometa.cli.parameters import CampaignArgument, StorageOption, find_campaign
from evometa.errors import one_line

if TYPE_CHECKING:
    from evometa.store.examination import Finding

#: Exit code for a campaign that is not sound.
_UNSOUND = 1
#: Findings that are told one by one.
_MOST_LINES = 20


def doctor(
    campaign: CampaignArgument,
    storage: StorageOption = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Mend it: roll it back to its last sound generation, keeping a copy."),
    ] = False,
) -> None:
    """Check a campaign's file, hashes, lineage and counts, and mend what is damaged.

    Ends with 0 when the campaign is sound or has been mended, with 1 when it is not.
    """
    from evometa.campaign.doctor import diagnose, mend
    from evometa.store import CampaignStore

    path = find_campaign(campaign, storage)
    mended = mend(path) if repair else None
    found = mended.found if mended else diagnose(path)
    for line in _lines(found):
        print(line)
    if mended:
        print(_told(mended.rolled_back_to, mended.n_removed, salvaged=mended.salvaged))
        print(f"The file as it was: {mended.copy}")
    elif found:
        print(_advice(found, path))
        sys.exit(_UNSOUND)
    else:
        with CampaignStore.open(path, readonly=True) as store, store.snapshot():
            last = store.last_generation()
            n_generations = 0 if last is None else last + 1
            print(f"Campaign {store.name}: sound ({n_generations} generations, {store.n_genomes()} genomes)")


def _lines(found: list[Finding]) -> list[str]:
    lines = [f"- {one_line(finding.line)}" for finding in found[:_MOST_LINES]]
    if len(found) > _MOST_LINES:
        lines.append(f"- and {len(found) - _MOST_LINES} more")
    return lines


def _advice(found: list[Finding], path: Path) -> str:
    from evometa.store.examination import first_touched

    if any(finding.remedy == "restore" for finding in found):
        return f"Restore {path} from a copy: it cannot be mended."
    first = first_touched(found)
    if any(finding.remedy == "salvage" for finding in found):
        does = "keeps the generations that can be read"
    elif first is not None:
        does = f"keeps the generations before {first}" if first else "keeps the configuration alone"
    else:
        does = "removes them"
    return f"With --repair evometa {does}; 'evometa run … --resume' computes the others again."


def _told(rolled_back_to: int | None, n_removed: int, *, salvaged: bool) -> str:
    parts = ["read out of the damaged file"] if salvaged else []
    if rolled_back_to == 0:
        parts.append("rolled back to the beginning")
    elif rolled_back_to is not None:
        parts.append(f"rolled back to generation {rolled_back_to - 1}")
    if n_removed:
        parts.append(f"{n_removed} weights removed that no genome refers to")
    then = "; continue it with 'evometa run … --resume'" if rolled_back_to is not None else ""
    return f"Mended: {', '.join(parts) or 'all of it kept'}{then}"
