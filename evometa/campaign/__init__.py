"""The outer loop: an evolution campaign, what it stores, and what it found."""

from evometa.campaign.events import GenerationSummary, Listener, ObjectiveSummary, Silent
from evometa.campaign.loop import Campaign
from evometa.campaign.results import BaselineValues, Front, read_baselines, read_front

__all__ = [
    "BaselineValues",
    "Campaign",
    "Front",
    "GenerationSummary",
    "Listener",
    "ObjectiveSummary",
    "Silent",
    "read_baselines",
    "read_front",
]
