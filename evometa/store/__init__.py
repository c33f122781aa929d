"""The campaign database: one SQLite file a campaign, one transaction a generation, one writer.

Nothing here imports torch: weights go in and come out as safetensors bytes, so a listing is quick.
"""

from evometa.store.campaign_store import CampaignStore
from evometa.store.digest import content_digest
from evometa.store.listing import CampaignSummary, list_campaigns
from evometa.store.paths import campaign_path, storage_root
from evometa.store.records import (
    Baseline,
    CampaignState,
    Candidate,
    Evaluation,
    GenerationRecord,
    GenerationTotals,
    JournalEntry,
    Purpose,
    TaskResult,
    Timing,
)

__all__ = [
    "Baseline",
    "CampaignState",
    "CampaignStore",
    "CampaignSummary",
    "Candidate",
    "Evaluation",
    "GenerationRecord",
    "GenerationTotals",
    "JournalEntry",
    "Purpose",
    "TaskResult",
    "Timing",
    "campaign_path",
    "content_digest",
    "list_campaigns",
    "storage_root",
]
