"""Axes of objectives: limits, ticks and words."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from evometa.objectives import OBJECTIVES, Objective
from evometa.plots.scales import in_words, is_ratio, label, scale_axis


def objective(scale: Literal["linear", "log", "log1p"]) -> Objective:
    return Objective("cost", "what it costs", "coins", lambda _: 0.0, worst=1e9, scale=scale)


@settings(max_examples=40)
@given(
    st.sampled_from(["linear", "log", "log1p"]),
    st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=5).map(np.array),
)
def test_every_value_lies_inside_and_there_are_some_ticks_but_not_many(
    scale: Literal["linear", "log", "log1p"], values: np.ndarray
) -> None:
    axes = Figure().subplots()
    scale_axis(axes, "y", objective(scale), values)
    low, high = axes.get_ylim()
    assert low < values.min()
    assert values.max() < high
    assert axes.get_ylabel() == "cost (coins)"
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    assert 1 <= len(ticks) <= 12


def test_a_count_that_may_be_zero_has_a_tick_at_zero() -> None:
    axes = Figure().subplots()
    scale_axis(axes, "x", objective("log1p"), np.array([0.0, 100.0]))
    low, high = axes.get_xlim()
    assert low < 0 < 100 < high
    np.testing.assert_allclose(axes.get_xticks(), [0, 1, 2, 5, 10, 20, 50, 100])


def test_margins_of_a_log_axis_are_ratios() -> None:
    axes = Figure().subplots()
    scale_axis(axes, "x", objective("log"), np.array([0.01, 100.0]))
    low, high = axes.get_xlim()
    assert low == pytest.approx(0.01 / 10**0.6)
    assert high == pytest.approx(100 * 10**0.4)


def test_a_log_axis_without_positive_values_is_drawn_all_the_same() -> None:
    axes = Figure().subplots()
    scale_axis(axes, "x", objective("log"), np.array([0.0, -1.0]))
    assert 0 < axes.get_xlim()[0] < axes.get_xlim()[1]


def test_words_of_objectives() -> None:
    assert label(OBJECTIVES["flops"]) == "flops (FLOPs/param/step)"
    assert in_words(OBJECTIVES["meta_loss"], 0.61234) == "meta_loss 0.612 × tuned Adam"
    assert in_words(Objective("mine", "", "", lambda _: 0.0, worst=1.0), 2.0) == "mine 2"
    assert is_ratio(OBJECTIVES["meta_loss"])
    assert not is_ratio(OBJECTIVES["state_floats"])
