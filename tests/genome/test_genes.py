"""Every kind of gene keeps to its permitted values, whatever is drawn, mutated or recombined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evometa.errors import GenomeError
from evometa.genome.genes import Choice, Gene, Integer, LogReal, NumericGene, Real, Subset

GENES = st.from_type(Gene)
SEEDS = st.integers(0, 2**32)
STRENGTHS = st.sampled_from([0.0, 0.01, 0.3, 10.0])

HOSTILE = [None, "", "nan", math.nan, math.inf, -math.inf, 10**400, -(10**400), {}, [], [[1]], object(), b"x"]


def same(a: object, b: object) -> bool:
    """Equal in value and type: a gene's canonical form, not merely something that compares equal."""
    return a == b and type(a) is type(b)


@settings(max_examples=50)
@given(GENES, SEEDS, STRENGTHS)
def test_variation_stays_permitted_and_canonical(gene: Gene, seed: int, strength: float) -> None:
    generator = np.random.default_rng(seed)
    a, b = gene.sample(generator), gene.sample(generator)
    drawn = [a, b, gene.default, *gene.cross(a, b, generator)]
    drawn += [gene.mutate(value, generator, strength) for value in drawn]
    for value in drawn:
        assert same(gene.check(value), value)


@settings(max_examples=50)
@given(GENES, SEEDS)
def test_equal_generators_give_equal_values(gene: Gene, seed: int) -> None:
    def draws() -> list[object]:
        generator = np.random.default_rng(seed)
        a, b = gene.sample(generator), gene.sample(generator)
        return [a, b, gene.mutate(a, generator, 0.2), gene.cross(a, b, generator), generator.random()]

    assert draws() == draws()


@settings(max_examples=50)
@given(GENES, SEEDS)
def test_crossing_equal_parents_changes_nothing(gene: Gene, seed: int) -> None:
    generator = np.random.default_rng(seed)
    value = gene.sample(generator)
    assert gene.cross(value, value, generator) == (value, value)


@settings(max_examples=50)
@given(GENES, st.sampled_from(HOSTILE))
def test_check_refuses_with_one_line_that_names_the_gene(gene: Gene, value: object) -> None:
    if isinstance(gene, Subset) and value == [] and gene.min_size == 0:
        assert gene.check(value) == ()
        return
    with pytest.raises(GenomeError) as caught:
        gene.check(value)
    assert repr(gene.name) in str(caught.value)
    assert gene.allowed in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.from_type(Real) | st.from_type(LogReal), st.floats(0, 1))
def test_unit_coordinates_invert_for_reals(gene: NumericGene, unit: float) -> None:
    value = gene.from_unit(unit)
    again = gene.from_unit(gene.to_unit(float(value)))
    assert again == pytest.approx(value, rel=1e-9, abs=1e-9 * max(abs(gene.low), abs(gene.high)))
    assert 0.0 <= gene.to_unit(float(value)) <= 1.0
    assert gene.from_unit(0.0) == pytest.approx(gene.low)
    assert gene.from_unit(1.0) == pytest.approx(gene.high)


@given(st.from_type(Integer))
def test_unit_coordinates_invert_for_every_integer(gene: Integer) -> None:
    values = range(int(gene.low), int(gene.high) + 1)
    assert [gene.from_unit(gene.to_unit(value)) for value in values] == list(values)
    assert gene.from_unit(0.0) == gene.low
    assert gene.from_unit(1.0) == gene.high


def test_integer_draws_cover_both_bounds_evenly() -> None:
    gene, generator = Integer("n", 1, 4, 1), np.random.default_rng(0)
    counts = np.bincount([int(gene.sample(generator)) for _ in range(8000)], minlength=5)[1:]
    assert counts.min() > 1800  # 2000 expected of each, standard deviation 39


def test_logarithmic_draws_are_even_over_magnitudes() -> None:
    gene, generator = LogReal("lr", 1e-4, 1.0, 1e-3), np.random.default_rng(0)
    exponents = np.log10([float(gene.sample(generator)) for _ in range(4000)])
    counts, _ = np.histogram(exponents, bins=4, range=(-4, 0))
    assert counts.min() > 850  # 1000 expected of each, standard deviation 27


