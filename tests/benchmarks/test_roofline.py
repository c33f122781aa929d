"""The roofline and the targets: work is counted, rates are measured, shares and figures are read."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from benchmarks import tables
from benchmarks.groups import throughput
from benchmarks.groups.memory import GENERATION
from benchmarks.groups.scaling import coordinates
from benchmarks.reach import figures
from benchmarks.roofline.rates import TRIAD_BYTES, bandwidth, best
from benchmarks.roofline.team import roofline
from benchmarks.roofline.work import Work, count_work
from benchmarks.rounds import Timing
from benchmarks.workload import RULES, Spec, Workload
from evometa.inner.task_set import prepare

CPU = torch.device("cpu")


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
    assert Work(100, 10, 50, 4).ceiling(rates) == 1 / (10 + 5 + 5)
    assert bandwidth(rates, TRIAD_BYTES[0] + 1) == 1e9 / TRIAD_BYTES[1]
    assert bandwidth(rates, 1e12) == 1e9 / TRIAD_BYTES[-1]
    assert Work(0, 0, 0, 10**12).ceiling(rates) == pytest.approx(1e9 / TRIAD_BYTES[-1] / 1e12)


def contest(ours: list[float], naive: list[float], speeds: list[float]) -> throughput.Contest:
    """Rounds with these rates of evometa and the naive loop on a machine of these speeds."""
    timings = {"evometa": Timing({}, ours, [1.0]), "naive": Timing({}, naive, [1.0])}
    kinds = ("product a", "transcendental a", *(f"triad {size}" for size in TRIAD_BYTES))
    return throughput.Contest(timings, [dict.fromkeys(kinds, speed) for speed in speeds])


def test_the_share_compares_each_round_with_the_machine_of_that_round() -> None:
    work = Work(100, 0, 0, 4)
    steady = contest([0.5, 0.5, 0.5], [1.0] * 3, [100.0, 100.0, 100.0])
    drifting = contest([0.5, 0.25, 0.125], [1.0] * 3, [100.0, 50.0, 25.0])
    assert steady.shares(work) == drifting.shares(work) == [0.5, 0.5, 0.5]
    assert drifting.ceilings(work) == [1.0, 0.5, 0.25]


def test_the_rates_shown_are_medians_over_all_rounds() -> None:
    out = io.StringIO()
    contests = [contest([1.0] * 2, [1.0] * 2, [1e9, 9e9]), contest([1.0], [1.0], [3e9])]
    rates = tables.show_rates(Console(file=out, width=100), contests)
    assert set(rates.values()) == {3e9}
    assert "multiply-adds" not in out.getvalue()


def test_the_table_names_who_is_not_there_and_the_share_of_the_roofline() -> None:
    out = io.StringIO()
    work = count_work(RULES["adam"][1])
    contests = {"adam": contest([1000.0], [100.0], [1e9])}
    document = tables.show_throughput(
        Console(file=out, width=250), "forward", contests, {"adam": work}, quick=False
    )
    assert document["adam"]["ratios"] == {"naive": 10.0}
    found = document["adam"]["roofline"]
    assert found["share"] == found["shares"][0] == 1000 / found["inner_steps_per_second"] > 0
    lines = [line for line in out.getvalue().splitlines() if "Adam" in line]
    assert lines[0].count("–") == 5
    assert "1,000 ±0%" in lines[0]
    assert "%" in lines[1]


def test_all_cores_measure_the_rates_that_works_ask_for() -> None:
    with roofline([Work(1, 1, 1, TRIAD_BYTES[1])], 0.01) as measuring:
        rates = measuring.measure()
    assert [name for name in rates if name.startswith("triad")] == [f"triad {TRIAD_BYTES[1]}"]
    assert best(rates, "product") > 0
    assert best(rates, "transcendental") > 0
    assert all(rate > 0 for rate in rates.values())


def test_reach_is_read_from_what_was_measured() -> None:
    assert figures({"machine": {}, "forward": {}}) == []
    forward = {
        "gru": {"ratios": {"naive": 7.0, "jax": 1.5, "jax-tuned": 1.2}, "roofline": {"share": 0.8}},
        "adam": {"ratios": {"naive": 19.0}, "roofline": {"share": 0.1}},
    }
    document = {
        "forward": forward,
        "bptt": {"gru": {"ratios": {"naive": 9.0, "jax": 2.5}}},
        "mixed": {"overhead": {"evometa": 1.2, "evometa-1": 1.1}, "seconds": {"evometa": 2.0}},
        "memory": {GENERATION: {"peak_bytes": 1.9e9}},
        "campaign": {"other_share": 0.021},
        "scaling": {"adam": {"N": {"exponent": 1.1}, "K": {"exponent": 0.89}}},
    }
    found = {one.what: (one.shown, one.target, one.is_reached) for one in figures(document)}
    assert found == {
        "GRU 16: forward over JAX": ("1.5×", "≥ 1.3×", True),
        "GRU 16: forward over JAX, tuned": ("1.2×", "≥ 1.3×", False),
        "GRU 16: share of the roofline": ("80 %", "≥ 75 %", True),
        "GRU 16: BPTT over JAX": ("2.5×", "≥ 2.5×", True),
        "GRU 16: forward over the naive loop": ("7×", "≥ 6×", True),
        "Adam: forward over the naive loop": ("19×", "≥ 20×", False),
        "mixed generation over its parts, one worker": ("1.1×", "≤ 1.15×", True),
        "mixed generation over its parts, all workers": ("1.2×", "≤ 1.15×", False),
        f"peak memory, {GENERATION}": ("1.9 GB", "≤ 2 GB", True),
        "campaign: share that is not inner training": ("2.1 %", "≤ 2 %", False),
        "Adam: exponent of N": ("1.1", "0.9–1.1", True),
        "Adam: exponent of K": ("0.89", "0.9–1.1", False),
    }
