"""What the Pareto figure shows is what the store holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes

from evometa.campaign import read_baselines, read_front
from evometa.config import CampaignConfig, ObjectivesConfig, TaskSource, config_to_json
from evometa.genome.genome import Genome, Lineage
from evometa.plots.pareto_front import plot_pareto_front, shown_values, staircase
from evometa.plots.pareto_points import ParetoFrontData, pareto_front_data
from evometa.plots.style import family_mark
from evometa.rules.registry import RULES
from evometa.store import CampaignStore, Candidate, GenerationRecord

points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12).map(
    lambda rows: np.array(rows, dtype=float)
)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


@given(points)
def test_the_staircase_goes_down_to_the_right_through_the_non_dominated_points(values: np.ndarray) -> None:
    corners = staircase(values)
    members = {tuple(p) for p in values if not any(dominates(q, p) for q in values)}
    assert members <= {tuple(corner) for corner in corners}
    steps = np.diff(corners, axis=0)
    assert (steps[:, 0] >= 0).all()
    assert (steps[:, 1] <= 0).all()
    assert ((steps == 0).sum(axis=1) == 1).all()  # every stretch is level or upright
    assert len(corners) == 2 * len(members) - 1
    for point in values:  # nothing lies below the stairs
        assert any((np.array(member) <= point).all() for member in members)


@pytest.fixture(scope="session")
def data(small: CampaignStore) -> ParetoFrontData:
    """Of the finished campaign."""
    return pareto_front_data(small)


def test_the_front_is_the_finally_evaluated_one(data: ParetoFrontData, small: CampaignStore) -> None:
    front = read_front(small)
    assert data.final
    assert data.ids == [genome.id for genome in front.genomes]
    np.testing.assert_array_equal(data.values, front.values)
    assert data.values[data.best, 0] == front.values[:, 0].min()
    assert data.knee == front.knee


def test_every_evaluated_genome_is_there_once(data: ParetoFrontData, small: CampaignStore) -> None:
    evaluated = {c.genome_id for record in small.generations() for c in record.candidates}
    assert len(data.others) == len(evaluated - set(data.ids))
    last = small.objective_values(2)
    some = next(values for identity, values in last.items() if identity not in data.ids)
    assert [some["meta_loss"], some["state_floats"]] in data.others.tolist()
    families = {genome.id: genome.family for genome in small.genomes(evaluated - set(data.ids))}
    assert sorted(data.other_families) == sorted(families.values())
    found = {family: len(places) for family, places in data.places_of_others.items()}
    assert found == Counter(families.values())


def test_families_are_told_apart_among_all_genomes(data: ParetoFrontData) -> None:
    legend = [text.get_text().strip() for text in plot_pareto_front(data).axes[0].get_legend().get_texts()]
    assert set(data.families) | set(data.other_families) <= set(legend)
    marks = [(mark.colour, mark.marker) for mark in map(family_mark, RULES.names())]
    assert len(set(marks)) == len(marks)


def test_earlier_fronts_are_those_of_their_generations(data: ParetoFrontData, small: CampaignStore) -> None:
    assert list(data.earlier) == [0, 1]
    for generation, values in data.earlier.items():
        stored = small.objective_values(generation)
        members = [stored[genome.id] for genome in small.front(generation)]
        assert values.tolist() == [[one["meta_loss"], one["state_floats"]] for one in members]
        assert not any(dominates(a, b) for a in values for b in values)


def test_tuned_rules_are_landmarks_and_adam_is_as_good_as_itself(
    data: ParetoFrontData, small: CampaignStore
) -> None:
    assert [mark.label for mark in data.landmarks] == [found.rule for found in read_baselines(small)]
    (adam,) = [mark for mark in data.landmarks if mark.label == "adam"]
    np.testing.assert_allclose(adam.values, [1.0, 2.0])


def test_before_the_end_named_seeds_are_landmarks(unfinished: CampaignStore) -> None:
    data = pareto_front_data(unfinished)
    assert not data.final
    assert [(mark.label, mark.family) for mark in data.landmarks] == [
        ("plain adam", "adam"),
        ("plain sgd", "sgd"),
    ]
    (sgd,) = [
        genome for genome in unfinished.genomes() if genome.name == "plain sgd" and not genome.lineage.parents
    ]
    last = max(
        record.index
        for record in unfinished.generations()
        if sgd.id in {c.genome_id for c in record.candidates}
    )
    stored = unfinished.objective_values(last)[sgd.id]
    assert data.landmarks[1].values.tolist() == list(stored.values())


def test_failed_genomes_do_not_stretch_the_axes_but_competitive_ones_do(data: ParetoFrontData) -> None:
    worst = max(data.values[:, 0].max(), *(mark.values[0] for mark in data.landmarks))
    worst = max(worst, *(values[:, 0].max() for values in data.earlier.values()))
    others = np.array([[worst * 0.9, 500.0], [worst * 1.1, 900.0]])
    shown = shown_values(replace(data, others=others))
    assert [worst * 0.9, 500.0] in shown.tolist()
    assert [worst * 1.1, 900.0] not in shown.tolist()


def panels(data: ParetoFrontData) -> list[Axes]:
    return [axes for axes in plot_pareto_front(data).axes if axes.axison]


def test_two_objectives_are_one_panel_on_their_own_scales(data: ParetoFrontData) -> None:
    (axes,) = panels(data)
    assert axes.get_xlabel() == "state_floats (floats/param)"
    assert axes.get_ylabel() == "meta_loss (× tuned Adam)"
    assert (axes.get_xscale(), axes.get_yscale()) == ("function", "log")
    texts = {text.get_text() for text in axes.texts}
    assert {"adam", "lion", "nadam"} <= texts
    assert {"best, knee"} <= texts or {"best", "knee"} <= texts


def test_three_objectives_are_a_panel_a_pair(unfinished: CampaignStore) -> None:
    found = panels(pareto_front_data(unfinished))
    assert len(found) == 3
    assert {axes.get_xlabel() for axes in found if axes.get_xlabel()} == {
        "state_floats (floats/param)",
        "flops (FLOPs/param/step)",
    }


def test_a_single_objective_is_shown_over_the_generation_of_birth(tmp_path: Path) -> None:
    config = CampaignConfig(
        name="one", tasks=(TaskSource("quadratic"),), objectives=ObjectivesConfig(("meta_loss",))
    )
    genes = {"lr": 0.01, "schedule": "constant"}
    with CampaignStore.create(tmp_path / "one" / "campaign.db", config_json=config_to_json(config)) as store:
        for generation, values in enumerate([(0.9, 1.4), (0.9, 0.7)]):
            born = Genome(f"{generation:03d}-001", "sgd", genes, lineage=Lineage(generation=generation))
            ids = ["000-000", born.id]
            first = Genome("000-000", "sgd", genes)
            record = GenerationRecord(
                index=generation,
                objectives=("meta_loss",),
                reference_point=(10.0,),
                candidates=tuple(
                    Candidate(identity, (value,), value == min(values))
                    for identity, value in zip(ids, values, strict=True)
                ),
                population=tuple(ids),
                hypervolume=0.5,
            )
            store.commit_generation(record, genomes=[born] if generation else [first, born])
        data = pareto_front_data(store)
    assert data.ids == ["001-001"]
    assert data.values.tolist() == [[0.7, 1.0]]
    assert sorted(data.others.tolist()) == [[0.9, 0.0], [1.4, 0.0]]
    assert data.earlier[0].tolist() == [[0.9, 0.0]]
    (axes,) = panels(data)
    assert axes.get_xlabel() == "birth (generation)"
