"""A bench: who is trained on what, and what the trainings come to."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evometa.bench.baselines import named
from evometa.bench.card import card, markdown, search_text
from evometa.bench.document import document
from evometa.bench.figures import figures, log_ratios
from evometa.bench.generalisation import changes, generalise
from evometa.bench.measure import Results, measure, wanted_tasks
from evometa.bench.pool import POOL, pool_label
from evometa.bench.spec import BenchSpec, GenomeFile, read_genome
from evometa.bench.timing import StepTime, time_steps
from evometa.config import TaskSource
from evometa.errors import BenchError, GenomeError
from evometa.inner.task_set import prepare
from evometa.objectives.baseline import baseline_candidate
from evometa.plots.bench import bench_figures
from evometa.plots.bench_card import plot_card
from evometa.tasks.metric import PSNR
from evometa.tasks.quadratic import Quadratic

CPU = torch.device("cpu")
QUADRATIC = TaskSource("quadratic", options={"dim": 3})
DIGITS = TaskSource("digits", options={"widths": [8], "depths": [1]})


def genome(label: str, rule: str = "adam", lr: float = 0.1) -> GenomeFile:
    return GenomeFile(label, baseline_candidate(rule, lr), 20, {})


def bench(*genomes: GenomeFile, **changed: object) -> BenchSpec:
    tiny = {
        "sources": (QUADRATIC,),
        "baselines": ("adam",),
        "n_tasks": 2,
        "n_seeds": 3,
        "n_trials": 8,
        "horizon": 20,
        **changed,
    }
    return BenchSpec(genomes or (genome("mine"),), **tiny)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def results() -> Results:
    """Adam at the tuned rate, at a hundredth of it, and SGD that diverges; Muon has no matrix to train."""
    tuned = measure(bench(), CPU, envelope=False).yardstick.tuned[0].rate
    same, slow, lost = genome("same", lr=tuned), genome("slow", lr=tuned / 100), genome("lost", "sgd", 10.0)
    return measure(bench(same, slow, lost, baselines=("adam", "muon", "sgd")), CPU)


@pytest.mark.parametrize("source", [QUADRATIC, DIGITS], ids=["quadratic", "digits"])
def test_a_genome_that_is_a_baseline_has_its_very_curves(source: TaskSource) -> None:
    rate = measure(bench(sources=(source,)), CPU, envelope=False).yardstick.tuned[0].rate
    found = measure(bench(genome("same", lr=rate), sources=(source,)), CPU, envelope=False)
    ours, adam = found.entries
    assert ours.losses.shape == (2, 3, 21)
    assert len(np.unique(ours.losses[:, :, 0])) == 6  # tasks and seeds all begin elsewhere
    np.testing.assert_allclose(ours.losses, adam.losses, rtol=2e-5, atol=1e-6)


def test_a_seed_is_the_same_task_begun_elsewhere() -> None:
    (first,), (second,) = (prepare(wanted_tasks(bench(), DIGITS, "reporting", i), CPU) for i in (0, 1))
    assert first.tasks.train_rows is not None
    assert second.tasks.train_rows is not None
    assert torch.equal(first.tasks.train_rows, second.tasks.train_rows)
    assert not torch.equal(first.params, second.params)
    assert first.indices is not None
    assert second.indices is not None
    assert not torch.equal(first.indices, second.indices)
    (tuning,) = prepare(wanted_tasks(bench(), DIGITS, "tuning"), CPU)
    assert not torch.equal(tuning.tasks.train_rows, first.tasks.train_rows)  # type: ignore[arg-type]


def test_a_genome_that_is_tuned_adam_is_on_a_par_with_it(results: Results) -> None:
    same = figures(results).of("same")
    assert same.final_ratio.value == pytest.approx(1, abs=1e-3)
    assert same.improvement.value == pytest.approx(0.5, abs=0.1)
    assert same.speedup is not None
    overall = same.speedup.overall.found
    assert 0.7 <= overall.low <= overall.value <= overall.high <= 1.3
    adam = figures(results).of("adam")
    assert (adam.final_ratio.low, adam.final_ratio.high) == (1.0, 1.0)
    assert (adam.steps_to_target <= 0.75 * 20 + 1).all()


def test_a_hundredth_of_the_rate_is_slower_and_says_so(results: Results) -> None:
    slow = figures(results).of("slow")
    assert slow.speedup is not None
    assert slow.speedup.overall.found.high < 0.7
    assert slow.final_ratio.low > 1
    assert slow.improvement.value < 0.2
    assert slow.against["adam"] == slow.final_ratio
    assert np.isinf(slow.steps_to_target).all()


def test_a_genome_that_diverges_is_a_value_in_every_figure(results: Results) -> None:
    lost = figures(results).of("lost")
    assert lost.divergence_rate == 1.0
    assert lost.speedup is not None
    assert lost.speedup.overall.found.value == 0.0
    assert (lost.score, lost.improvement.value) == (0.0, 0.0)
    initial = results.yardstick.losses[:, :, 0]
    expected = np.log(initial / results.finals(results.yardstick))
    np.testing.assert_allclose(log_ratios(results, lost.entry), expected)


def test_below_the_noise_floor_all_are_equal(results: Results) -> None:
    floored = replace(results, tasks=tuple(replace(task, noise_floor=1e3) for task in results.tasks))
    found = figures(floored)
    assert found.targets.tolist() == [1e3, 1e3]
    times = {entry.label: StepTime(1e-3, 2e-3) for entry in results.entries}
    page = card(floored, found, (), times, genome("slow"))
    assert page.facts["caution"].startswith("tuned Adam solves 2 of 2 tasks to below their noise floor")
    assert "caution" not in card(results, figures(results), (), times, genome("slow")).facts
    for label in ("same", "slow"):
        one = found.of(label)
        assert (one.improvement.low, one.improvement.high, one.final_ratio.value) == (0.5, 0.5, 1.0)
        assert one.steps_to_target.tolist() == [1.0, 1.0]


def test_a_baseline_that_nothing_here_is_made_for_is_left_out(results: Results) -> None:
    assert [entry.label for entry in results.entries] == ["same", "slow", "lost", "adam", "sgd"]


def test_a_baseline_is_judged_on_the_tasks_that_it_is_made_for() -> None:
    spec = bench(sources=(QUADRATIC, DIGITS), baselines=("muon",), n_trials=2, n_seeds=2, horizon=4)
    found = measure(spec, CPU)
    muon = found.entries[-1]
    assert muon.on.tolist() == [False, False, True, True]
    figure = figures(found).of("muon")
    assert len(figure.final_ratios) == len(figure.steps_to_target) == 2
    assert figure.speedup is not None
    assert len(figure.speedup.by_task) == 2
    assert figure.score <= 0.5  # of the other tasks it gets nothing


def test_a_score_does_not_depend_on_the_other_genomes(results: Results) -> None:
    alone = replace(results, entries=results.entries[1:2] + results.entries[3:])
    for label in ("slow", "adam", "sgd"):
        assert figures(alone).of(label).score == figures(results).of(label).score


def test_the_pool_has_every_baseline_of_its_version_and_a_part_is_called_one() -> None:
    assert len(POOL) == len(set(POOL)) == 21
    assert all(named(name).name == name for name in POOL)
    assert pool_label(list(reversed(POOL))) == "evometa pool 1"
    assert pool_label(["sgd", "adam"]) == "part of evometa pool 1: adam, sgd"


def test_equal_specs_give_equal_results() -> None:
    first, second = (measure(bench(horizon=5, n_seeds=2, n_trials=2), CPU) for _ in range(2))
    for a, b in zip(first.entries, second.entries, strict=True):
        np.testing.assert_array_equal(a.losses, b.losses)
    other = measure(bench(horizon=5, n_seeds=2, n_trials=2, seed=1), CPU)
    assert not np.isclose(first.entries[0].losses, other.entries[0].losses).any()


def test_what_tasks_can_be_changed_into() -> None:
    mine = replace(genome("mine"), provenance={"tasks": ["tabular"]})
    found = {change.name: change for change in changes(bench(mine, sources=(DIGITS,)), mine)}
    assert list(found) == [
        "10× the trained horizon",
        "sigmoid networks",
        "ReLU networks",
        "4× wider",
        "4 hidden layers of ELU",
        "another family: quadratic",
        "another family: rosenbrock",
    ]
    assert found["10× the trained horizon"].horizon == 200
    assert found["4× wider"].sources[0].options["widths"] == [32]
    assert found["sigmoid networks"].sources[0].options == {**DIGITS.options, "activations": ["sigmoid"]}
    (longer, *others) = changes(bench(), replace(mine, horizon=None))
    assert (longer.name, longer.horizon) == ("10× the horizon", 200)
    assert all(change.name.startswith("another family") for change in others)


def test_generalisation_compares_with_adam_tuned_for_the_changed_tasks() -> None:
    spec = bench(genome("mine"), genome("lost", "sgd", 10.0), horizon=4, n_seeds=2, n_trials=2)
    rows = generalise(spec, CPU)
    assert {row.label for row in rows} == {"mine", "lost"}
    assert [row.horizon for row in rows if row.change == "10× the trained horizon"] == [200, 200]
    assert {row.tasks for row in rows if row.change == "another family: digits"} == {"digits"}
    lost = [row.divergence_rate for row in rows if row.label == "lost"]
    assert max(lost) == 1.0


def test_the_card_says_where_a_genome_loses_and_what_its_search_took(results: Results) -> None:
    times = {entry.label: StepTime(1e-3, 2e-3) for entry in results.entries}
    slow = replace(genome("slow"), provenance={"search": {"inner_steps": 1234567, "seconds": 61.0}})
    text = markdown(card(results, figures(results), (), times, slow))
    loses, rest = text.split("## Where it loses")[1].split("## Where it wins")
    assert "all tasks: against adam |" in loses
    assert "quadratic l2l, 3 coordinates #1, against adam |" in loses
    assert "1,234,567 inner steps, 61 s" in rest
    assert "slower than tuned Adam" in text
    assert "0.50 times forward and backward" in text


def test_a_family_with_a_metric_is_told_in_it_on_the_card_in_the_document_and_beside_the_curves(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Quadratic, "metric", PSNR)
    found, times = figures(results), {entry.label: StepTime(1e-3, 2e-3) for entry in results.entries}
    slow, adam = (
        -10 * np.log10(results.finals(entry)).mean() for entry in (results.entries[1], results.yardstick)
    )
    page = card(results, found, (), times, genome("slow"))
    assert page.facts["PSNR [dB] at the end"] == f"{slow:.4g} (tuned Adam {adam:.4g})"
    whole = json.loads(json.dumps(document(results, found, (), times, device=CPU)))
    assert [task["metric"] for task in whole["tasks"]] == ["PSNR [dB]"] * 2
    told = {
        one["label"]: np.mean([task["final_metric"] for task in one["tasks"]]) for one in whole["entrants"]
    }
    assert told["slow"] == pytest.approx(slow)
    initial = -10 * np.log10(results.yardstick.losses[:, :, 0]).mean()
    assert told["lost"] == pytest.approx(initial)  # where it diverged, what it began with
    axes = bench_figures(results, found)["curves"].axes[0]
    (beside,) = axes.child_axes
    assert beside.get_ylabel() == "PSNR [dB]"
    axes.figure.draw_without_rendering()
    assert beside.get_ylim() == axes.get_ylim()
    told = [float(label.get_text()) for label in beside.get_yticklabels()]
    np.testing.assert_allclose(told, -10 * np.log10(beside.get_yticks()))


def test_a_search_that_nobody_recorded_is_said_to_be_unknown() -> None:
    assert search_text({}) == "Not recorded."
    assert search_text({"search": "long", "campaign": "mine", "seed": 3}) == (
        "Not recorded (campaign mine, seed 3)."
    )


def test_what_a_strangers_file_says_is_drawn_as_it_is_and_makes_no_marks(results: Results) -> None:
    times = {entry.label: StepTime(1e-3, 2e-3) for entry in results.entries}
    search = {"inner_steps": 1, "seconds": 1.0}
    theirs = replace(
        genome("slow"), provenance={"search": search, "campaign": r"$\frac{$ | <b>\x1b[2J", "seed": 0}
    )
    page = card(results, figures(results), (), times, theirs)
    figure = plot_card(page)
    figure.draw_without_rendering()
    assert any(r"(campaign $\frac{$ | <b>\x1b[2J, seed 0)" in text.get_text() for text in figure.texts)
    assert r"$\\frac{$ \| &lt;b>\\x1b[2J" in markdown(page)


def test_every_entrant_has_the_time_of_its_own_step() -> None:
    times = time_steps(bench(baselines=("adam", "adam+cosine", "schedule_free_adamw")), CPU)
    assert list(times) == ["mine", "adam", "adam+cosine", "schedule_free_adamw"]
    assert all(one.step > 0 and one.gradient > 0 for one in times.values())


def test_a_missing_package_is_told_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lion_pytorch", None)
    with pytest.raises(BenchError, match="package lion-pytorch, which is not installed: pip install"):
        bench(baselines=("lion",))


def test_what_makes_no_bench_is_refused() -> None:
    with pytest.raises(BenchError, match="n_seeds is 1, expected at least 2"):
        bench(n_seeds=1)
    with pytest.raises(BenchError, match="two genome files are called 'mine'"):
        bench(genome("mine"), genome("mine"))


def test_a_seed_without_weights_is_a_genome_and_one_that_needs_some_is_not() -> None:
    assert read_genome(Path("populations/seeds/lion.json")).label == "lion.json"  # a baseline is called lion
    with pytest.raises(GenomeError, match="has weights, which no JSON holds"):
        read_genome(Path("populations/seeds/l2l_lstm.json"))
