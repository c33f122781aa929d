"""Mutation, crossover between equal and different families, and the inheritance of weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evometa.genome.genes import Choice, Gene, Integer, LogReal, Real, Subset, Value
from evometa.genome.space import Space
from evometa.genome.variation import crossover, inherit, mutate

SPACES = st.from_type(Space)
SEEDS = st.integers(0, 2**32)
RATES = st.sampled_from([0.0, 0.2, 1.0])

SWITCHED = Space(
    (
        Choice("rule", ("sgd", "adam")),
        LogReal("lr", 1e-4, 1.0, 1e-2),
        Real("beta2", 0.9, 0.999, 0.99, when={"rule": ("adam",)}),
    )
)


def sampled(space: Space, seed: int) -> dict[str, Value]:
    return space.sample(np.random.default_rng(seed))


@settings(max_examples=50)
@given(SPACES, SEEDS, RATES)
def test_a_mutant_is_complete_and_depends_on_the_generator_only(space: Space, seed: int, rate: float) -> None:
    genes = sampled(space, seed)
    before = dict(genes)
    mutant = mutate(genes, space, np.random.default_rng(seed), rate=rate, strength=0.2)
    assert space.complete(mutant) == mutant
    assert mutate(genes, space, np.random.default_rng(seed), rate=rate, strength=0.2) == mutant
    assert genes == before


@settings(max_examples=50)
@given(SPACES, SPACES, SEEDS)
def test_children_are_complete_in_their_own_parents_space(a: Space, b: Space, seed: int) -> None:
    genes_a, genes_b = sampled(a, seed), sampled(b, seed + 1)
    first, second = crossover(genes_a, genes_b, a, b, np.random.default_rng(seed))
    assert a.complete(first) == first
    assert b.complete(second) == second
    assert crossover(genes_a, genes_b, a, b, np.random.default_rng(seed)) == (first, second)


@settings(max_examples=50)
@given(SPACES, SEEDS, SEEDS, st.data())
def test_frozen_genes_never_change(space: Space, seed: int, other: int, data: st.DataObject) -> None:
    start = sampled(space, seed)
    names = data.draw(st.lists(st.sampled_from(list(start)), unique=True)) if start else []
    fixed = {name: start[name] for name in names}
    held = space.restricted(fixed)
    generator = np.random.default_rng(other)
    a, b = held.sample(generator), held.sample(generator)
    children = [mutate(a, held, generator, rate=1.0, strength=0.5), *crossover(a, b, held, held, generator)]
    for child in children:
        assert {name: child[name] for name in names if name in child} == {
            name: fixed[name] for name in names if name in child
        }


@given(SEEDS)
def test_at_least_one_gene_mutates_at_rate_zero(seed: int) -> None:
    genes = sampled(SWITCHED, seed)
    assert mutate(genes, SWITCHED, np.random.default_rng(seed), rate=0.0, strength=0.2) != genes


def test_mutation_switches_conditional_genes_on_and_off() -> None:
    generator = np.random.default_rng(0)
    adam = SWITCHED.complete({"rule": "adam"})
    seen: set[Value] = set()
    for _ in range(200):
        mutant = mutate({"rule": "sgd", "lr": 0.1}, SWITCHED, generator, rate=0.5, strength=0.2)
        assert ("beta2" in mutant) == (mutant["rule"] == "adam")
        seen |= {mutant["beta2"]} if "beta2" in mutant else set()
        back = mutate(adam, SWITCHED, generator, rate=0.5, strength=0.2)
        assert ("beta2" in back) == (back["rule"] == "adam")
    assert len(seen) > 50  # a gene that becomes active is drawn afresh, not set to its default


def test_a_fully_frozen_genome_is_its_own_mutant() -> None:
    genes = SWITCHED.complete({})
    held = SWITCHED.restricted(genes)
    assert mutate(genes, held, np.random.default_rng(0), rate=1.0, strength=1.0) == genes


@settings(max_examples=50)
@given(SEEDS)
def test_between_families_shared_genes_cross_and_the_rest_stays_with_its_own_parent(seed: int) -> None:
    rnn = Space(
        (Choice("cell", ("lstm", "gru")), LogReal("lr", 1e-4, 1.0, 1e-2), Choice("nominal", ("x", "y")))
    )
    mlp = Space((Choice("nominal", ("x", "y")), Integer("width", 4, 32, 8), LogReal("lr", 1e-4, 1.0, 1e-2)))
    a: dict[str, Value] = {"cell": "gru", "lr": 1e-3, "nominal": "x"}
    b: dict[str, Value] = {"nominal": "y", "width": 9, "lr": 1e-1}
    first, second = crossover(a, b, rnn, mlp, np.random.default_rng(seed))
    assert first["cell"] == "gru"
    assert second["width"] == 9
    assert {first["nominal"], second["nominal"]} == {"x", "y"}
    # simulated binary crossover keeps the mean of the parents in unit coordinates: here of log lr
    assert np.log10(float(first["lr"])) + np.log10(float(second["lr"])) == pytest.approx(-4.0, abs=0.2)


@pytest.mark.parametrize(
    ("mine", "theirs", "a", "b"),
    [
        (LogReal("x", 1e-3, 1.0, 0.1), Real("x", -1.0, 0.0, -0.5), 0.1, -0.5),
        (Real("x", 0.0, 1.0, 0.5), Choice("x", ("low", "high")), 0.5, "low"),
        (Integer("x", 1, 4, 1, log=True), Subset("x", ("p", "q"), ("p",)), 2, ("p",)),
        (Integer("x", 1, 4, 1), Integer("x", 8, 9, 8), 2, 8),
    ],
)
def test_genes_of_one_name_that_do_not_fit_each_other_do_not_cross(
    mine: Gene, theirs: Gene, a: Value, b: Value
) -> None:
    for seed in range(20):
        children = crossover(
            {"x": a}, {"x": b}, Space((mine,)), Space((theirs,)), np.random.default_rng(seed)
        )
        assert children == ({"x": a}, {"x": b})


def test_a_gene_that_crossover_activates_takes_the_other_parents_value() -> None:
    sgd: dict[str, Value] = {"rule": "sgd", "lr": 0.1}
    adam: dict[str, Value] = {"rule": "adam", "lr": 0.1, "beta2": 0.95}
    outcomes = [
        crossover(sgd, adam, SWITCHED, SWITCHED, np.random.default_rng(seed))[0] for seed in range(50)
    ]
    switched = [child for child in outcomes if child["rule"] == "adam"]
    assert 0 < len(switched) < len(outcomes)
    assert all(child["beta2"] == 0.95 for child in switched)


def test_weights_are_inherited_where_name_and_shape_agree() -> None:
    parent = {"w": torch.ones(2, 3), "b": torch.ones(3), "gone": torch.ones(1)}
    fresh = {"w": torch.zeros(2, 3), "b": torch.zeros(4), "new": torch.zeros(1)}
    weights, how = inherit(parent, fresh)
    assert weights.keys() == fresh.keys()
    assert torch.equal(weights["w"], torch.ones(2, 3))
    assert torch.equal(weights["b"], torch.zeros(4))
    assert torch.equal(weights["new"], torch.zeros(1))
    assert how == "inherited w; initialised b, new"
    weights["w"].fill_(7.0)
    assert torch.equal(parent["w"], torch.ones(2, 3))


@pytest.mark.parametrize(
    ("parent", "fresh", "how"),
    [
        ({"w": torch.ones(2)}, {"w": torch.zeros(2)}, "inherited"),
        ({"w": torch.ones(3)}, {"w": torch.zeros(2)}, "initialised"),
        ({}, {"w": torch.zeros(2)}, "initialised"),
        ({"w": torch.ones(2)}, {}, "none"),
    ],
)
def test_the_record_says_how_weights_came_about(
    parent: dict[str, torch.Tensor], fresh: dict[str, torch.Tensor], how: str
) -> None:
    weights, said = inherit(parent, fresh)
    assert said == how
    assert weights.keys() == fresh.keys()
