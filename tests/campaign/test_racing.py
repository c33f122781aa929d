"""Racing: who is trained on what, who stays, and what is kept of those that left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evometa.campaign.events import GenerationSummary, Silent
from evometa.campaign.fitness import CommonTasks, Evaluated
from evometa.campaign.racing import Race, race
from evometa.campaign.runs import NUMBERS, Runs
from evometa.campaign.session import run_campaign
from evometa.config import CampaignConfig, ExecutionConfig
from evometa.config.sections import RacingConfig, Rung
from evometa.genome.genome import BASELINE
from evometa.inner.task_set import request
from evometa.objectives.baseline import baseline_candidate
from evometa.store import CampaignStore, content_digest
from evometa.store.examination import examine

T, K = 8, 100
ADAM = baseline_candidate("adam", 1e-3)
HALVES = (Rung(tasks=0.25), Rung(tasks=0.5))


def source(n_tasks: int = T, seed: int = 0) -> CommonTasks:
    return CommonTasks(request("quadratic", {"dim": 3}, "meta_valid", n_tasks, K + 1, seed), ADAM)


class Course:
    """Genomes whose every loss is their own number, and a diary of who was trained on what."""

    def __init__(self, losses: Sequence[float]) -> None:
        self.losses = losses
        self.diary: list[tuple[list[int], list[tuple[int, int, int]]]] = []

    def evaluate(self, members: Sequence[int], tasks: Sequence[CommonTasks]) -> tuple[list[Evaluated], float]:
        windows = []
        for one in tasks:
            first, last = one.wanted.only or (0, one.wanted.n_tasks)
            windows.append((first, last, one.wanted.n_steps - 1))
        self.diary.append((list(members), windows))
        n = sum(last - first for first, last, _ in windows)
        steps = sum((last - first) * horizon for first, last, horizon in windows)
        found = [
            Evaluated(
                (("quadratic", "d"),) * n,
                Runs(np.full(n, "complete"), np.full((n, len(NUMBERS)), self.losses[index])),
                steps,
                "",
            )
            for index in members
        ]
        return found, 1.0

    def value(self, members: Sequence[int], runs: Sequence[Runs], pooled: bool) -> np.ndarray:
        return np.array([[one.numbers.mean()] for one in runs])

    def run(self, rungs: Sequence[Rung], size: int, tasks: Sequence[CommonTasks] = (source(),)) -> Race:
        return race(len(self.losses), tasks, rungs, size, self.evaluate, self.value)


def test_the_worse_half_leaves_at_every_rung_and_the_best_are_trained_on_every_task_once() -> None:
    course = Course([5, 1, 8, 3, 2, 7, 6, 4])
    run = course.run(HALVES, size=4)
    assert course.diary == [
        ([0, 1, 2, 3, 4, 5, 6, 7], [(0, 2, K)]),
        ([1, 3, 4, 7], [(2, 4, K)]),
        ([1, 4], [(4, 8, K)]),
    ]
    assert run.left.tolist() == [0, 2, 0, 1, 2, 0, 0, 1]
    assert [len(one.tasks) for one in run.evaluated] == [2, 8, 2, 4, 8, 2, 2, 4]
    assert [one.n_inner_steps for one in run.evaluated] == [200, 800, 200, 400, 800, 200, 200, 400]
    assert [one.pruned for one in run.evaluated] == [left < 2 for left in run.left]
    assert run.evaluated[0].message == "left the race at rung 0"
    assert run.values[:, 0].tolist() == list(course.losses)
    assert run.seconds == 3.0


def test_a_short_rung_costs_steps_decides_and_leaves_no_runs_with_those_that_stay() -> None:
    course = Course([4, 1, 3, 2])
    run = course.run((Rung(tasks=0.5, horizon=0.25, keep=0.5),), size=2)
    assert course.diary == [([0, 1, 2, 3], [(0, 4, 25)]), ([1, 3], [(0, 8, K)])]
    assert [len(one.tasks) for one in run.evaluated] == [4, 8, 4, 8]
    assert [one.n_inner_steps for one in run.evaluated] == [100, 900, 100, 900]


def test_a_short_rung_never_keeps_fewer_than_the_population_and_may_be_passed_over() -> None:
    few = Course([4, 1, 3, 2])
    assert few.run((Rung(horizon=0.25, keep=0.01),), size=3).left.tolist() == [0, 1, 1, 1]
    everyone = Course([4, 1, 3, 2])
    run = everyone.run((Rung(horizon=0.25, keep=0.01),), size=4)
    assert everyone.diary == [([0, 1, 2, 3], [(0, 8, K)])]
    assert run.left.tolist() == [1] * 4


def test_sources_with_few_tasks_join_when_their_turn_comes() -> None:
    course = Course([2, 1, 4, 3])
    course.run(HALVES, size=2, tasks=(source(8), source(1, seed=1), source(3, seed=2)))
    assert [windows for _, windows in course.diary] == [
        [(0, 2, K), (0, 1, K), (0, 1, K)],
        [(2, 4, K), (1, 2, K)],
        [(4, 8, K), (2, 3, K)],
    ]


def test_a_rung_that_brings_no_tasks_or_all_that_are_left_is_passed_over() -> None:
    one, two = Course([2, 1, 4, 3]), Course([2, 1, 4, 3])
    assert one.run(HALVES, size=2, tasks=(source(1),)).left.tolist() == [2] * 4
    assert one.diary == [([0, 1, 2, 3], [(0, 1, K)])]
    assert two.run(HALVES, size=2, tasks=(source(2),)).left.tolist() == [2, 2, 0, 0]
    assert two.diary == [([0, 1, 2, 3], [(0, 1, K)]), ([0, 1], [(1, 2, K)])]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_nobody_is_trained_on_a_task_twice_and_who_stays_on_all(data: st.DataObject) -> None:
    shares = sorted(data.draw(st.sets(st.floats(0.01, 0.99), min_size=1, max_size=4)))
    rungs = [Rung(tasks=share, keep=data.draw(st.floats(0.01, 1.0))) for share in shares]
    losses = data.draw(st.lists(st.integers(0, 9).map(float), min_size=1, max_size=20))
    n_tasks = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    course = Course(losses)
    run = course.run(rungs, 3, [source(n, seed) for seed, n in enumerate(n_tasks)])
    seen: dict[int, int] = {}
    for members, windows in course.diary:
        for index in members:
            seen[index] = seen.get(index, 0) + sum(last - first for first, last, _ in windows)
    assert [seen[index] for index in range(len(losses))] == [len(one.tasks) for one in run.evaluated]
    stayed = run.left == len(rungs)
    assert stayed.any()
    assert all(seen[index] == sum(n_tasks) for index in np.flatnonzero(stayed))
    assert max(np.array(losses)[stayed]) <= min(np.array(losses)[~stayed], default=np.inf)


@pytest.mark.parametrize(
    ("rungs", "words"),
    [
        ((Rung(tasks=0.5), Rung(tasks=0.5)), "rungs.1.tasks = 0.5"),
        ((Rung(tasks=1.0),), "rungs.0.tasks = 1"),
    ],
)
def test_rungs_that_would_not_bring_new_tasks_are_refused(rungs: tuple[Rung, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RacingConfig(rungs=rungs)


@pytest.fixture
def plain(small: CampaignConfig) -> CampaignConfig:
    """The small campaign with more tasks, without racing, in this process."""
    (own,) = small.tasks
    inline = ExecutionConfig(device="cpu", backend="inline")
    return replace(small, name="plain", tasks=(replace(own, n_tasks=8),), execution=inline)


def raced(plain: CampaignConfig, rungs: tuple[Rung, ...] = HALVES) -> CampaignConfig:
    return replace(plain, name="raced", racing=RacingConfig(enabled=True, rungs=rungs))


def test_a_race_takes_fewer_steps_and_finalists_have_the_runs_of_a_whole_evaluation(
    plain: CampaignConfig, tmp_path: Path
) -> None:
    paths = [run_campaign(config, tmp_path) for config in (plain, raced(plain))]
    assert examine(paths[1]) == []
    with (
        CampaignStore.open(paths[0], readonly=True) as whole,
        CampaignStore.open(paths[1], readonly=True) as race,
    ):
        first = [
            {one.genome_id: one for one in store.evaluations(generation=0, purpose="fitness")}
            for store in (whole, race)
        ]
        for genome_id, one in first[1].items():
            runs = set(first[0][genome_id].tasks)
            assert set(one.tasks) <= runs
            assert (set(one.tasks) == runs) == (one.status != "pruned")
        assert {len(one.tasks) for one in first[1].values()} == {2, 4, 8}
        steps = [[g.evaluation_inner_steps for g in store.generations()] for store in (whole, race)]
        assert all(few < many for few, many in zip(steps[1], steps[0], strict=True))
        for record in race.generations():
            ends = {
                one.genome_id: one.status
                for one in race.evaluations(generation=record.index, purpose="fitness")
            }
            assert len(record.population) == plain.evolution.population
            stayed = {genome_id for genome_id, status in ends.items() if status != "pruned"}
            assert stayed <= set(record.population)
            assert {one.genome_id for one in record.candidates if one.in_front} <= stayed


class Interrupting(Silent):
    """A listener that ends the campaign after a generation."""

    def __init__(self, last: int) -> None:
        self.last = last

    def generation(self, summary: GenerationSummary) -> None:
        if summary.generation == self.last:
            raise KeyboardInterrupt


@pytest.mark.parametrize("rungs", [HALVES, (Rung(tasks=0.5, horizon=0.3), Rung(tasks=0.25))])
def test_a_raced_campaign_that_is_interrupted_comes_to_the_same(
    plain: CampaignConfig, tmp_path: Path, rungs: tuple[Rung, ...]
) -> None:
    config = raced(plain, rungs)
    whole = content_digest(run_campaign(config, tmp_path / "whole"))
    for generation in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            run_campaign(config, tmp_path / "parts", resume=True, listener=Interrupting(generation))
    assert content_digest(run_campaign(config, tmp_path / "parts", resume=True)) == whole


@pytest.mark.parametrize("n_tasks", [1, 2, 8])
def test_the_whole_front_and_nobody_else_is_measured_in_the_end(
    plain: CampaignConfig, tmp_path: Path, n_tasks: int
) -> None:
    (own,) = plain.tasks
    config = raced(replace(plain, tasks=(replace(own, n_tasks=n_tasks),)))
    with CampaignStore.open(run_campaign(config, tmp_path), readonly=True) as store:
        last = store.last_generation()
        assert last is not None
        front = {genome.id for genome in store.front(last)}
        for purpose in ("final", "report"):
            measured = {one.genome_id for one in store.evaluations(purpose=purpose)}
            assert {name for name in measured if not name.startswith(BASELINE)} == front
