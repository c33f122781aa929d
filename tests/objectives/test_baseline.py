"""Tuning of hand-designed rules: the grid, its edges and the criterion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evometa.inner.evaluate import evaluate
from evometa.inner.task_set import request
from evometa.objectives.baseline import (
    QUARTER_DECADE,
    baseline_candidate,
    baseline_from_json,
    baseline_to_json,
    relative_scores,
    tune,
)

CPU = torch.device("cpu")
WANTED = request("quadratic", {"dim": 5}, "meta_train", 16, 31, seed=1)


@pytest.mark.parametrize("rule", ["sgd", "adam", "lion"])
def test_the_tuned_rate_beats_its_neighbours_and_lies_inside_the_grid(rule: str) -> None:
    tuned = tune(rule, WANTED, 15, CPU)
    best = tuned.grid.index(tuned.lr)
    assert len(tuned.grid) >= 15
    assert 0 < best < len(tuned.grid) - 1
    steps = np.diff(np.log(tuned.grid))
    np.testing.assert_allclose(steps, np.log(QUARTER_DECADE))
    assert tuned.scores[best] == min(tuned.scores)
    for rate in (tuned.lr * QUARTER_DECADE, tuned.lr / QUARTER_DECADE):
        (score,) = relative_scores(evaluate([baseline_candidate(rule, rate)], WANTED, CPU))
        assert score >= tuned.scores[best]


def test_a_winner_at_the_edge_moves_the_grid() -> None:
    short = tune("adam", WANTED, 2, CPU)
    assert len(short.grid) > 2
    assert short.lr not in (short.grid[0], short.grid[-1])
    assert short.lr == pytest.approx(tune("adam", WANTED, 15, CPU).lr)


def test_json_round_trip_is_exact() -> None:
    tuned = tune("sgd", WANTED, 3, CPU)
    assert baseline_from_json(baseline_to_json(tuned)) == tuned


@pytest.mark.parametrize(
    "change",
    [{"rule": 3}, {"lr": "0.1"}, {"lr": 0.3}, {"grid": 0.1}, {"grid": ["0.1"]}, {"scores": []}, None],
)
def test_a_damaged_document_is_refused(change: dict[str, object] | None) -> None:
    whole = {"rule": "sgd", "lr": 0.1, "grid": [0.1], "scores": [0.5]}
    assert baseline_from_json(whole).lr == 0.1
    with pytest.raises(ValueError, match=r"expected a list|a tuned baseline"):
        baseline_from_json({} if change is None else {**whole, **change})
    with pytest.raises(ValueError, match="not list"):
        baseline_from_json([])
