"""Labels: kept apart, kept near, kept in order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from evometa.plots.labels import columns, label_points, spread

places = st.lists(st.floats(0, 10), min_size=1, max_size=8).map(np.array)


@given(places, st.floats(0.1, 3))
def test_spread_places_are_ordered_apart_and_inside(wanted: np.ndarray, gap: float) -> None:
    placed = spread(wanted, gap, 0.0, 10.0)
    order = np.argsort(wanted, kind="stable")
    fitting = min(gap, 10.0 / max(1, len(wanted) - 1))
    assert (np.diff(placed[order]) >= fitting - 1e-9).all()
    assert placed.min() >= -1e-9
    assert placed.max() <= 10 + 1e-9


@given(places)
def test_places_that_are_apart_already_stay(wanted: np.ndarray) -> None:
    apart = np.sort(wanted) + 1.5 * np.arange(len(wanted))
    np.testing.assert_allclose(spread(apart, 1.5, -1.0, 100.0), apart, atol=1e-9)


def test_spread_moves_as_little_as_can_be() -> None:
    np.testing.assert_allclose(spread(np.array([5.0, 5.0, 5.0]), 1.0, 0, 10), [4, 5, 6])
    np.testing.assert_allclose(spread(np.array([2.0, 1.6]), 1.0, 0, 10), [2.3, 1.3])
    np.testing.assert_allclose(spread(np.array([0.0, 0.0]), 1.0, 0, 10), [0, 1])


def test_columns_are_cut_at_wide_gaps_only() -> None:
    assert columns(np.array([5.0, 0.0, 0.4, 9.0, 0.8]), 0.5) == [[1, 2, 4], [0], [3]]
    assert columns(np.array([]), 1.0) == []


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_labels_of_coincident_points_do_not_cover_each_other(scale: str) -> None:
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(yscale=scale, xlim=(0, 3), ylim=(0.5, 20))
    points = np.array([[1.0, 1.0], [1.0, 1.01], [1.05, 1.0], [1.0, 15.0]])
    label_points(axes, points, ["one", "two", "three", "far"])
    figure.draw_without_rendering()
    assert sorted(text.get_text() for text in axes.texts) == ["far", "one", "three", "two"]
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the lines to the points
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])
