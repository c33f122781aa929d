"""``evometa status CAMPAIGN``: how far a campaign is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from evometa.cli.output import Fact, Format, Report, duration, emit_report
from evometa.cli.parameters import CampaignArgument, FormatOption, StorageOption, open_campaign

if TYPE_CHECKING:
    from evometa.store import CampaignStore

#: How many kinds of failure are told.
N_REASONS = 5


def status(
    campaign: CampaignArgument, storage: StorageOption = None, form: FormatOption = Format.TABLE
) -> None:
    """Tell how far a campaign is: generations, failures, cost, and its best values so far."""
    with open_campaign(campaign, storage) as store, store.snapshot():
        report = Report(f"Campaign {store.name}", _facts(store))
    emit_report(report, form)


def _facts(store: CampaignStore) -> list[Fact]:
    from evometa.config import config_from_json

    generations = store.totals()
    config = config_from_json(store.config(), source=f"campaign {store.name!r}")
    planned = config.evolution.generations
    best = store.best_values(generations[-1].index) if generations else {}
    written = datetime.fromtimestamp(store.path.stat().st_mtime, UTC)
    return [
        Fact("name", store.name),
        Fact("state", store.status(), "state"),
        Fact("generations", len(generations), "generations", lambda done: f"{done} of {planned}"),
        Fact("generations_planned", planned),
        *(Fact(f"best.{name}", value, f"best {name}") for name, value in best.items()),
        Fact("hypervolume", generations[-1].hypervolume if generations else None, "hypervolume"),
        Fact("genomes", store.n_genomes(), "genomes"),
        Fact("failures", sum(one.n_failures for one in generations), "failures"),
        *(
            Fact(f"failed.{number}", f"{count} × {why}, first {genome}", "failed")
            for number, (why, count, genome) in enumerate(store.failures()[:N_REASONS])
        ),
        Fact("inner_steps", store.n_inner_steps(), "inner steps"),
        Fact("seconds", store.seconds(), "time in generations", duration),
        Fact("written", written, "last written"),
        *(Fact(f"journal.{entry.topic}", entry.line, entry.topic) for entry in store.journal()),
        Fact("path", store.path, "database"),
    ]
