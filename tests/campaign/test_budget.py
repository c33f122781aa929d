"""A budget ends a campaign between generations, with its final measurements; a larger one continues it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evometa.campaign.events import Silent
from evometa.campaign.session import is_finished, run_campaign
from evometa.config import BudgetConfig, CampaignConfig, ExecutionConfig
from evometa.store import CampaignStore, JournalEntry, content_digest


class Noting(Silent):
    """A listener that keeps the lines it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, entry: JournalEntry) -> None:
        self.lines.append(entry.line)


@pytest.fixture
def alone(small: CampaignConfig) -> CampaignConfig:
    return replace(small, execution=ExecutionConfig(device="cpu", backend="inline"))


def n_generations(path: Path) -> int:
    with CampaignStore.open(path, readonly=True) as store:
        assert store.status() == "finished"
        assert store.evaluations(purpose="final")
        assert store.evaluations(purpose="report")
        return len(store.generations())


@pytest.mark.parametrize(
    ("budget", "line"),
    [
        (BudgetConfig(seconds=1e-6), "budget.seconds = 1e-06 is spent after generation 0 ("),
        (BudgetConfig(inner_steps=1), "budget.inner_steps = 1 is spent after generation 0 ("),
    ],
)
def test_a_spent_budget_ends_a_campaign_and_a_larger_one_continues_it(
    alone: CampaignConfig, tmp_path: Path, budget: BudgetConfig, line: str
) -> None:
    poor, listener = replace(alone, budget=budget), Noting()
    path = run_campaign(poor, tmp_path, listener=listener)
    assert n_generations(path) == 1
    assert any(said.startswith(line) for said in listener.lines)
    assert is_finished(poor, tmp_path)
    before = content_digest(path)
    run_campaign(poor, tmp_path, resume=True)
    poorer = replace(alone, budget=BudgetConfig(inner_steps=1, seconds=1e-9))
    run_campaign(poorer, tmp_path, resume=True)
    assert content_digest(path) == before
    assert not is_finished(alone, tmp_path)
    run_campaign(alone, tmp_path, resume=True)
    assert n_generations(path) == 3
    assert is_finished(alone, tmp_path)


def test_generations_under_a_budget_are_those_without_one(alone: CampaignConfig, tmp_path: Path) -> None:
    whole = run_campaign(alone, tmp_path / "whole")
    with CampaignStore.open(whole, readonly=True) as store:
        first = store.generation(0)
        n_first = first.refinement_inner_steps + first.evaluation_inner_steps
        n_tuning = sum(row.inner_steps for row in store.baselines())
        expected = [genome.id for genome in store.population(1)]
    budget = BudgetConfig(inner_steps=n_tuning + n_first + 1)  # one more than the first generation takes
    path = run_campaign(replace(alone, budget=budget), tmp_path / "under")
    assert n_generations(path) == 2
    with CampaignStore.open(path, readonly=True) as store:
        assert [genome.id for genome in store.population(1)] == expected
        assert store.n_inner_steps() > budget.inner_steps
