"""Episodes: their lengths, horizons and segments."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from evometa.inner.unroll import UnrollState
from evometa.meta import TaskStream, meta_genes
from evometa.meta.episodes import Episode, draw_episode, segments

STREAM = TaskStream("quadratic", '{"dim": 2}', n_tasks=2, horizon=400, seed=5)


def drawn(number: int, stream: TaskStream = STREAM, **genes: Any) -> Episode:
    complete = meta_genes({f"meta.{name}": value for name, value in genes.items()})
    return draw_episode(stream, number, complete, torch.device("cpu"), torch.float32)


def test_a_fixed_horizon_is_the_streams_and_bounds_the_length() -> None:
    episodes = [drawn(n, unroll_length=length) for n, length in enumerate((20, 2000))]
    assert [(e.length, e.horizon) for e in episodes] == [(20, 400), (400, 400)]


def test_log_uniform_horizons_are_log_uniform_between_their_bounds() -> None:
    """As many in [10, 63] as in [63, 400], to 3 standard errors of the binomial."""
    episodes = [drawn(n, horizon="log_uniform", horizon_low=10, unroll_length=100) for n in range(400)]
    horizons = np.array([episode.horizon for episode in episodes])
    assert horizons.min() >= 10
    assert horizons.max() <= 400
    below = (horizons < np.sqrt(10 * 401)).mean()
    assert abs(below - 0.5) < 3 * 0.5 / np.sqrt(len(horizons))
    assert [episode.length for episode in episodes] == np.minimum(horizons, 100).tolist()


def test_a_low_end_above_the_horizon_leaves_the_horizon() -> None:
    assert drawn(0, horizon="log_uniform", horizon_low=1000).horizon == 400


def test_episodes_are_told_apart_by_number_and_stream_and_drawn_alike_every_time() -> None:
    def params(number: int, seed: int) -> torch.Tensor:
        stream = TaskStream("quadratic", '{"dim": 2}', 2, 400, seed)
        return drawn(number, stream).parts[0].params

    assert torch.equal(params(0, 5), params(0, 5))
    assert not torch.equal(params(0, 5), params(1, 5))
    assert not torch.equal(params(0, 5), params(0, 6))


def test_segments_tile_one_episode_after_the_other(setting: Any) -> None:
    found = list(islice(segments(setting.problem()), 7))
    assert [(s.start, s.n_steps) for s in found] == [(0, 5), (5, 5), (10, 2)] * 2 + [(0, 5)]
    assert found[0].episode is found[2].episode
    assert found[2].episode is not found[3].episode


@pytest.mark.parametrize("horizon", ["fixed", "log_uniform"])
def test_schedules_are_told_the_episodes_horizon(
    setting: Any, horizon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evometa.meta import ESTIMATORS, recorded, training

    told: set[int] = set()
    advance = training.advance

    def noted(*args: Any, **options: Any) -> UnrollState:
        told.add(args[-1])
        return advance(*args, **options)

    for where in (training, recorded):  # step by step, and on a GPU as a graph
        monkeypatch.setattr(where, "advance", noted)
    problem = setting.problem(horizon=horizon, horizon_low=3)
    session = ESTIMATORS["tbptt"].begin(problem)
    for _ in range(8):
        session.estimate(problem.cohort.weights)
    assert told
    assert (told == {12}) == (horizon == "fixed")
    assert all(3 <= number <= 12 for number in told)
