"""What a configuration names that is code of somebody's own."""

from __future__ import annotations

from evometa.config.sections import CampaignConfig


def code_named(config: CampaignConfig) -> list[str]:
    """The names ``pkg.module:attribute`` in ``config``, in order: whoever runs it imports and calls them."""
    tasks = (source.use for source in config.tasks)
    return [name for name in (*tasks, *config.objectives.use, *config.evolution.families) if ":" in name]
