"""Which estimators the spaces of families offer."""

from __future__ import annotations

import pytest

from evometa.errors import GenomeError
from evometa.evolution.search_space import SearchSpace, full_space
from evometa.genome.genes import Choice
from evometa.meta import ESTIMATORS
from evometa.rules import RULES

BY_PERTURBATION = ("es", "pes")
BY_BACKPROPAGATION = ("tbptt", *BY_PERTURBATION, "tbptt+es", "tbptt+pes")


def estimators(family: str) -> tuple[object, ...]:
    gene = full_space(family)["meta.estimator"]
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
    assert others.isdisjoint(full_space(family).names())


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
