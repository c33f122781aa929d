"""Which estimators the spaces of families offer."""

from __future__ import annotations

from typing import cast

import pytest

from evometa.errors import GenomeError
from evometa.evolution.search_space import SearchSpace
from evometa.genome.genes import Choice
from evometa.genome.space import Space
from evometa.meta import ESTIMATORS
from evometa.rng import numpy_generator
from evometa.rules import RULES

BY_PERTURBATION = ("es", "pes")
BY_BACKPROPAGATION = ("tbptt", *BY_PERTURBATION, "tbptt+es", "tbptt+pes")


def space_of(family: str, **limits: object) -> Space:
    named = {f"meta.{name}": limit for name, limit in limits.items()}
    return SearchSpace.of([family], named, max_meta_steps=5)[family]


def estimators(family: str) -> tuple[object, ...]:
    """Those that a campaign draws which names none."""
    gene = space_of(family)["meta.estimator"]
    assert isinstance(gene, Choice)
    return gene.options


def test_only_controllers_are_offered_what_learns_from_their_actions() -> None:
    assert estimators("controller") == (*BY_BACKPROPAGATION, "reinforce", "ppo")
    assert estimators("discrete_controller") == (*BY_PERTURBATION, "reinforce", "ppo", "dqn")
    for family in ("adam", "mlp", "recurrent", "meta_lstm"):
        assert estimators(family) == BY_BACKPROPAGATION


@pytest.mark.parametrize("family", RULES.names())
def test_the_genes_of_estimators_that_are_not_offered_are_not_drawn(family: str) -> None:
    """Or a new estimator would change what campaigns draw that can never use it."""
    own = {gene.name for name in estimators(family) for gene in ESTIMATORS[str(name)].space}
    others = {gene.name for _, estimator in ESTIMATORS for gene in estimator.space} - own
    assert others.isdisjoint(space_of(family).names())


def test_hypergradient_descent_is_drawn_where_it_is_named() -> None:
    plain, named = space_of("sgd"), SearchSpace.of(["sgd"], {"schedule": "hypergradient"}, max_meta_steps=5)
    assert "hypergradient" not in cast(Choice, plain["schedule"]).options
    assert "schedule.hyper_lr" not in plain
    assert named["sgd"].complete({})["schedule.hyper_lr"] == 0.02


def test_one_that_is_drawn_only_where_it_is_named_comes_with_its_genes() -> None:
    assert "implicit" not in estimators("mlp")
    named = space_of("mlp", estimator={"options": ["es", "implicit"]}, neumann_terms={"high": 20})
    assert named["meta.estimator"].allowed == "one of 'es', 'implicit'"
    drawn = [named.sample(numpy_generator(0, "draw", number)) for number in range(40)]
    assert {own["meta.estimator"] for own in drawn if "meta.estimator" in own} == {"es", "implicit"}
    assert all(("meta.neumann_terms" in own) == (own.get("meta.estimator") == "implicit") for own in drawn)


@pytest.mark.parametrize("families", [["mlp"], ["discrete_controller", "mlp"]], ids=str)
def test_asking_for_an_estimator_that_does_not_serve_a_family_names_both(families: list[str]) -> None:
    with pytest.raises(
        GenomeError, match=r"meta\.estimator.*'dqn'.*allowed is.*'tbptt'.*family 'mlp'"
    ) as error:
        SearchSpace.of(families, {"meta.estimator": "dqn"}, max_meta_steps=5)
    assert "\n" not in str(error.value)


def test_a_campaign_may_hold_an_estimator_that_serves_all_its_families() -> None:
    families = ["controller", "discrete_controller"]
    space = SearchSpace.of(families, {"meta.estimator": "ppo"}, max_meta_steps=5)
    assert all(space[family].complete({})["meta.estimator"] == "ppo" for family in families)
