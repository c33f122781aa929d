"""Training curves against a plain loop, and against the record they come from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evometa.inner.record import Status, UnrollRecord
from evometa.plots.contestants import best_rival, fresh_tasks
from evometa.plots.training_curves import (
    TrainingPanel,
    plot_training_curves,
    relative_losses,
    training_curves_data,
)
from evometa.store import CampaignStore

losses = st.floats(1e-9, 1e9) | st.just(math.nan) | st.just(math.inf)
records = st.builds(
    lambda rows, window: UnrollRecord(
        losses=np.array([rows]),
        valid_losses=np.full((1, len(rows)), np.nan),
        status=np.array([[Status.COMPLETE.value] * len(rows)]),
        final_window=window,
        noise_floor=1e-3,
        descriptions=("",) * len(rows),
        family="quadratic",
    ),
    st.integers(1, 6).flatmap(
        lambda n: st.lists(st.lists(losses, min_size=n, max_size=n), min_size=1, max_size=3)
    ),
    st.integers(1, 8),
)


@given(records)
def test_relative_losses_are_trailing_means_over_the_initial_loss(record: UnrollRecord) -> None:
    found = relative_losses(record)
    for task, row in enumerate(record.losses[0]):
        for k in range(len(row)):
            seen = row[: k + 1]
            if not np.isfinite(seen).all():
                assert found[task, k] == math.inf
                continue
            recent = seen[-record.final_window :]
            expected = max(recent.mean(), 1e-3) / max(row[0], 1e-3)
            assert found[task, k] == pytest.approx(expected, rel=1e-9)


@given(records)
def test_the_last_point_is_the_final_loss(record: UnrollRecord) -> None:
    complete = np.isfinite(record.losses[0]).all(axis=1)
    initial = np.maximum(record.losses[0, complete, 0], record.noise_floor)
    expected = np.maximum(record.final_losses[0, complete], record.noise_floor) / initial
    np.testing.assert_allclose(relative_losses(record)[complete, -1], expected, rtol=1e-9)


@pytest.fixture(scope="session")
def panels(unfinished: CampaignStore) -> list[TrainingPanel]:
    """Of the campaign on two task sources."""
    return training_curves_data(unfinished, n_tasks=5)


def test_there_is_a_panel_a_task_source(panels: list[TrainingPanel]) -> None:
    assert [(panel.source, panel.horizon, panel.window) for panel in panels] == [
        ("quadratic", 10, 1),
        ("rosenbrock", 4, 1),
    ]


def test_bands_hold_their_median_and_start_at_one(panels: list[TrainingPanel]) -> None:
    for panel in panels:
        for curve in panel.curves:
            assert curve.median.shape == (panel.horizon + 1,)
            assert (curve.low <= curve.median).all()
            assert (curve.median <= curve.high).all()
            assert curve.low[0] == curve.median[0] == curve.high[0] == 1.0


def test_the_curves_are_those_of_best_knee_and_tuned_rules(
    panels: list[TrainingPanel], unfinished: CampaignStore
) -> None:
    roles = [curve.role for curve in panels[0].curves]
    assert roles in (["best", "knee", "adam", "other"], ["best", "adam", "other"])
    rival = best_rival(unfinished)
    scores = dict.fromkeys((row.rule for row in unfinished.baselines()), 1.0)
    for row in unfinished.baselines():
        scores[row.rule] *= min(score for _, score in row.grid if math.isfinite(score))
    assert rival == min(scores.keys() - {"adam"}, key=scores.__getitem__)
    assert panels[0].curves[-1].label == f"tuned {rival}"


def test_tasks_are_fresh_and_the_same_at_every_call(unfinished: CampaignStore) -> None:
    first = fresh_tasks(unfinished, "training_curves", 0, 5)
    assert first == fresh_tasks(unfinished, "training_curves", 0, 5)
    assert first.split == "meta_valid"
    used = {seed for record in unfinished.generations() for seed in unfinished.streams(record.index).values()}
    others = [fresh_tasks(unfinished, "lr_schedule", 0, 5), fresh_tasks(unfinished, "training_curves", 1, 5)]
    assert first.seed not in {*used, *(other.seed for other in others)}


def test_what_diverges_is_said_and_cut_off(panels: list[TrainingPanel]) -> None:
    panel = panels[0]
    lost = panel.curves[0].median.copy()
    lost[3:] = np.inf
    exploding = np.full_like(lost, 1e30)
    curve = type(panel.curves[0])("lost", "best", lost * 0.5, lost, exploding, n_diverged=4)
    changed = type(panel)(
        panel.source, panel.n_tasks, panel.horizon, panel.window, [curve, *panel.curves[1:]]
    )
    (axes,) = plot_training_curves([changed]).axes
    assert axes.get_ylim()[1] < 1e6
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_texts()[0].get_text() == "lost (4 of 5 diverged)"
