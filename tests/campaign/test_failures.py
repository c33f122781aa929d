"""What fails costs its own row; tasks that most fail on end the campaign with the reason."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from evometa.campaign.fitness import refuse_failures
from evometa.campaign.session import run_campaign
from evometa.config import CampaignConfig, ExecutionConfig, TaskSource
from evometa.errors import ConfigError, TaskError
from evometa.execution import EvaluationUnit, UnitResult
from evometa.inner.cohort import Candidate
from evometa.inner.record import Status
from evometa.inner.task_set import request
from evometa.store import CampaignStore, campaign_path

WANTED = request("quadratic", {"dim": 3}, "meta_valid", 2, 6, seed=1)


def result(n: int, status: Status, message: str = "") -> UnitResult:
    members = tuple(Candidate(f"{status}-{i}", "sgd", {}, {}) for i in range(n))
    return UnitResult(EvaluationUnit(members, WANTED), status, 0.0, None, message)


def test_tasks_that_most_candidates_fail_on_are_refused_with_the_most_frequent_reason() -> None:
    def which(failed: UnitResult) -> str:
        assert failed.message == "ValueError: away"
        return ", on task 2 of 4"

    few = [result(3, Status.COMPLETE), result(1, Status.TIMEOUT), result(2, Status.OUT_OF_MEMORY)]
    refuse_failures(few, "tasks 'q'", 0.5, which)
    refuse_failures([result(3, Status.ERROR)], "tasks 'q'", 0.5, which)  # too few to judge by
    many = [*few, *[result(1, Status.ERROR, "ValueError: away")] * 3]
    with pytest.raises(TaskError) as refused:
        refuse_failures(many, "tasks 'q'", 0.5, which)
    assert str(refused.value) == (
        "tasks 'q': 6 of 9 genomes failed, more than execution.max_failed_fraction = 0.5 allows; "
        "3 of them with 'error: ValueError: away', on task 2 of 4. Mend the cause and resume"
    )
    refuse_failures(many, "tasks 'q'", 0.7, which)


FRAIL = '''
from dataclasses import dataclass, replace
from evometa.tasks import TaskFamily, build_family

@dataclass(frozen=True)
class Frail(TaskFamily):
    """Quadratics whose loss cannot be had once training has come {where}."""
    name = "frail"
    summary = "frail"

    def sample(self, split, n_tasks, generator):
        (batch,) = build_family("quadratic", {{"dim": 3}}).sample(split, n_tasks, generator)
        whole = batch.loss_and_grad

        def loss_and_grad(params, data):
            losses, grads = whole(params, data)
            if split == "meta_valid" and bool((losses {condition}).any()):
                raise ValueError("no loss here")
            return losses, grads

        return (replace(batch, loss_and_grad=loss_and_grad),)

frail = Frail()
'''


@pytest.fixture
def frail(small: CampaignConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The small campaign on tasks whose loss raises under a condition."""

    def made(name: str, where: str, condition: str) -> CampaignConfig:
        (tmp_path / f"{name}.py").write_text(FRAIL.format(where=where, condition=condition))
        monkeypatch.syspath_prepend(tmp_path)
        sys.modules.pop(name, None)
        source = TaskSource(f"{name}:frail", n_tasks=3, horizon=10)
        inline = ExecutionConfig(device="cpu", backend="inline")
        return replace(small, tasks=(source,), execution=inline)

    return made


def test_genomes_that_leave_where_the_loss_is_defined_cost_their_own_rows(frail, tmp_path: Path) -> None:
    config = frail("frail_above", "too far", "> 1e6")
    run_campaign(config, tmp_path / "runs")
    with CampaignStore.open(campaign_path(tmp_path / "runs", config.name), readonly=True) as store:
        found = {row.genome_id: (row.status, row.message) for row in store.evaluations(purpose="fitness")}
        assert store.status() == "finished"
    assert ("error", "ValueError: no loss here") in found.values()
    assert any(status == "complete" for status, _ in found.values())


def test_a_campaign_whose_tasks_are_broken_stops_with_the_reason_and_resumes_when_they_are_mended(
    frail, tmp_path: Path
) -> None:
    """Few genomes train as well as tuned Adam, and a loss above what it reaches raises."""
    config = frail("frail_soon", "anywhere", "> 0.0")
    with pytest.raises(
        ConfigError, match=r"tasks\.0: tasks .* cannot be trained on: ValueError: no loss here"
    ):
        run_campaign(config, tmp_path / "runs")
    assert not campaign_path(tmp_path / "runs", config.name).exists()
