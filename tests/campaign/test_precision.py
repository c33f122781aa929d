"""A campaign in a lower precision says what that does to the order of its first genomes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evometa.campaign import Campaign, Silent
from evometa.campaign.fitness import Evaluated
from evometa.campaign.precision import precision_entry
from evometa.campaign.runs import Runs
from evometa.config import CampaignConfig, config_to_json
from evometa.execution import Executor
from evometa.genome.genome import Genome, Lineage
from evometa.inner.modes import Precision
from evometa.store import CampaignStore, JournalEntry, TaskResult

LINEAGE = Lineage((), "seed", 0)


def genomes(n: int) -> list[Genome]:
    return [Genome(str(i), "sgd", {}, lineage=LINEAGE) for i in range(n)]


def evaluated(ratios: list[float]) -> dict[str, Evaluated]:
    """One run a genome, which ends at ``ratio`` times what tuned Adam reaches."""
    return {
        str(i): Evaluated(
            (("t", "t"),), Runs.of([TaskResult("t", "t", "complete", 1.0, r, r, 1.0, r, r)]), 1, ""
        )
        for i, r in enumerate(ratios)
    }


@pytest.mark.parametrize(
    ("lowered", "tau"),
    [([0.1, 0.2, 0.3, 0.4], 1.0), ([0.4, 0.3, 0.2, 0.1], -1.0), ([0.2, 0.1, 0.3, 0.4], 2 / 3)],
)
def test_tau_counts_the_pairs_in_the_same_order(lowered: list[float], tau: float) -> None:
    entry = precision_entry("tf32", genomes(4), evaluated(lowered), evaluated([1.0, 2.0, 3.0, 4.0]))
    assert entry.data["kendall_tau"] == pytest.approx(tau)
    assert entry.topic == "precision"
    assert "4 genomes" in entry.line
    assert "tf32" in entry.line
    assert f"Kendall's tau is {tau:.3f}" in entry.line


def test_genomes_that_are_all_alike_have_no_order() -> None:
    entry = precision_entry("bfloat16", genomes(3), evaluated([0.5] * 3), evaluated([0.1, 0.2, 0.3]))
    assert entry.data == {"kendall_tau": None}
    assert "there is no order to compare" in entry.line


class Notes(Silent):
    """Keeps what a campaign found out."""

    def __init__(self) -> None:
        self.entries: list[JournalEntry] = []

    def note(self, entry: JournalEntry) -> None:
        self.entries.append(entry)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_a_campaign_compares_precisions_once(
    precision: Precision, small: CampaignConfig, tmp_path: Path
) -> None:
    evolution = replace(small.evolution, families=("sgd", "adam"), generations=2)
    config = replace(small, evolution=evolution, genes={})
    listener = Notes()
    executor = Executor(torch.device("cpu"), 1, precision)
    with CampaignStore.create(tmp_path / "campaign.db", config_json=config_to_json(config)) as store:
        Campaign(config, store, executor, listener).run()
        entries = [entry for entry in store.journal() if entry.topic == "precision"]
        phases = [
            (timing.generation, timing.inner_steps)
            for timing in store.timings()
            if timing.phase == "precision"
        ]
    assert [entry for entry in listener.entries if entry.topic == "precision"] == entries
    if precision == "float32":
        assert entries == phases == []
        return
    (entry,) = entries
    assert 0.5 < entry.data["kendall_tau"] <= 1
    assert entry.line.startswith("precision: 6 genomes ranked by meta_loss in bfloat16 and in float32")
    assert phases == [(0, 6 * 3 * 10)]
