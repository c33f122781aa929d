"""A campaign as its user meets it: what it stores, that it resumes, that nothing bad ends it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evometa.campaign import GenerationSummary, Silent, read_baselines, read_front
from evometa.campaign.results import campaign_objectives
from evometa.config import CampaignConfig
from evometa.errors import TaskError
from evometa.rules import Learner, cost
from evometa.store import CampaignStore, content_digest

Run = Callable[..., Path]


class StopAfter(Silent):
    """A listener that interrupts the campaign as a user would, at a chosen moment."""

    def __init__(self, generations: int, phase: str = "") -> None:
        self.generations = generations
        self.wanted = phase
        self.seen = 0

    def generation(self, summary: GenerationSummary) -> None:
        self.seen += 1
        if self.seen >= self.generations and not self.wanted:
            raise KeyboardInterrupt

    def note(self, entry: object) -> None:
        """Not watched."""

    def phase(self, name: str, n_candidates: int) -> None:
        if self.seen >= self.generations and name == self.wanted:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [(1, ""), (2, "refinement"), (2, "evaluation"), (3, "final"), (3, "report")])
def test_an_interrupted_campaign_resumes_to_the_same_content(
    run: Run, small: CampaignConfig, finished: Path, tmp_path: Path, stop: tuple[int, str]
) -> None:
    path = tmp_path / "cut" / "campaign.db"
    with pytest.raises(KeyboardInterrupt):
        run(small, path, listener=StopAfter(*stop))
    assert CampaignStore.open(path, readonly=True).status() == "interrupted"
    run(small, path)
    assert content_digest(path) == content_digest(finished)


def test_a_generation_that_is_over_is_kept_when_the_next_is_interrupted_before_it_is_refined(
    run: Run, small: CampaignConfig, tmp_path: Path
) -> None:
    path = tmp_path / "campaign.db"
    with pytest.raises(KeyboardInterrupt):
        run(small, path, listener=StopAfter(2, "refinement"))
    with CampaignStore.open(path, readonly=True) as store:
        assert store.last_generation() == 1


def test_the_number_of_workers_does_not_change_the_content(
    run: Run, small: CampaignConfig, finished: Path, tmp_path: Path
) -> None:
    assert content_digest(run(small, tmp_path / "two" / "campaign.db", workers=2)) == content_digest(finished)


def test_another_seed_gives_another_campaign(
    run: Run, small: CampaignConfig, finished: Path, tmp_path: Path
) -> None:
    other = run(replace(small, seed=4), tmp_path / "other" / "campaign.db")
    assert content_digest(other)["genomes"] != content_digest(finished)["genomes"]


def test_torch_s_global_generator_is_left_alone(run: Run, small: CampaignConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    run(small, tmp_path / "rng" / "campaign.db")
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_and_garbage_collection_are_left_as_they_were(
    run: Run, small: CampaignConfig, tmp_path: Path
) -> None:
    n_threads, n_frozen = torch.get_num_threads(), gc.get_freeze_count()
    assert n_frozen > 0, "see pytest_collection_finish"
    torch.set_num_threads(2)
    try:
        run(small, tmp_path / "among_frozen" / "campaign.db")
        assert (torch.get_num_threads(), gc.get_freeze_count()) == (2, n_frozen)
        gc.unfreeze()
        run(small, tmp_path / "among_none" / "campaign.db")
        assert (torch.get_num_threads(), gc.get_freeze_count()) == (2, 0)
    finally:
        torch.set_num_threads(n_threads)
        gc.freeze()


def test_the_store_holds_what_happened(small: CampaignConfig, finished: Path) -> None:
    with CampaignStore.open(finished, readonly=True) as store:
        assert store.status() == "finished"
        records = store.generations()
        assert [record.index for record in records] == [0, 1, 2]
        for record in records:
            assert len(record.population) == small.evolution.population
            assert record.hypervolume is not None
            assert 0 <= record.hypervolume <= 1
        later = store.evaluations(generation=2, purpose="fitness")
        assert {one.genome_id for one in later} >= set(records[1].population), "survivors are re-evaluated"
        assert all(len(one.tasks) == 3 and one.inner_steps == 30 for one in later if one.status == "complete")
        for genome in store.genomes():
            for name in {genome.weights, genome.germline} - {None}:
                assert store.weights_bytes(str(name))
            assert set(genome.lineage.parents) <= {one.id for one in store.genomes()}
        assert {"meta_train/0", "meta_valid/0"} <= set(store.streams(1))


def test_the_front_is_measured_again_and_reported_once_on_meta_test(finished: Path) -> None:
    with CampaignStore.open(finished, readonly=True) as store:
        front = read_front(store)
        assert front.final
        assert front.test_values is not None
        assert front.values.shape == front.test_values.shape == (len(front.genomes), 2)
        assert np.isfinite(front.values).all()
        objectives = campaign_objectives(store)
        assert front.best(objectives[0].name) == int(np.argmin(front.values[:, 0]))
        baselines = {one.rule: one for one in read_baselines(store)}
        assert baselines["adam"].values[0] == pytest.approx(1.0), "tuned Adam is the unit of meta_loss"
        assert baselines["adam"].test_values[0] == pytest.approx(1.0)
        assert baselines["sgd"].values[1] == 0.0


def test_write_back_decides_what_children_inherit(run: Run, small: CampaignConfig, tmp_path: Path) -> None:
    for mode, same in (("lamarckian", True), ("baldwinian", False)):
        genes = {**small.genes, "meta.write_back": mode}
        config = replace(small, genes=genes, evolution=replace(small.evolution, families=("recurrent",)))
        path = run(config, tmp_path / mode / "campaign.db")
        with CampaignStore.open(path, readonly=True) as store:
            genomes = [genome for genome in store.genomes() if genome.family == "recurrent"]
        assert genomes
        assert all((genome.weights == genome.germline) is same for genome in genomes)
        assert all("refined 2 meta-steps" in genome.lineage.weights for genome in genomes)


def test_without_refinement_weights_stay_as_drawn_or_inherited(
    run: Run, small: CampaignConfig, tmp_path: Path
) -> None:
    config = replace(small, refinement=replace(small.refinement, enabled=False))
    with CampaignStore.open(run(config, tmp_path / "off" / "campaign.db"), readonly=True) as store:
        assert all("refined" not in genome.lineage.weights for genome in store.genomes())
        assert all(record.refinement_inner_steps == 0 for record in store.generations())


def test_a_task_family_that_raises_ends_the_campaign_with_its_reason_and_loses_nothing(
    run: Run, small: CampaignConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "away.py").write_text(
        "from evometa.tasks.quadratic import Quadratic\n"
        "class Away(Quadratic):\n"
        "    def sample(self, split, n_tasks, generator):\n"
        "        if split == 'meta_test':\n"
        "            raise RuntimeError('the test data is away')\n"
        "        return super().sample(split, n_tasks, generator)\n"
        "family = Away(dim=3)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    source = replace(small.tasks[0], use="away:family", options={})
    path = tmp_path / "away" / "campaign.db"
    with pytest.raises(TaskError, match="the test data is away"):
        run(replace(small, tasks=(source,)), path)
    with CampaignStore.open(path, readonly=True) as store:
        assert store.last_generation() == 2
        assert not read_front(store).final


@pytest.mark.parametrize("asked", [False, True])
def test_operations_are_counted_where_an_objective_asks_for_them(
    asked: bool, run: Run, small: CampaignConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    anew = cost.count_anew

    def noted(learner: Learner) -> cost.Counts:
        counted.append(learner.family)
        return anew(learner)

    monkeypatch.setattr(cost, "_COUNTED", {})
    monkeypatch.setattr(cost, "count_anew", noted)
    use = ("meta_loss", "flops" if asked else "state_floats")
    config = replace(small, objectives=replace(small.objectives, use=use))
    path = run(config, tmp_path / "campaign.db")
    assert bool(counted) == asked
    with CampaignStore.open(path, readonly=True) as store:
        values = store.objective_values(2).values()
    assert all(np.isfinite(list(own.values())).all() for own in values)
