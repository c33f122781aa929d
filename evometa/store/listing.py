"""The campaigns under a storage root, one line of facts each."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from evometa.errors import StoreError
from evometa.store.campaign_store import CampaignStore
from evometa.store.paths import campaign_names, campaign_path
from evometa.store.records import CampaignState


@dataclass(frozen=True)
class CampaignSummary:
    """One campaign in a listing.

    Attributes:
        name: of the campaign.
        state: ``running``, ``finished``, ``interrupted``, or ``unreadable`` (``problem`` says why).
        n_generations: whole generations stored.
        n_genomes: genomes stored.
        best: objective → least value in the last generation's front.
        written: when the database last changed.
        problem: why it cannot be read, else "".
    """

    name: str
    state: CampaignState | Literal["unreadable"]
    n_generations: int = 0
    n_genomes: int = 0
    best: dict[str, float] = field(default_factory=dict)
    written: datetime | None = None
    problem: str = ""


def list_campaigns(root: Path) -> list[CampaignSummary]:
    """The campaigns under ``root`` by name; one that cannot be read is listed as such."""
    return [_summary(campaign_path(root, name)) for name in campaign_names(root)]


def _summary(path: Path) -> CampaignSummary:
    try:
        with CampaignStore.open(path, readonly=True) as store, store.snapshot():
            last = store.last_generation()
            return CampaignSummary(
                name=store.name,
                state=store.status(),
                n_generations=0 if last is None else last + 1,
                n_genomes=store.n_genomes(),
                best={} if last is None else store.best_values(last),
                written=_written(path),
            )
    except StoreError as error:
        return CampaignSummary(name=path.parent.name, state="unreadable", problem=str(error))


def _written(path: Path) -> datetime:
    """The later of the database's and its log's last change."""
    seconds = path.stat().st_mtime
    with suppress(FileNotFoundError):  # a campaign at rest has no log
        seconds = max(seconds, path.with_name(path.name + "-wal").stat().st_mtime)
    return datetime.fromtimestamp(seconds, UTC)
