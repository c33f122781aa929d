"""Front, hypervolume and knee on cases small enough to work out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evometa.evolution.front import bounds, hypervolume, knee, non_dominated
from evometa.objectives import OBJECTIVES, Objective

LINEAR = Objective("a", "", "", lambda outcomes: 0.0, worst=10.0, ideal=0.0, reference=4.0)
LOG = replace(LINEAR, name="b", scale="log", ideal=0.01, reference=100.0)


def test_dominated_and_repeated_rows_are_left_out() -> None:
    values = np.array([[1.0, 4.0], [2.0, 2.0], [2.0, 2.0], [3.0, 3.0], [4.0, 1.0]])
    assert non_dominated(values) == [0, 1, 4]
    assert non_dominated(np.empty((0, 2))) == []


def test_hypervolume_of_two_boxes() -> None:
    values = np.array([[1.0, 3.0], [3.0, 1.0]])
    objectives = [LINEAR, LINEAR]
    ideal, reference = bounds(objectives, values)
    # Boxes 3×1 and 1×3 overlap in 1×1: 5 of 16.
    assert hypervolume(values, objectives, ideal, reference) == pytest.approx(5 / 16)
    beyond = np.array([[9.0, 9.0]])
    assert hypervolume(beyond, objectives, ideal, reference) == 0.0
    assert hypervolume(np.empty((0, 2)), objectives, ideal, reference) == 0.0


def test_hypervolume_measures_logarithms_where_the_objective_does() -> None:
    values = np.array([[1.0, 1.0]])
    ideal, reference = bounds([LOG, LOG], values)
    assert hypervolume(values, [LOG, LOG], ideal, reference) == pytest.approx(0.25)


def test_bounds_of_an_objective_without_reference_come_from_the_values() -> None:
    free = replace(LINEAR, reference=None)
    _, reference = bounds([free, LINEAR], np.array([[7.0, 1.0], [5.0, 2.0]]))
    assert reference.tolist() == [7.0, 4.0]


def test_knee_is_the_bulge_of_the_front() -> None:
    values = np.array([[0.0, 10.0], [1.0, 2.0], [5.0, 1.5], [10.0, 0.0]])
    assert knee(values, [LINEAR, LINEAR]) == 1
    assert knee(values[:1], [LINEAR, LINEAR]) == 0
    with pytest.raises(ValueError, match="knee"):
        knee(np.empty((0, 2)), [LINEAR, LINEAR])


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_registered_objectives_have_an_interval_for_the_hypervolume(name: str) -> None:
    objective = OBJECTIVES[name]
    reference = objective.worst if objective.reference is None else objective.reference
    assert objective.ideal < reference <= objective.worst
