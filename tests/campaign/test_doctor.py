"""Campaigns that nothing happened to are sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evometa.campaign.doctor import diagnose
from evometa.config import CampaignConfig, TaskSource


def test_a_campaign_with_two_task_sources_is_sound(small: CampaignConfig, run, tmp_path: Path) -> None:
    tasks = (*small.tasks, TaskSource("rosenbrock", n_tasks=2, horizon=8))
    evolution = replace(small.evolution, generations=2)
    assert diagnose(run(replace(small, tasks=tasks, evolution=evolution), tmp_path / "campaign.db")) == []
