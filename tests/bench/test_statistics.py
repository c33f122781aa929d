"""Statistics over tasks × seeds against hand-computed cases, scipy, brute force and simulated data."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import stats

from evometa.bench.statistics import (
    Statistic,
    estimate,
    interquartile_mean,
    mean,
    probability_of_improvement,
)
from evometa.rng import numpy_generator

FloatArray = npt.NDArray[np.float64]

matrices = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-1e6, 1e6))
#: Few values, so that many are equal; misses are infinite.
ordered = st.sampled_from([-1.0, 0.0, 1.0, 2.0, math.inf])
pairs = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda sizes: st.tuples(
        arrays(np.float64, (sizes[0], sizes[1]), elements=ordered),
        arrays(np.float64, (sizes[0], sizes[2]), elements=ordered),
    )
)


def rng(*name: str | int) -> np.random.Generator:
    return numpy_generator(0, "test_statistics", *name)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([[7.0]], 7.0),
        ([[1.0], [4.0]], 2.5),
        ([[0.0, 1.0, 9.0]], (0.25 * 0 + 1 + 0.25 * 9) / 1.5),
        ([[5.0, -50.0], [900.0, 1.0]], 3.0),
        ([[100.0, 1.0, 4.0, 2.0, 0.0]], (0.75 * 1 + 2 + 0.75 * 4) / 2.5),
        ([[0.0, 1.0, 2.0], [4.0, 8.0, 99.0]], (0.5 * 1 + 2 + 4 + 0.5 * 8) / 3),
    ],
)
def test_the_interquartile_mean_is_that_of_the_middle_half(
    scores: list[list[float]], expected: float
) -> None:
    assert float(interquartile_mean(np.array(scores))) == pytest.approx(expected, rel=1e-15)


@given(matrices)
def test_the_interquartile_mean_cuts_a_quarter_exactly(scores: FloatArray) -> None:
    """Four copies of every score can be cut whole."""
    expected = stats.trim_mean(np.repeat(scores, 4), 0.25)
    assert float(interquartile_mean(scores)) == pytest.approx(expected, rel=1e-12, abs=1e-7)


@given(st.integers(1, 5), st.integers(1, 4))
def test_it_is_rliables_where_the_scores_are_a_multiple_of_four(n_tasks: int, quarter: int) -> None:
    scores = rng("rliable", n_tasks, quarter).lognormal(size=(n_tasks, 4 * quarter))
    expected = stats.trim_mean(scores, proportiontocut=0.25, axis=None)
    assert float(interquartile_mean(scores)) == pytest.approx(expected, rel=1e-12)


@given(matrices)
def test_it_matters_neither_whose_score_it_is_nor_of_which_seed(scores: FloatArray) -> None:
    shuffled = rng("shuffle", scores.size).permutation(scores.ravel())
    assert interquartile_mean(shuffled.reshape(scores.shape[::-1])) == interquartile_mean(scores)


@given(matrices, st.floats(-8.0, 8.0), st.floats(-1e3, 1e3))
def test_it_moves_and_stretches_with_the_scores(scores: FloatArray, factor: float, offset: float) -> None:
    found = interquartile_mean(factor * scores + offset)
    assert float(found) == pytest.approx(
        float(factor * interquartile_mean(scores) + offset), rel=1e-9, abs=1e-6
    )


@given(matrices, st.integers(0, 35), st.floats(0.0, 1e6))
def test_it_never_falls_when_a_score_rises(scores: FloatArray, index: int, rise: float) -> None:
    raised = scores.copy()
    raised.flat[index % scores.size] += rise
    assert interquartile_mean(raised) >= interquartile_mean(scores) - 1e-9


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("statistic", [mean, interquartile_mean])
def test_what_is_no_number_is_refused_rather_than_cut_off(statistic: Statistic, value: float) -> None:
    with pytest.raises(
        ValueError, match="scores hold NaN or infinity; give runs that diverged a finite value"
    ):
        statistic(np.array([[1.0, 2.0, 3.0, value]]))


@given(pairs)
def test_the_probability_of_improvement_counts_pairs(scores: tuple[FloatArray, FloatArray]) -> None:
    ours, theirs = scores
    of_tasks = [
        sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in product(x, y)) / (len(x) * len(y))
        for x, y in zip(ours.tolist(), theirs.tolist(), strict=True)
    ]
    assert float(probability_of_improvement(ours, theirs)) == pytest.approx(sum(of_tasks) / len(of_tasks))


@given(pairs)
def test_the_probability_of_improvement_is_one_less_than_the_rivals(
    scores: tuple[FloatArray, FloatArray],
) -> None:
    ours, theirs = scores
    both = probability_of_improvement(ours, theirs) + probability_of_improvement(theirs, ours)
    assert float(both) == pytest.approx(1.0)
    assert float(probability_of_improvement(ours, ours)) == pytest.approx(0.5)


def test_the_probability_of_improvement_refuses_nan_and_other_tasks() -> None:
    with pytest.raises(ValueError, match="scores hold NaN"):
        probability_of_improvement(np.array([[1.0, math.nan]]), np.array([[1.0, 2.0]]))
    with pytest.raises(ValueError, match=r"shapes \(1, 2\) and \(2, 2\), expected the same tasks"):
        probability_of_improvement(np.ones((1, 2)), np.ones((2, 2)))


def test_every_task_is_resampled_by_itself() -> None:
    """Of two values a resample has the mean of the lower one, of both, or of the upper: 1/4, 1/2, 1/4."""
    scores = np.array([[0.0, 1.0], [0.0, 10.0]])
    wide = estimate(mean, scores, rng=rng("wide"))
    assert (wide.value, wide.low, wide.high) == (2.75, 0.0, 5.5)  # each end has 1/16
    narrow = estimate(mean, scores, rng=rng("narrow"), level=0.8)
    assert (narrow.low, narrow.high) == (0.25, 5.25)  # up to and with the next: 3/16


def test_of_two_rivals_each_is_resampled_by_itself() -> None:
    ours, theirs = np.array([[1.0, 3.0]]), np.array([[2.0, 2.0, 2.0]])
    found = estimate(probability_of_improvement, ours, theirs, rng=rng("rivals"))
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    certain = estimate(probability_of_improvement, ours + 2.0, theirs, rng=rng("certain"))
    assert (certain.value, certain.low, certain.high) == (1.0, 1.0, 1.0)


@given(arrays(np.float64, st.integers(1, 5), elements=st.floats(1e-3, 1e3)), st.integers(2, 5))
@pytest.mark.parametrize("statistic", [mean, interquartile_mean])
def test_seeds_that_agree_leave_no_doubt(statistic: Statistic, tasks: FloatArray, n_seeds: int) -> None:
    found = estimate(statistic, np.repeat(tasks[:, None], n_seeds, axis=1), rng=rng("agree"), n_resamples=20)
    assert found.low == found.value == found.high


def test_on_one_task_it_is_scipys_bootstrap() -> None:
    scores = rng("scipy").normal(size=50)
    expected = stats.bootstrap(
        (scores,), np.mean, n_resamples=2_000, method="percentile", rng=rng("same")
    ).confidence_interval
    found = estimate(mean, scores[None], rng=rng("same"), n_resamples=2_000)
    assert (found.low, found.high) == (expected.low, expected.high)


def test_equal_generators_give_equal_intervals() -> None:
    scores = rng("equal").normal(size=(4, 3))
    first, second = (estimate(interquartile_mean, scores, rng=rng("again")) for _ in range(2))
    assert first == second
    assert first.low < first.value < first.high
    assert estimate(interquartile_mean, scores, rng=rng("other")).low != first.low


@pytest.mark.parametrize("shape", [(3,), (3, 1), (0, 5), (2, 3, 4)])
def test_an_interval_needs_repetitions(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(tasks, seeds\) with at least two seeds"):
        estimate(mean, np.zeros(shape), rng=rng("shape"))


def test_rivals_need_the_same_tasks() -> None:
    with pytest.raises(ValueError, match=r"matrices have \[2, 3\] tasks, expected equally many in each"):
        estimate(probability_of_improvement, np.zeros((2, 2)), np.zeros((3, 2)), rng=rng("tasks"))


def coverage(statistic: Statistic, n_seeds: int, n_trials: int = 300) -> float:
    """How often the interval holds the truth: 12 tasks of unlike skewed scores, ``n_trials`` experiments."""
    generator = rng("coverage", n_seeds)
    levels, spreads = np.linspace(-0.5, 1.0, 12)[:, None], np.linspace(0.1, 0.5, 12)[:, None]
    # Scores at so many levels of probability stand for all of them.
    everyone = np.exp(levels + spreads * stats.norm.ppf((np.arange(4_000) + 0.5) / 4_000))
    truth = float(statistic(everyone))
    held = 0
    for _ in range(n_trials):
        scores = np.exp(levels + spreads * generator.normal(size=(12, n_seeds)))
        found = estimate(statistic, scores, rng=generator, n_resamples=400)
        held += found.low <= truth <= found.high
    return held / n_trials


@pytest.mark.parametrize("statistic", [mean, interquartile_mean])
def test_intervals_of_many_seeds_hold_the_truth_as_often_as_they_say(statistic: Statistic) -> None:
    assert coverage(statistic, n_seeds=25) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("statistic", [mean, interquartile_mean])
def test_intervals_of_five_seeds_hold_it_about_nine_times_in_ten(statistic: Statistic) -> None:
    """√(4/5) of the seeds' own spread makes 92 % of 95 %; skewed scores do the rest."""
    assert coverage(statistic, n_seeds=5) == pytest.approx(0.9, abs=0.05)
