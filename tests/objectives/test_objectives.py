"""Objectives: what they say of runs whose outcome is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evometa.errors import ObjectiveError, UnknownNameError
from evometa.inner.record import RunSummary, UnrollRecord
from evometa.objectives import OBJECTIVES, Objective, Outcomes, find_objective, ratios
from evometa.objectives.base import WORST_RATIO
from evometa.rules.cost import Cost


def outcomes(final: list[float], lost: int = 0) -> Outcomes:
    n = len(final)
    status = np.array(["diverged"] * lost + ["complete"] * (n - lost))
    ones = np.ones(n)
    return Outcomes(
        status, ones, ones, ones, ones, np.array(final), np.array(final) ** 2, Cost(2.0, 14.0, 0, 9.0)
    )


def runs_with(losses: list[list[float]]) -> RunSummary:
    array = np.array([losses])
    status = np.where(np.isfinite(array).all(-1), "complete", "diverged")
    return UnrollRecord(array, array[..., -1], status, 1, 1e-3, ("task",) * len(losses), "family").summary()


def test_meta_loss_is_a_geometric_mean_in_which_1_is_tuned_adam() -> None:
    assert OBJECTIVES["meta_loss"](outcomes([0.5, 2.0])) == pytest.approx(1.0)
    assert OBJECTIVES["meta_loss"](outcomes([0.1, 0.1, 0.1])) == pytest.approx(0.1)
    assert OBJECTIVES["anytime"](outcomes([0.1, 0.1])) == pytest.approx(0.01)


def test_robustness_is_the_worst_tenth_and_divergence_the_share_of_lost_runs() -> None:
    runs = outcomes([WORST_RATIO, *([1.0] * 19)], lost=1)
    assert OBJECTIVES["robustness"](runs) == pytest.approx(WORST_RATIO**0.5)
    assert OBJECTIVES["divergence"](runs) == pytest.approx(0.05)


def test_mean_losses_count_lost_runs_as_never_trained_or_not_finite() -> None:
    runs = replace(
        outcomes([1.0, 1.0], lost=1),
        initial_loss=np.array([4.0, 4.0]),
        final_loss=np.array([np.nan, 0.5]),
        valid_loss=np.array([0.5, 0.5]),
    )
    assert OBJECTIVES["final_loss"](runs) == pytest.approx(2.25)
    assert OBJECTIVES["valid_loss"](runs) == OBJECTIVES["valid_loss"].worst
    assert OBJECTIVES["valid_loss"](outcomes([1.0])) == 1.0
    without = replace(outcomes([1.0]), valid_loss=np.array([np.nan]))
    assert OBJECTIVES["valid_loss"](without) == OBJECTIVES["valid_loss"].worst


@pytest.mark.parametrize("name", OBJECTIVES.built_in)
def test_what_reads_no_flops_does_without_them(name: str) -> None:
    """Campaigns do not count them for such an objective."""
    runs = outcomes([0.5, 2.0])
    uncounted = replace(runs, cost=Cost(2.0, np.nan, 0, np.nan))
    objective = OBJECTIVES[name]
    assert (objective.strict(runs) == (objective(uncounted))) != objective.reads_flops


def test_a_plain_function_may_read_flops() -> None:
    assert Objective("mine", "", "", lambda outcomes: 1.0, worst=1.0).reads_flops


def test_costs_are_those_of_the_genome() -> None:
    assert OBJECTIVES["state_floats"](outcomes([1.0])) == 2.0
    assert OBJECTIVES["flops"](outcomes([1.0])) == 14.0


def test_ratio_to_the_reference_is_floored_at_the_noise_floor() -> None:
    run = runs_with([[1.0, 1e-9], [1.0, 0.5]])
    adam = runs_with([[1.0, 1e-5], [1.0, 0.25]])
    final, _ = ratios(run, adam)
    np.testing.assert_allclose(final, [[1.0, 2.0]])


def test_anytime_ratio_compares_the_whole_curve() -> None:
    _, anytime = ratios(runs_with([[1.0, 0.25, 0.25]]), runs_with([[1.0, 1.0, 0.25]]))
    np.testing.assert_allclose(anytime, [[0.25 ** (1 / 3)]])


def test_a_diverged_run_has_the_worst_ratio_and_a_diverged_reference_its_initial_loss() -> None:
    final, anytime = ratios(runs_with([[1.0, np.nan]]), runs_with([[1.0, 0.5]]))
    assert final.tolist() == [[pytest.approx(WORST_RATIO)]]
    assert anytime.tolist() == [[pytest.approx(WORST_RATIO)]]
    final, _ = ratios(runs_with([[2.0, 0.5]]), runs_with([[2.0, np.inf]]))
    np.testing.assert_allclose(final, [[0.25]])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_values_that_are_not_finite_or_beyond_the_worst_become_the_worst(bad: float) -> None:
    assert Objective("x", "", "", lambda _: bad, worst=7.0)(outcomes([1.0])) == 7.0


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (None, "gave a NoneType, expected one number"),
        (np.ones(2), "gave a ndarray, expected one number"),
        (float("nan"), r"'x' \(what it measures\) is nan, expected a finite number"),
        (-float("inf"), "is -inf"),
    ],
)
def test_what_is_no_finite_number_is_the_worst_and_named_on_trial(result: object, said: str) -> None:
    objective = Objective("x", "what it measures", "", lambda _: result, worst=7.0)  # type: ignore[arg-type,return-value]
    assert objective(outcomes([1.0])) == 7.0
    with pytest.raises(ObjectiveError, match=said):
        objective.strict(outcomes([1.0]))


def test_user_objectives_are_found_by_path_and_their_errors_are_named(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "objectives_of_a_user.py").write_text(  # type: ignore[operator]
        'def slow(outcomes):\n    """Ten times the state."""\n'
        "    return 10 * outcomes.cost.state_floats_per_param\n"
        "def broken(outcomes):\n    return 1 / 0\nNUMBER = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    slow = find_objective("objectives_of_a_user:slow")
    assert slow(outcomes([1.0])) == 20.0
    assert slow.summary == "Ten times the state."
    broken = find_objective("objectives_of_a_user:broken")
    assert broken(outcomes([1.0])) == broken.worst
    with pytest.raises(
        ObjectiveError, match="'objectives_of_a_user:broken' raised ZeroDivisionError: division by zero"
    ):
        broken.strict(outcomes([1.0]))
    with pytest.raises(ObjectiveError, match="expected a function"):
        find_objective("objectives_of_a_user:NUMBER")
    with pytest.raises(UnknownNameError, match="did you mean 'meta_loss'"):
        find_objective("meta_los")
