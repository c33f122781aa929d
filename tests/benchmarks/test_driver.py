"""The benchmarks: workloads travel whole, processes answer, work is counted, tables are printed."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks import machine, tables
from benchmarks.groups import mixed, throughput
from benchmarks.groups.campaign import Share, timed_executor
from benchmarks.groups.memory import cases
from benchmarks.groups.scaling import Growth, coordinates
from benchmarks.mixed import MIXED
from benchmarks.roofline.rates import TRIAD_BYTES, bandwidth, best
from benchmarks.roofline.work import Work, count_work
from benchmarks.rounds import Timing, interleaved
from benchmarks.teams import ContestantError, Team, environment
from benchmarks.workload import RULES, Spec, Workload
from evometa.execution import Executor
from evometa.inner.cohort import by_structure
from evometa.inner.task_set import prepare

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


def test_the_work_of_a_step_is_counted_from_the_rule() -> None:
    adam, lstm = count_work(RULES["adam"][1]), count_work(RULES["lstm"][1])
    (part,) = prepare(Workload.of("forward", Spec("adam"), 1, n_tasks=1).request(), CPU)
    n = part.tasks.layout.size
    assert n == coordinates(32) == 2410
    # gates of two layers with 2 + 1 + 20 and 20 + 1 + 20 rows, an output with bias, on every coordinate
    assert lstm.product_flops - adam.product_flops == n * (2 * 80 * (23 + 41) + 41)
    # 80 gates and 20 cells of two layers, one logarithm
    extra = lstm.transcendentals - adam.transcendentals
    assert n * (2 * 100 + 1) - extra < 10  # a few numbers are Adam's own
    assert adam.bytes == 4 * n * (2 * 2 + 3)
    assert lstm.bytes == 4 * n * (2 * 80 + 3)
    larger = count_work(RULES["lstm"][1], width=64)
    ratio = coordinates(64) / coordinates(32)
    assert larger.transcendentals / lstm.transcendentals == pytest.approx(ratio, rel=0.01)


def test_the_ideal_time_is_arithmetic_or_memory_whichever_is_longer() -> None:
    rates = {
        **{"product torch a": 8.0, "product numpy a": 10.0, "multiply-add registers": 20.0},
        **{"transcendental torch exp": 1.0, "transcendental native": 2.0},
        **{f"triad {size}": 1e9 / size for size in TRIAD_BYTES},
    }
    assert (best(rates, "product"), best(rates, "transcendental")) == (10.0, 2.0)
    assert Work(100, 10, 50, 4).ideal_seconds(rates, 2) == 2 * (10 + 5 + 5)
    assert bandwidth(rates, TRIAD_BYTES[0] + 1) == 1e9 / TRIAD_BYTES[1]
    assert bandwidth(rates, 1e12) == 1e9 / TRIAD_BYTES[-1]
    assert Work(0, 0, 0, 10**12).ideal_seconds(rates, 1) == pytest.approx(1e12 / (1e9 / TRIAD_BYTES[-1]))


def test_an_exponent_is_that_of_the_power_law() -> None:
    assert Growth("P", (1, 2, 4, 8), [3 * size**0.9 for size in (1, 2, 4, 8)]).exponent == pytest.approx(0.9)


def test_the_million_parameters_are_nearly_one() -> None:
    widths = {case.width for title, case in cases(quick=False).items() if "1,000,000" in title}
    assert [round(coordinates(width), -3) for width in widths] == [1_000_000]


def test_runs_of_an_executor_are_timed_and_the_class_is_left_as_it_was() -> None:
    before = Executor.run
    with timed_executor() as seconds:
        Executor(CPU, 1).run([])
    assert len(seconds) == 1
    assert Executor.run is before


def test_a_share_leaves_out_inner_training() -> None:
    share = Share(256, 50, 2, 50, total_seconds=100.0, inner_seconds=97.0, figure_seconds=1.0)
    assert share.other == pytest.approx(0.03)
    assert share.other_seconds_per_generation == pytest.approx(2 / 50)


def test_the_table_names_who_is_not_there_and_the_share_of_the_roofline() -> None:
    out = io.StringIO()
    timings = {"adam": {"evometa": Timing({}), "naive": Timing({})}}
    timings["adam"]["evometa"].add(1000, 1.0)
    timings["adam"]["naive"].add(100, 1.0)
    rates = {"product a": 1e9, "transcendental a": 1e9, **{f"triad {size}": 1e10 for size in TRIAD_BYTES}}
    document = tables.show_throughput(Console(file=out, width=250), "forward", timings, rates, quick=False)
    assert document["adam"]["ratios"] == {"naive": 10.0}
    assert document["adam"]["roofline"]["share"] > 0
    lines = [line for line in out.getvalue().splitlines() if "Adam" in line]
    assert lines[0].count("not installed") == 3
    assert "1,000 ±0%" in lines[0]
    assert "%" in lines[1]


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
@pytest.mark.parametrize("group", ["forward", "bptt", "pes", "mixed", "scaling", "memory", "campaign"])
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
