"""The functional hash is the same for equal updates, whatever makes them, and for no others."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evometa.genome.genes import Value
from evometa.inner.cohort import Candidate
from evometa.inner.fingerprint import ingredients_hash, is_probed, updates_hashes
from evometa.rng import numpy_generator
from evometa.rules import RULES, SCHEDULES, Learner
from evometa.rules.learner_structure import learner_space

HORIZONS = (20, 100)
PLAIN = [name for name, family in RULES if not family.learned]
FORMULAS = [name for name, family in SCHEDULES if family.build(family.space.complete({})).elementwise]
#: A schedule that is 0.5 throughout.
VALUES = {f"schedule_value_{knot}": 0.5 for knot in range(5)}


def candidate(family: str, genes: Mapping[str, Value]) -> Candidate:
    return Candidate("", family, learner_space(RULES[family]).complete({"schedule": "constant", **genes}), {})


def hash_of(family: str, **genes: Value) -> str:
    named = {name.replace("schedule_", "schedule."): value for name, value in genes.items()}
    (found,) = updates_hashes([candidate(family, named)], HORIZONS)
    return found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("momentum", {"lr": 0.1, "one_minus_momentum": 1.0}), ("sgd", {"lr": 0.1})),
        (("nesterov", {"lr": 0.1, "one_minus_momentum": 1.0}), ("sgd", {"lr": 0.1})),
        (("sgd", {"lr": 0.1, "schedule": "exponential", "schedule_final": 1.0}), ("sgd", {"lr": 0.1})),
        (
            ("lion", {"lr": 0.2, "schedule": "piecewise_linear", **VALUES}),
            ("lion", {"lr": 0.1}),
        ),
        (
            ("adam", {"lr": 0.1, "schedule": "cosine", "schedule_final": 1.0}),
            ("adam", {"lr": 0.1, "schedule": "step", "schedule_gamma": 1.0 - 1e-12}),
        ),
    ],
)
def test_other_names_for_the_same_updates(
    one: tuple[str, dict[str, Value]], other: tuple[str, dict[str, Value]]
) -> None:
    assert hash_of(one[0], **one[1]) == hash_of(other[0], **other[1])


@pytest.mark.parametrize(
    "genes",
    [
        {"lr": 0.1001},
        {"one_minus_beta1": 0.11},
        {"one_minus_beta2": 0.0011},
        {"eps": 1e-6},
        {"schedule": "exponential", "schedule_final": 0.9},
        {"schedule": "step", "schedule_interval": 0.5},
    ],
)
def test_a_gene_that_acts_makes_another_hash(genes: dict[str, Value]) -> None:
    assert hash_of("adam", **{"lr": 0.1, **genes}) != hash_of("adam", lr=0.1)


def test_a_drop_that_falls_between_the_steps_tried_out_is_seen() -> None:
    """At a horizon of 100 an interval of 0.5 drops at step 50, one of 0.51 at step 51."""
    drops = [{"lr": 0.1, "schedule": "step", "schedule_interval": interval} for interval in (0.5, 0.51)]
    assert hash_of("sgd", **drops[0]) != hash_of("sgd", **drops[1])


def test_rules_with_their_usual_genes_are_all_different() -> None:
    assert len({hash_of(family, lr=0.01) for family in PLAIN}) == len(PLAIN)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(PLAIN), st.lists(st.sampled_from(FORMULAS), min_size=3, max_size=3), st.integers(0, 2**32)
)
def test_it_does_not_depend_on_who_is_hashed_together(family: str, schedules: list[str], seed: int) -> None:
    space = learner_space(RULES[family])
    first = space.sample(numpy_generator(seed, "draw", 0))
    alike = space.restricted(dict(RULES[family].space.structural(first)))  # as by_rule puts them together
    draws = [alike.sample(numpy_generator(seed, "draw", number)) for number in range(3)]
    genes = [{**own, "schedule": schedule} for own, schedule in zip(draws, schedules, strict=True)]
    group = [candidate(family, own) for own in genes]
    alone = [updates_hashes([one], HORIZONS)[0] for one in group]
    assert updates_hashes(group, HORIZONS) == alone
    assert updates_hashes(group[::-1], HORIZONS) == alone[::-1]


def test_learners_with_weights_are_known_by_what_they_are_made_of() -> None:
    genes = learner_space(RULES["recurrent"]).complete({"schedule": "constant", "hidden": 4})
    weights = Learner.of("recurrent", genes).init_weights(torch.Generator())
    one = Candidate("", "recurrent", genes, weights)
    assert not is_probed(one)
    assert is_probed(candidate("adam", {}))
    same = Candidate("", "recurrent", {**genes, "meta.lr": 0.5}, weights)
    assert ingredients_hash(one, "abc") == ingredients_hash(same, "abc")
    assert ingredients_hash(one, "abc") != ingredients_hash(one, "abd")
    slower = Candidate("", "recurrent", {**genes, "lr": 0.5}, weights)
    assert ingredients_hash(one, "abc") != ingredients_hash(slower, "abc")


def test_formulas_are_known_by_what_they_do_with_their_weights() -> None:
    adam = candidate("adam", {"lr": 0.01})
    formula = [formula_of("div(mhat(0.9), add(sqrt(vhat(0.999)), 1e-08))", move) for move in (0.0, 0.1)]
    twice = formula_of("div(add(g, g), 0.5)", 0.0)
    assert all(map(is_probed, (*formula, twice)))
    (expected,) = updates_hashes([adam], HORIZONS)
    assert updates_hashes(formula, HORIZONS)[0] == expected != updates_hashes(formula, HORIZONS)[1]
    assert updates_hashes([twice], HORIZONS) == updates_hashes([formula_of("mul(g, 4.0)", 0.0)], HORIZONS)


def formula_of(text: str, move: float) -> Candidate:
    genes = learner_space(RULES["symbolic"]).complete(
        {"expression": text, "lr": 0.01, "schedule": "constant"}
    )
    weights = Learner.of("symbolic", genes).init_weights(torch.Generator())
    return Candidate("", "symbolic", genes, {name: value + move for name, value in weights.items()})