def test_mutation_strength_is_a_standard_deviation_in_unit_coordinates() -> None:
    gene, generator = LogReal("lr", 1e-6, 1.0, 1e-3), np.random.default_rng(0)
    steps = [gene.to_unit(float(gene.mutate(1e-3, generator, 0.05))) - 0.5 for _ in range(4000)]
    assert np.mean(steps) == pytest.approx(0.0, abs=0.004)
    assert np.std(steps) == pytest.approx(0.05, rel=0.05)


def test_mutation_beyond_a_bound_reflects_instead_of_heaping_on_it() -> None:
    gene, generator = Real("x", 0.0, 1.0, 0.5), np.random.default_rng(0)
    values = [gene.mutate(0.0, generator, 0.3) for _ in range(500)]
    assert sum(value in (0.0, 1.0) for value in values) == 0


@given(st.from_type(Integer), SEEDS, STRENGTHS)
def test_a_mutated_integer_differs_unless_it_cannot(gene: Integer, seed: int, strength: float) -> None:
    generator = np.random.default_rng(seed)
    value = gene.sample(generator)
    assert (gene.mutate(value, generator, strength) != value) == (gene.low < gene.high)


@given(SEEDS)
def test_a_mutated_choice_and_subset_differ(seed: int) -> None:
    generator = np.random.default_rng(seed)
    choice = Choice("c", ("a", "b", "c"))
    subset = Subset("s", ("a", "b", "c"), ("a",), min_size=1)
    for gene in (choice, subset):
        value = gene.sample(generator)
        assert gene.mutate(value, generator, 0.1) != value


@given(st.floats(0, 1), st.floats(0, 1), SEEDS)
def test_crossover_of_reals_keeps_the_parents_mean(x: float, y: float, seed: int) -> None:
    gene = Real("x", -100.0, 100.0, 0.0)  # wide, so that no child is folded back at a bound
    first, second = gene.cross(x, y, np.random.default_rng(seed))
    assert float(first) + float(second) == pytest.approx(x + y, abs=1e-9)


def test_canonical_forms() -> None:
    assert same(Real("x", 0, 10, 1).check(3), 3.0)
    assert same(Integer("n", 0, 10, 1).check(3.0), 3)
    assert same(Choice("c", (1, 2)).check(1.0), 1)
    assert Subset("s", ("a", "b", "c"), ("a",)).check(["c", "a"]) == ("a", "c")


@pytest.mark.parametrize(
    ("gene", "value"),
    [
        (Real("x", 0, 10, 1), True),
        (Real("x", 0, 10, 1), 10.000001),
        (Integer("n", 0, 10, 1), 3.5),
        (Integer("n", 0, 10, 1), True),
        (Integer("n", 0, 10, 1), 11),
        (Choice("c", (0, 1)), True),
        (Choice("c", (False, True)), 1),
        (Choice("c", ("a", "b")), "A"),
        (Subset("s", ("a", "b"), ("a",)), "a"),
        (Subset("s", ("a", "b"), ("a",)), ()),
        (Subset("s", ("a", "b"), ("a",)), ("a", "a")),
        (Subset("s", ("a", "b"), ("a",)), ("a", "z")),
    ],
)
def test_near_misses_are_refused(gene: Gene, value: object) -> None:
    with pytest.raises(GenomeError, match="allowed is"):
        gene.check(value)


@pytest.mark.parametrize(
    "declare",
    [
        lambda: Real("x", 0.0, 1.0, 2.0),
        lambda: Real("x", 1.0, 0.0, 0.5),
        lambda: Real("x", 0.0, math.inf, 0.5),
        lambda: Real("x", 0.0, 1.0, math.nan),
        lambda: LogReal("x", 0.0, 1.0, 0.5),
        lambda: Integer("x", 0, 10, 1, log=True),
        lambda: Choice("x", ()),
        lambda: Choice("x", ("a", "b"), "c"),
        lambda: Subset("x", ("a", "b"), ("c",)),
        lambda: Subset("x", ("a", "b"), ("a",), min_size=2),
    ],
)
def test_a_gene_that_contradicts_itself_cannot_be_declared(declare: object) -> None:
    with pytest.raises(GenomeError, match="'x'"):
        declare()
