"""The gene of symbolic rules: text and trees, variation within bounds, and the numbers inside."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evometa.errors import GenomeError
from evometa.genome.space import Space
from evometa.rules.symbolic import GENE, SymbolicFamily
from evometa.rules.symbolic_gene import KNOWN, Expression
from evometa.rules.symbolic_tree import Bounds

FAMILY = SymbolicFamily()
EXPRESSION = FAMILY.space[GENE]
SMALL = Expression("small", "g", Bounds(size=9, depth=4, averages=1))
SEEDS = st.integers(0, 2**32)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([EXPRESSION, SMALL]), st.sampled_from([0.0, 0.1, 10.0]))
def test_variation_gives_well_typed_canonical_expressions_within_bounds(
    seed: int, gene: Expression, strength: float
) -> None:
    found = []
    for _ in range(2):
        generator = np.random.default_rng(seed)
        one, other = gene.sample(generator), gene.sample(generator)
        for _ in range(3):
            one = gene.mutate(one, generator, strength)
            one, other = gene.cross(one, other, generator)
        found.append((one, other))
    assert found[0] == found[1], "the generator alone decides"
    for text in found[0]:
        assert gene.check(text) == text
        skeleton = gene.skeleton(text)
        assert gene.skeleton(skeleton) == skeleton
        assert gene.numbers(skeleton).keys() == gene.numbers(text).keys()


@given(SEEDS)
def test_skipping_draws_what_sampling_draws(seed: int) -> None:
    one, other = np.random.default_rng(seed), np.random.default_rng(seed)
    EXPRESSION.sample(one)
    EXPRESSION.skip(other)
    assert one.random() == other.random()


def test_every_way_to_vary_comes_up() -> None:
    """Among a hundred children of one expression: other numbers, other symbols, shorter and longer ones."""
    generator = np.random.default_rng(0)
    text = KNOWN["adam"]
    children = [str(EXPRESSION.mutate(text, generator, 0.1)) for _ in range(100)]
    assert text not in children
    same = [child for child in children if EXPRESSION.skeleton(child) == EXPRESSION.skeleton(text)]
    sizes = {child.count("(") for child in children}
    assert 10 < len(same) < 60
    assert min(sizes) < text.count("(") < max(sizes)
    assert "div(" in "".join(children)
    assert any(child.startswith(("add(", "sub(", "mul(", "max(", "min(")) for child in children)


def test_numbers_are_canonical() -> None:
    text = "add( mul(.5, m(0.90)),\n1E-8)"
    assert EXPRESSION.check(text) == "add(mul(0.5, m(0.9)), 1e-08)"
    assert EXPRESSION.check("mul(0.123456789, g)") == "mul(0.1234568, g)"
    assert EXPRESSION.check("m(0.99912345678)") == "m(0.9991234568)"


def test_equal_decays_are_one_number_and_constants_are_their_own() -> None:
    text = "add(mul(2.0, m(0.9)), mul(2.0, add(v(0.9), m(0.99))))"
    assert EXPRESSION.numbers(text) == {
        "expression.constant0": 2.0,
        "expression.constant1": 2.0,
        "expression.one_minus_beta0": 0.1,
        "expression.one_minus_beta1": 0.01,
    }
    moved = "add(mul(3.0, m(0.5)), mul(0.1, add(v(0.5), m(0.4))))"
    untied = "add(mul(2.0, m(0.9)), mul(2.0, add(v(0.8), m(0.99))))"
    assert EXPRESSION.skeleton(moved) == EXPRESSION.skeleton(text) != EXPRESSION.skeleton(untied)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the expression ends where the expression is expected"),
        ("g g", "goes on with 'g' after its end"),
        ("sqr(g)", "unknown symbol 'sqr'; did you mean 'sqrt'?"),
        ("add(g)", "add takes 2 arguments in parentheses; ',' is missing"),
        ("neg(g, g)", "neg takes one argument in parentheses"),
        ("m(g)", "argument 1 of m is 'g', expected a decay β"),
        ("m(1.5)", "argument 1 of m is 1.5, expected a decay β from 0.001 to 0.999999"),
        ("pow(g, g)", "argument 2 of pow is 'g', expected a constant, progress or count"),
        ("add(g, 0)", "argument 2 of add is 0, expected a constant from 1e-12 to 1e+06"),
        ("mul(g, 1.2.3)", "is '1.2.3', which is no number"),
        ("mul(g, -1)", "has '-', which means nothing there"),
        ("__import__('os')", "which means nothing there"),
        ("neg(" * 5000 + "g" + ")" * 5000, "has 25001 characters, at most 4096 are allowed"),
        ("neg(" * 300 + "g" + ")" * 300, "nested too deeply"),
        ("neg(" * 12 + "g" + ")" * 12, "is 13 nodes deep, at most 10 are allowed"),
        ("add(m(0.1), add(m(0.2), add(m(0.3), add(m(0.4), m(0.5)))))", "keeps 5 running averages, at most 4"),
    ],
)
def test_refusals_say_what_is_wrong_in_one_line(text: str, message: str) -> None:
    with pytest.raises(GenomeError, match=f"gene 'expression': .*{re.escape(message)}") as refused:
        EXPRESSION.check(text)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("value", [None, 1.0, ["g"], True])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(GenomeError, match="allowed is an expression of at most 40 nodes such as"):
        EXPRESSION.check(value)


def test_a_campaign_may_hold_it_or_make_it_smaller() -> None:
    held = FAMILY.space.restricted({GENE: KNOWN["lion"]})
    assert GENE not in [gene.name for gene in held.movable]
    assert held.sample(np.random.default_rng(0))[GENE] == KNOWN["lion"]
    with pytest.raises(GenomeError, match=r"allowed is 'sign\(.*', with any numbers"):
        held[GENE].check("g")
    trained = KNOWN["lion"].replace("0.99", "0.98")
    assert held[GENE].check(trained) == trained
    assert held.continuous(held.complete({})).keys() == {"lr", *EXPRESSION.numbers(KNOWN["lion"])}
    small = FAMILY.space.restricted({GENE: {"size": 5, "averages": 0}})
    assert small.complete({})[GENE] == "g"
    with pytest.raises(GenomeError, match="has 6 nodes, at most 5 are allowed"):
        small[GENE].check("sign(add(g, add(p, noise)))")
    for limit, message in (
        ({"sise": 5}, "unknown limit 'sise'"),
        ({"depth": 0}, "depth is 0, expected a whole number from 1 to 10"),
        ({"size": 41}, "size is 41, expected a whole number from 1 to 40"),
    ):
        with pytest.raises(GenomeError, match=message):
            FAMILY.space.restricted({GENE: limit})


def test_it_crosses_beside_other_genes() -> None:
    space = Space((*FAMILY.space,))
    assert space.structural({"lr": 0.1, GENE: "mul(3.0, g)"}) == ((GENE, "mul(1.0, g)"),)
    assert space.note("expression.one_minus_beta0") == "1 − β of averages of the formula, in their order"
