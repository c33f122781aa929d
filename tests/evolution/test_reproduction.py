"""Children: permitted, reproducible, independent of one another, and descended from whom they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evometa.errors import GenomeError
from evometa.evolution.reproduction import Child, Parents, VariationRates, first_generation, next_generation
from evometa.evolution.search_space import SearchSpace, full_space
from evometa.genome.genome import Genome
from evometa.rules.learner import Learner
from evometa.rules.registry import RULES
from evometa.rules.seeds import load_seeds
from evometa.rules.symbolic_gene import Expression

SEEDS = Path(__file__).parents[2] / "populations" / "seeds"
RATES = VariationRates(0.2, 0.15, 0.5, 0.2, 0.2, 0.1, 2)


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace.of((), {}, max_meta_steps=20)


def as_parents(children: list[Child]) -> Parents:
    genomes = [
        Genome(f"000-{index:03d}", child.family, child.genes, name=child.name)
        for index, child in enumerate(children)
    ]
    return Parents(genomes, np.zeros(len(genomes), dtype=np.int64), np.arange(len(genomes), dtype=float))


def test_generation_0_holds_the_seeds_and_every_family(space: SearchSpace) -> None:
    seeds = load_seeds([SEEDS])
    children = first_generation(space, seeds, 40, seed=1)
    assert len(children) == 40
    assert [child.name for child in children[: len(seeds)]] == [seed.name for seed in seeds]
    assert {child.family for child in children} == set(RULES.names())
    assert children[0].operator == "seed"
    assert children[-1].operator == "random"


def test_children_are_complete_genomes_of_their_space(space: SearchSpace) -> None:
    parents = as_parents(first_generation(space, load_seeds([SEEDS]), 24, seed=1))
    known = {genome.id for genome in parents.genomes}
    seen = set()
    for child in next_generation(space, parents, RATES, 200, seed=1, generation=1):
        assert space[child.family].complete(child.genes) == child.genes
        Learner.of(child.family, child.genes).rule  # noqa: B018  builds
        assert set(child.parents) <= known
        assert child.weights_from is None or child.weights_from in child.parents
        seen.add(child.operator)
    assert seen == {"random", "mutation", "crossover", "continuation", "family_change"}


def test_formulas_that_learn_where_they_begin_have_children() -> None:
    """What such a formula does cannot be tried out before there is a model to begin from."""
    space = SearchSpace.of(("symbolic",), {"init": "learned"}, max_meta_steps=20)
    parents = as_parents(first_generation(space, [], 6, seed=1))
    children = list(next_generation(space, parents, RATES, 20, seed=1, generation=1))
    assert len(children) == 20
    assert {child.genes["init"] for child in children} == {"learned"}


def test_a_child_depends_on_its_own_index_only(space: SearchSpace) -> None:
    parents = as_parents(first_generation(space, [], 12, seed=3))
    few = next_generation(space, parents, RATES, 4, seed=3, generation=2)
    many = next_generation(space, parents, RATES, 9, seed=3, generation=2)
    assert many[:4] == few
    assert next_generation(space, parents, RATES, 4, seed=4, generation=2) != few


def test_children_do_not_repeat_genes_unless_they_continue(space: SearchSpace) -> None:
    parents = as_parents(first_generation(space, load_seeds([SEEDS]), 24, seed=1))
    children = next_generation(space, parents, RATES, 60, seed=5, generation=1)
    fresh = [child for child in children if child.operator != "continuation"]
    keys = [(child.family, tuple(sorted(child.genes.items()))) for child in fresh]
    assert len(set(keys)) == len(keys)
    for child in children:
        if child.operator == "continuation":
            parent = next(genome for genome in parents.genomes if genome.id == child.parents[0])
            assert child.genes == parent.genes
            assert child.weights_from == parent.id


def test_crossing_families_keeps_the_childs_family_and_shares_the_schedule(space: SearchSpace) -> None:
    limits = {"schedule": "cosine"}
    narrowed = SearchSpace.of(("sgd", "recurrent"), limits, max_meta_steps=20)
    parents = as_parents(first_generation(narrowed, [], 8, seed=1))
    only_crossover = replace(
        RATES, crossover_probability=1.0, continuation_probability=0.0, fresh_probability=0.0
    )
    for child in next_generation(narrowed, parents, only_crossover, 40, seed=2, generation=1):
        assert child.genes["schedule"] == "cosine"
        assert ("hidden" in child.genes) == (child.family == "recurrent")


def test_limits_hold_for_seeds_random_genomes_and_children() -> None:
    limits = {"lr": {"low": 1e-3, "high": 1e-2}, "meta.write_back": "none"}
    space = SearchSpace.of(("adam", "mlp"), limits, max_meta_steps=20)
    children = first_generation(space, load_seeds([SEEDS]), 10, seed=1)
    bred = next_generation(space, as_parents(children), RATES, 30, seed=1, generation=1)
    for child in [*children, *bred]:
        assert 1e-3 <= float(child.genes["lr"]) <= 1e-2  # type: ignore[arg-type]
        assert child.genes.get("meta.write_back", "none") == "none"
        assert "meta.steps" not in child.genes


def test_meta_steps_are_bounded_unless_the_gene_is_limited_by_name() -> None:
    bounded = SearchSpace.of(("mlp",), {}, max_meta_steps=7)
    assert bounded["mlp"]["meta.steps"].allowed == "a whole number from 1 to 7"
    named = SearchSpace.of(("mlp",), {"meta.steps": 5000}, max_meta_steps=7)
    assert named["mlp"].complete({})["meta.steps"] == 5000


def test_task_augmentation_is_off_unless_a_campaign_names_it() -> None:
    plain = SearchSpace.of(("mlp",), {}, max_meta_steps=7)
    children = [child for seed in range(5) for child in first_generation(plain, [], 4, seed)]
    refined = [child.genes for child in children if child.genes["meta.write_back"] != "none"]
    assert {(genes["meta.reparametrisation"], genes["meta.loss_scaling"]) for genes in refined} == {
        ("none", "none")
    }
    assert {genes["meta.horizon"] for genes in refined} == {"fixed"}
    limits = {"meta.reparametrisation": {"options": ["none", "task"]}, "meta.horizon": "log_uniform"}
    named = SearchSpace.of(("mlp",), limits, max_meta_steps=7)
    children = [child for seed in range(5) for child in first_generation(named, [], 4, seed)]
    refined = [child.genes for child in children if child.genes["meta.write_back"] != "none"]
    assert {genes["meta.reparametrisation"] for genes in refined} == {"none", "task"}
    assert {genes["meta.horizon"] for genes in refined} == {"log_uniform"}


def test_unknown_genes_and_families_are_named() -> None:
    with pytest.raises(GenomeError, match=r"did you mean 'meta\.lr'"):
        SearchSpace.of((), {"meta.lrr": 1e-3}, max_meta_steps=7)
    with pytest.raises(GenomeError, match="gene 'lr'"):
        SearchSpace.of((), {"lr": "fast"}, max_meta_steps=7)


def test_hand_designed_genomes_have_meta_genes_only_under_a_learned_schedule() -> None:
    space = full_space("sgd")
    assert not any(name.startswith("meta.") for name in space.complete({"schedule": "cosine"}))
    assert "meta.steps" in space.complete({"schedule": "recurrent"})


def test_a_formula_that_does_what_a_parent_does_is_bred_again(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [gene for gene in full_space("symbolic") if gene.name != "expression"]
    limits = {gene.name: gene.default for gene in others}
    space = SearchSpace.of(("symbolic",), limits, max_meta_steps=20)
    parent = space["symbolic"].complete({"expression": "mul(m(0.9), 2.0)"})
    parents = as_parents([Child("symbolic", parent, "seed")])
    bred = iter(["add(m(0.9), m(0.9))", "neg(mul(neg(2.0), m(0.9)))", "mul(m(0.9), 2.5)"])
    monkeypatch.setattr(Expression, "mutate", lambda *_: next(bred))
    rates = VariationRates(0.2, 0.1, 0.0, 0.0, 0.0, 0.0, 1)
    (child,) = next_generation(space, parents, rates, 1, seed=1, generation=1)
    assert child.genes["expression"] == "mul(m(0.9), 2.5)"
