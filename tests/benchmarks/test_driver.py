"""The benchmarks: workloads travel whole, processes answer, work is counted, tables are printed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import machine
from benchmarks.groups import mixed, throughput
from benchmarks.groups.campaign import Share, timed_executor
from benchmarks.groups.growth import Campaign
from benchmarks.groups.memory import cases
from benchmarks.groups.millions import fill
from benchmarks.groups.scaling import Growth, coordinates
from benchmarks.mixed import MIXED
from benchmarks.rounds import Timing, interleaved
from benchmarks.teams import ContestantError, Team, environment
from benchmarks.workload import RULES, Spec, Workload
from evometa.campaign.doctor import diagnose
from evometa.execution import Executor
from evometa.inner.cohort import by_structure
from evometa.store import CampaignStore

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def naive() -> Iterator[Team]:
    team = Team("naive", 2, environment("naive"))
    yield team
    team.close()


def tiny(n_candidates: int = 3) -> Workload:
    return Workload.of("forward", RULES["adam"][1], n_candidates, n_tasks=2, n_steps=3, width=4)


def test_a_workload_travels_as_json() -> None:
    for workload in (Workload("forward", MIXED), tiny(), Workload.of("pes", MIXED[9], 2, n_segments=5)):
        assert Workload.from_json(json.loads(json.dumps(workload.to_json()))) == workload


def test_dealing_keeps_every_candidate_and_its_weights() -> None:
    whole = Workload.of("forward", RULES["gru"][1], 5, n_tasks=1, n_steps=1)
    dealt = [candidate for part in whole.dealt(2) for candidate in part.candidates]
    assert [candidate.id for candidate in dealt] == [candidate.id for candidate in whole.candidates]
    for ours, theirs in zip(whole.candidates, dealt, strict=True):
        assert all(torch.equal(value, theirs.weights[name]) for name, value in ours.weights.items())
    assert len(whole.dealt(8)) == 5


def test_a_team_shares_the_work_of_a_repetition(naive: Team) -> None:
    naive.prepare("tiny", tiny())
    steps, seconds = naive.run("tiny")
    assert steps == tiny().n_inner_steps == 3 * 2 * 3
    assert seconds > 0
    naive.release("tiny")
    with pytest.raises(KeyError):
        naive.run("tiny")


def test_what_a_contestant_cannot_do_is_one_line_and_the_process_lives_on(naive: Team) -> None:
    with pytest.raises(ContestantError, match=r"^naive: NotImplementedError: lion$"):
        naive.prepare("lion", Workload.of("forward", Spec("lion"), 1, n_tasks=1, n_steps=1))
    naive.prepare("after", tiny(1))
    assert naive.run("after")[0] == 6
    naive.release("after")


def test_rounds_alternate_who_begins(naive: Team) -> None:
    asked = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, key: str) -> tuple[int, float]:
            asked.append(self.name)
            return 10, 2.0

    recorders = {name: Recorder(name) for name in ("a", "b")}
    timings = {name: Timing({}) for name in recorders}
    interleaved(recorders, timings, "key", 2, lambda what, number, n_all: None)  # type: ignore[arg-type]
    assert asked == ["a", "b", "b", "a"]
    assert (timings["a"].rate, timings["a"].spread) == (5.0, 0.0)


def test_the_mixed_generation_is_what_the_issue_of_mixing_needs() -> None:
    whole = mixed.generation(quick=False)
    groups = by_structure(whole.candidates)
    families = {candidate.family for candidate in whole.candidates}
    cells = {dict(candidate.learner.genes).get("cell") for candidate in whole.candidates}
    hidden = {dict(c.learner.genes)["hidden"] for c in whole.candidates if c.family == "recurrent"}
    assert len(MIXED) == 32
    assert len(groups) >= 16
    assert {"recurrent", "mlp", "adam", "lion", "momentum"} <= families
    assert {"vanilla", "gru", "lstm"} <= cells
    assert (min(hidden), max(hidden)) == (4, 32)
    parts = mixed.parts(whole)
    assert len(parts) == len(groups)
    assert [c.id for part in parts for c in part.candidates] == [c.id for c in whole.candidates]


def test_the_machine_is_measured_just_before_the_turn_it_is_for(naive: Team) -> None:
    events: list[str] = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, key: str) -> tuple[int, float]:
            events.append(self.name)
            return 1, 1.0

    recorders = {name: Recorder(name) for name in ("a", "b")}
    timings = {name: Timing({}) for name in recorders}
    before = {"b": lambda: events.append("machine")}
    interleaved(recorders, timings, "key", 2, lambda what, number, n_all: None, before)  # type: ignore[arg-type]
    assert events == ["a", "machine", "b", "machine", "b", "a"]


def test_an_exponent_is_that_of_the_power_law() -> None:
    assert Growth("P", (1, 2, 4, 8), [3 * size**0.9 for size in (1, 2, 4, 8)]).exponent == pytest.approx(0.9)
    assert [Growth("P", (1, 2), [1, 2**power]).is_linear for power in (0.8, 1.0, 1.2)] == [False, True, False]


def test_the_million_parameters_are_nearly_one() -> None:
    widths = {case.width for title, case in cases(quick=False).items() if "1,000,000" in title}
    assert [round(coordinates(width), -3) for width in widths] == [1_000_000]


def test_runs_of_an_executor_are_timed_and_the_class_is_left_as_it_was() -> None:
    before = Executor.run
    with timed_executor() as seconds:
        Executor(CPU, 1).run([])
    assert len(seconds) == 1
    assert Executor.run is before


def test_a_share_leaves_out_inner_training_and_takes_in_what_else_workers_do() -> None:
    times = {"total_seconds": 100.0, "inner_seconds": 97.5, "driving_seconds": 1.0, "counting_seconds": 4.0}
    times["figure_seconds"] = 1.0
    share = Share(256, 50, 2, 50, **times, n_workers=2)
    assert share.other == pytest.approx(0.05)
    assert share.other_seconds_per_generation == pytest.approx(4 / 50)


def test_growth_is_the_slope_of_the_second_half() -> None:
    sizes = [1000 * min(generation, 50) + 10 * generation for generation in range(100)]
    grew = Campaign(sizes, sizes, sizes, weights_bytes=990, n_genomes=1, n_evaluations=50, n_task_results=500)
    slope, fit = grew.slope(sizes)
    assert slope == pytest.approx(10, rel=1e-6)
    assert fit == pytest.approx(1)
    assert grew.ends(sizes) == (1010 * 9.5, 50_000 + 10 * 89.5)
    assert grew.bytes_per_evaluation == 10 * grew.bytes_per_task_result == (50_990 - 990) / 50


def test_a_large_database_is_what_a_campaign_would_have_stored(tmp_path: Path) -> None:
    path = tmp_path / "large" / "campaign.db"
    n_evaluations, n_task_results = fill(path, 1_500)
    with CampaignStore.open(path, readonly=True) as store:
        stored = store.evaluations()
    assert len(stored) == n_evaluations >= 1_500
    assert sum(len(one.tasks) for one in stored) == n_task_results
    assert diagnose(path) == []


def test_the_machine_is_described_in_plain_data() -> None:
    found = machine.describe()
    assert found["cores"] == machine.n_cores() >= 1
    assert found["versions"]["torch"] == torch.__version__
    json.dumps(found)


def test_slow_contestants_do_less_of_the_same_work() -> None:
    whole = throughput.workload("forward", "lstm", "evometa", quick=False)
    reduced = throughput.workload("forward", "lstm", "naive", quick=False)
    assert (len(whole.specs), whole.n_tasks, whole.n_steps, whole.width) == (32, 8, 100, 32)
    assert reduced == dataclasses.replace(whole, specs=whole.specs[: len(reduced.specs)], n_steps=50)
    for contestant in throughput.CONTESTANTS:
        assert throughput.workload("bptt", "gru", contestant, quick=False).n_steps == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "group",
    [
        "forward",
        "bptt",
        "pes",
        "mixed",
        "scaling",
        "memory",
        "campaign",
        "growth",
        "racing",
        "threads",
        "optimizers",
        "families",
    ],
)
def test_every_group_runs(group: str, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--quick",
        "--rounds",
        "1",
        "--only",
        group,
        "--out",
        str(out),
    ]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    document = json.loads(out.read_text())
    assert document[group]
    assert document["machine"]["cpu"]
