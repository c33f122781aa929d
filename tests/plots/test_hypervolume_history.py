"""The history is the generations' own records."""

from __future__ import annotations

import numpy as np

from evometa.plots.hypervolume_history import hypervolume_history_data, plot_hypervolume_history
from evometa.store import CampaignStore


def test_the_history_is_that_of_the_records(small: CampaignStore) -> None:
    data = hypervolume_history_data(small)
    records = small.generations()
    assert data.hypervolume.tolist() == [record.hypervolume for record in records]
    assert data.front_sizes.tolist() == [len(small.front(record.index)) for record in records]
    assert data.objectives == ("meta_loss", "state_floats")
    assert data.reference == (10.0, 1000.0)


def test_inner_steps_add_up_to_the_campaigns_own_count(small: CampaignStore) -> None:
    data = hypervolume_history_data(small)
    assert (np.diff(data.inner_steps) > 0).all()
    fitness = sum(evaluation.inner_steps for evaluation in small.evaluations(purpose="fitness"))
    refinement = sum(record.refinement_inner_steps for record in small.generations())
    assert data.inner_steps[-1] == fitness + refinement


def test_the_figure_counts_in_generations_and_in_inner_steps(small: CampaignStore) -> None:
    data = hypervolume_history_data(small)
    figure = plot_hypervolume_history(data)
    figure.draw_without_rendering()
    upper, lower = figure.axes
    assert upper.get_lines()[0].get_xydata()[:, 1].tolist() == data.hypervolume.tolist()
    assert [bar.get_height() for bar in lower.patches] == data.front_sizes.tolist()
    assert lower.get_xlabel() == "generation"
    (steps,) = upper.child_axes
    assert len(steps.get_xticklabels()) == 3
