"""Spaces: conditions, completion, freezing, and the split into what a cohort shares and what may differ."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evometa.errors import GenomeError
from evometa.genome.genes import Choice, Integer, LogReal, Real, Subset, Value
from evometa.genome.space import Space, switched

SPACES = st.from_type(Space)
SEEDS = st.integers(0, 2**32)

CELLS = Space(
    (
        Choice("cell", ("lstm", "mlp")),
        Integer("layers", 1, 2, 1, when={"cell": ("lstm",)}),
        Integer("width", 4, 32, 16),
        Real("dropout", 0.0, 0.5, 0.0, when={"cell": ("lstm",), "layers": (2,)}),
        LogReal("lr", 1e-4, 1.0, 1e-2),
        Subset("features", ("grad", "sign", "log"), ("grad",)),
    )
)


def sampled(space: Space, seed: int) -> dict[str, Value]:
    return space.sample(np.random.default_rng(seed))


@settings(max_examples=50)
@given(SPACES, SEEDS)
def test_a_sample_is_complete_canonical_and_in_order(space: Space, seed: int) -> None:
    genes = sampled(space, seed)
    assert list(space.complete(genes).items()) == list(genes.items())
    assert list(genes) == [gene.name for gene in space if space.is_active(gene, genes)]
    assert sampled(space, seed) == genes


@settings(max_examples=50)
@given(SPACES)
def test_completing_nothing_gives_the_defaults(space: Space) -> None:
    genes = space.complete({})
    assert genes == {gene.name: gene.default for gene in space if space.is_active(gene, genes)}


@settings(max_examples=50)
@given(SPACES, SEEDS)
def test_structural_and_continuous_genes_share_out_the_active_ones(space: Space, seed: int) -> None:
    genes = sampled(space, seed)
    structural, continuous = dict(space.structural(genes)), space.continuous(genes)
    assert structural.keys() | continuous.keys() == genes.keys()
    assert not structural.keys() & continuous.keys()
    assert {**structural, **continuous} == genes
    hash(space.structural(genes))


def test_inactive_genes_are_dropped_and_activated_ones_get_their_default() -> None:
    assert list(CELLS.complete({"cell": "mlp"})) == ["cell", "width", "lr", "features"]
    assert "dropout" not in CELLS.complete({"layers": 1})
    deep = CELLS.complete({"cell": "lstm", "layers": 2})
    assert deep["dropout"] == 0.0
    assert CELLS.complete({**deep, "cell": "mlp"}).keys() == {"cell", "width", "lr", "features"}


def test_a_gene_that_is_inactive_does_not_shift_the_draws_of_the_others() -> None:
    always_on = Space(tuple(replace(gene, when={}) for gene in CELLS))
    conditional = [sampled(CELLS, seed) for seed in range(20)]
    unconditional = [sampled(always_on, seed) for seed in range(20)]
    assert {genes["cell"] for genes in conditional} == {"lstm", "mlp"}
    for some, every in zip(conditional, unconditional, strict=True):
        assert some == {name: every[name] for name in some}


def test_unknown_names_and_values_are_refused_by_name() -> None:
    with pytest.raises(GenomeError, match=r"unknown gene 'widht'; did you mean 'width'\?"):
        CELLS.complete({"widht": 8})
    with pytest.raises(GenomeError, match=r"'width'.*got 64.*from 4 to 32"):
        CELLS.complete({"width": 64})
    with pytest.raises(GenomeError, match="unknown gene 'depth'"):
        CELLS["depth"]


def test_shared_keeps_only_what_exists_here_and_is_permitted() -> None:
    values: dict[str, Value] = {"width": 8, "lr": 5.0, "features": ("sign",), "foreign": 1}
    assert CELLS.shared(values) == {"width": 8, "features": ("sign",)}


@settings(max_examples=50)
@given(SPACES, SEEDS, SEEDS)
def test_frozen_genes_have_one_value_and_keep_their_kind(space: Space, seed: int, other: int) -> None:
    fixed = sampled(space, seed)
    held = space.restricted({**fixed, "of another family": 3})
    assert held.names() == space.names()
    assert held.complete({}) == fixed
    assert sampled(held, other) == fixed
    assert held.continuous(fixed) == space.continuous(fixed)
    assert held.structural(fixed) == space.structural(fixed)


@settings(max_examples=50)
@given(SEEDS)
def test_narrowed_genes_stay_inside_their_limits(seed: int) -> None:
    limits = {
        "lr": {"low": 1e-3, "high": 1e-2},
        "width": {"high": 8},
        "cell": {"options": ["mlp"]},
        "features": {"options": ["log", "sign"]},
        "of another family": {"options": [1]},
    }
    narrow = CELLS.restricted(limits)
    for genes in (sampled(narrow, seed), narrow.complete({})):
        assert CELLS.complete(genes) == genes
        assert 1e-3 <= float(genes["lr"]) <= 1e-2
        assert 4 <= int(genes["width"]) <= 8
        assert genes["cell"] == "mlp"
        assert set(genes["features"]) <= {"log", "sign"}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"lr": 2.0}, r"'lr'.*got 2\.0"),
        ({"lr": {"low": 1e-9}}, r"'lr'.*got 1e-09"),
        ({"lr": {"low": 0.1, "high": 0.01}}, r"'lr': low 0\.1 is above high 0\.01"),
        ({"width": {"low": 5, "high": 2}}, r"'width': low 5 is above high 2$"),
        ({"width": {"low": 1000}}, r"'width': got 1000"),
        ({"width": {}}, r"'width': got \{\}, expected a value, \{low, high\} or \{options\}$"),
        ({"cell": {}}, r"'cell': got \{\}, expected a value"),
        ({"lr": {"min": 0.1}}, r"'lr': unknown limit 'min'.*known: high, low"),
        ({"lr": {"high": math.nan}}, r"'lr'.*got nan"),
        ({"width": {"options": [4, 8]}}, r"'width': unknown limit 'options'"),
        ({"cell": {"options": ["gru"]}}, r"'cell'.*got 'gru'.*'lstm', 'mlp'"),
        ({"cell": {"options": []}}, r"'cell': options is \[\]"),
        ({"cell": {"low": 1}}, r"'cell': unknown limit 'low'"),
        ({"features": {"options": "grad"}}, r"'features': options is 'grad'"),
        ({"features": {"options": ["nope"]}}, r"'features'.*got \['nope'\]"),
        ({"features": []}, r"'features'.*got \[\]"),
    ],
)
def test_limits_that_are_not_permitted_are_refused(limits: dict[str, object], message: str) -> None:
    with pytest.raises(GenomeError, match=message):
        CELLS.restricted(limits)


def test_a_space_refuses_doubles_and_conditions_on_later_genes() -> None:
    width = Integer("width", 1, 2, 1)
    with pytest.raises(GenomeError, match="'width' stands twice"):
        Space((width, width))
    with pytest.raises(GenomeError, match="'width' stands twice"):
        CELLS.union(Space((width,)))
    with pytest.raises(GenomeError, match="'beta' depends on 'rule'"):
        Space((Real("beta", 0.0, 1.0, 0.9, when={"rule": ("adam",)}), Choice("rule", ("adam", "sgd"))))


def test_union_keeps_the_order() -> None:
    more = Space((Real("a", 0, 1, 0), Real("b", 0, 1, 0)))
    assert CELLS.union(more).names() == [*CELLS.names(), "a", "b"]
    assert "a" in CELLS.union(more)
    assert "a" not in CELLS


def test_genes_of_alternatives_are_active_under_the_names_of_those_that_have_them() -> None:
    shared, own = Real("width", 0.0, 1.0, 0.5), Integer("depth", 1, 3, 1, when={"width": (0.5,)})
    space = Space((Choice("kind", ("a", "b", "c")),)).union(
        switched("kind", {"a": [shared], "b": [shared, own], "c": []})
    )
    assert [gene.when for gene in space][1:] == [{"kind": ("a", "b")}, {"kind": ("b",), "width": (0.5,)}]
    assert {kind: list(space.complete({"kind": kind}))[1:] for kind in "abc"} == {
        "a": ["width"],
        "b": ["width", "depth"],
        "c": [],
    }


def test_alternatives_may_not_declare_one_gene_differently() -> None:
    with pytest.raises(GenomeError, match="'width' is declared differently by two values of 'kind'"):
        switched("kind", {"a": [Real("width", 0.0, 1.0, 0.5)], "b": [Real("width", 0.0, 2.0, 0.5)]})
