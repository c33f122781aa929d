"""Every family has its row: a rate, its share of the roofline, and what takes the time."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from benchmarks.contestants.engine import EngineOnOneWorker
from benchmarks.families_table import markdown, show_families
from benchmarks.groups import families
from benchmarks.groups.families import Row
from benchmarks.machine import n_cores
from benchmarks.roofline.anatomy import Anatomy, OperationTimer, anatomy
from benchmarks.roofline.rates import TRIAD_BYTES
from benchmarks.roofline.work import Work, count_work, count_workload
from benchmarks.rounds import Timing
from benchmarks.teams import ContestantError
from benchmarks.workload import RULES, Spec, Workload
from evometa.rules.registry import RULES as RULE_FAMILIES
from evometa.tasks import TASKS, TaskFamily


def test_every_family_of_the_registries_has_a_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS._members, "new", TaskFamily)
    found = families.workloads(quick=True)
    assert [name for kind, name in found if kind == "rule"] == RULE_FAMILIES.built_in
    assert [name for kind, name in found if kind == "task"] == [*TASKS.built_in[:-1], "new"]
    assert found["rule", "lion"].request().use == "digits"
    assert {spec.family for spec in found["rule", "lion"].specs} == {"lion"}
    control = found["task", "control"].request()
    assert (control.use, control.options) == ("control", "{}")
    full = families.workloads(quick=False)["rule", "adam"]
    assert (len(full.specs), full.n_tasks, full.n_steps, full.width) == (32, 8, 100, 32)
    assert full.n_cohorts == n_cores()


def test_work_is_the_mean_over_tasks_of_several_architectures() -> None:
    digits = Workload.of("forward", Spec("sgd"), 1, n_tasks=4, n_steps=1, use="digits")
    single = [
        count_workload(replace(digits, n_tasks=1, use=None, width=width)).product_flops for width in (4, 8)
    ]
    assert single[0] < count_workload(digits).product_flops  # architectures of many widths
    perceptrons = Workload.of("forward", RULES["adam"][1], 1, n_tasks=2, n_steps=1)
    assert count_workload(perceptrons) == count_work(RULES["adam"][1])


def test_operations_are_timed_and_their_bytes_counted() -> None:
    wide, narrow = torch.zeros(1000), torch.zeros(1000, 1)
    with OperationTimer() as timer:
        wide + wide
        narrow @ wide.view(1, 1000)
    assert {str(func): len(seconds) for func, seconds in timer.seconds.items()} == {
        "aten.add.Tensor": 1,
        "aten.view.default": 1,
        "aten.mm.default": 1,
    }
    assert timer.n_bytes == 4 * (1000 + 1000 + 1000 + 1000 + 1_000_000)  # a tensor given twice is read once
    assert next(iter(timer.beyond(0.0))) == "aten.mm"
    assert set(timer.beyond(1e9).values()) == {0.0}


def test_a_training_is_taken_apart() -> None:
    found = anatomy(Workload.of("forward", Spec("proximal"), 3, n_tasks=2, n_steps=12, width=4))
    assert found.n_runs == 3 * 2
    assert found.n_operations * found.n_runs > 10
    assert found.computing_seconds == pytest.approx(sum(found.by_name.values()))
    assert "aten.abs" in found.by_name  # of the soft threshold
    # every parameter and its gradient at least, and those of the whole chunk in a step
    assert found.n_bytes > 2 * 4 * (64 * 4 + 4 + 4 * 10 + 10)
    assert found.working_set == pytest.approx(6 * found.n_bytes)


def row(anatomy: Anatomy, work: Work, rate: float = 100.0) -> Row:
    """Of one round, on a machine that makes a thousand of everything a second."""
    kinds = ("product a", "transcendental a", "launch torch add", *(f"triad {n}" for n in TRIAD_BYTES))
    return Row("rule", "one", Timing({}, [rate], [1.0]), [dict.fromkeys(kinds, 1000.0)], work, anatomy)


def taken_apart(n_operations: float, computing: float) -> Anatomy:
    by_name = {"aten.mm": 0.75 * computing, "aten.add": 0.25 * computing}
    return Anatomy(4, n_operations, 2.0, 8.0, computing, by_name, 1e-3)


def test_shares_add_up_to_the_time_of_a_step() -> None:
    one = row(taken_apart(3.0, 0.006 * n_cores()), Work(1, 0, 0, 0))
    assert one.share == pytest.approx(0.1)
    assert one.traffic == pytest.approx(0.2)
    assert one.launching == pytest.approx(0.3)
    assert one.computing == pytest.approx(0.6)
    assert one.between == pytest.approx(0.1)
    assert one.binds == "computing: aten.mm 45 %, aten.add 15 % of the time"


def test_a_row_says_what_binds_it_where_its_share_is_small() -> None:
    called = row(taken_apart(5.0, 0.002 * n_cores()), Work(1, 0, 0, 0))
    assert called.binds == "80 % of the time launching 20 operations a step for 4 runs, and between them"
    assert row(taken_apart(5.0, 0.002 * n_cores()), Work(4, 0, 0, 0)).binds == ""


def test_the_tables_have_a_line_for_every_row_and_say_what_could_not_be_trained() -> None:
    good = row(taken_apart(3.0, 0.006 * n_cores()), Work(1, 0, 0, 0))
    bad = replace(good, kind="task", name="two", timing=Timing({}), rates=(), problem="evometa: no")
    out = io.StringIO()
    document = show_families(Console(file=out, width=200), [good, bad])
    assert json.loads(json.dumps(document)) == document
    lines = markdown(document).splitlines()
    assert "| one | 100 ±0 % | 10 % | 60 % | 30 % | 10 % | 20 % | computing: aten.mm 45 %, aten.add 15 %" in (
        next(line for line in lines if "one" in line)
    )
    assert next(line for line in lines if "two" in line) == "| two | – | – | – | – | – | – | evometa: no |"
    assert "one: computing" in out.getvalue()


class Reluctant:
    """A team that cannot prepare one of its workloads."""

    name = "evometa"

    def prepare(self, key: str, workload: Workload) -> dict[str, float]:
        if "two" in key:
            raise ContestantError("evometa: TaskError: no")
        return {}

    def run(self, key: str) -> tuple[int, float]:
        return 50, 0.5

    def release(self, key: str) -> None:
        pass


class Machine:
    def measure(self) -> dict[str, float]:
        return {"product a": 1.0}


def test_a_family_that_cannot_be_trained_leaves_the_others_their_rows() -> None:
    known = families.Prepared(Workload("forward", ()), Work(1, 0, 0, 0), taken_apart(1.0, 1.0))
    named = {("rule", name): known for name in ("one", "two", "three")}
    rows = families.measure(named, Reluctant(), 2, lambda *_: None, Machine())  # type: ignore[arg-type]
    assert [one.problem for one in rows] == ["", "evometa: TaskError: no", ""]
    assert rows[2].timing.rates == [100.0, 100.0]
    assert len(rows[2].rates) == 2


def test_cohorts_are_planned_apart() -> None:
    """One would be a single chunk, which one worker trains while the others wait."""
    whole = Workload.of("forward", Spec("adam"), 5, n_tasks=2, n_steps=3, width=4)
    for n_cohorts, sizes in ((1, [5]), (2, [2, 3])):
        engine = EngineOnOneWorker(replace(whole, n_cohorts=n_cohorts), torch.device("cpu"))
        assert sorted(len(unit.candidates) for unit in engine.units) == sizes
        assert len({one.id for unit in engine.units for one in unit.candidates}) == 5
        assert engine.run() == whole.n_inner_steps
        engine.close()
