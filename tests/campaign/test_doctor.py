"""Campaigns that nothing happened to are sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evometa.campaign.doctor import diagnose
from evometa.config import CampaignConfig, TaskSource, load_config

#: Every genome is the same.
ONE = """
tasks = [{ use = "quadratic", n_tasks = 2, horizon = 5 }]
evolution = { population = 4, generations = 2, families = ["sgd"], seeds = [] }
genes = { lr = 0.01, schedule = "constant" }
final = { n_tasks = 2, test_tasks = 2 }
baseline = { n_tasks = 2, n_points = 2 }
"""


def test_a_campaign_with_two_task_sources_is_sound(small: CampaignConfig, run, tmp_path: Path) -> None:
    tasks = (*small.tasks, TaskSource("rosenbrock", n_tasks=2, horizon=8))
    evolution = replace(small.evolution, generations=2)
    assert diagnose(run(replace(small, tasks=tasks, evolution=evolution), tmp_path / "campaign.db")) == []


def test_a_campaign_with_fewer_different_genomes_than_planned_is_sound(run, tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text(ONE)
    assert diagnose(run(load_config(path), tmp_path / "campaign.db")) == []
