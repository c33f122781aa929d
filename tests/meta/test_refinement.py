"""The loop that follows meta-gradients, and the genes it reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from compute_device import DEVICE

from evometa.errors import GenomeError
from evometa.genome.space import Space
from evometa.inner.cohort import Candidate
from evometa.meta import (
    ESTIMATORS,
    Estimator,
    Footprint,
    MetaGradient,
    MetaProblem,
    Session,
    meta_genes,
    meta_space,
    refine,
)
from evometa.meta.registry import meta_structure
from evometa.trees import Tree


def test_follows_the_estimates_from_one_to_the_next(setting: Any) -> None:
    """Three steps written out: estimate at the weights reached, clip, Adam with cosine decay."""
    genes = {"loss": "mean", "steps": 3, "lr": 1e-3, "clip": 0.5, "second_order": True}
    result = refine(setting.candidates(**genes), [setting.stream], DEVICE, torch.float64)
    problem = setting.problem(**genes)
    session = ESTIMATORS["tbptt"].begin(problem)
    weights = [setting.points[i].clone().requires_grad_() for i in range(2)]
    adams = [torch.optim.Adam([value], lr=1.0) for value in weights]
    for k in range(3):
        stacked = torch.stack([value.detach() for value in weights]).to(DEVICE)
        found = session.estimate({"rule.rate": stacked[:, 0], "rule.shrinkage": stacked[:, 1]}).grads
        for i, (value, adam) in enumerate(zip(weights, adams, strict=True)):
            value.grad = torch.stack([found["rule.rate"][i], found["rule.shrinkage"][i]]).cpu()
            torch.nn.utils.clip_grad_norm_([value], 0.5)
            adam.param_groups[0]["lr"] = 1e-3 * (1.0, 0.75, 0.25)[k]
            adam.step()
    for i, value in enumerate(weights):
        assert float(result.weights[i]["rule.rate"]) == pytest.approx(float(value.detach()[0]), rel=1e-9)
        assert float(result.weights[i]["rule.shrinkage"]) == pytest.approx(float(value.detach()[1]), rel=1e-9)


def test_a_genome_from_before_a_gene_existed_gets_its_default(setting: Any) -> None:
    candidates = setting.candidates()
    first_genes = ("write_back", "estimator", "steps", "lr", "lr_decay", "clip")
    kept = {f"meta.{name}" for name in (*first_genes, "unroll_length", "truncation", "second_order", "loss")}
    old = [
        replace(c, genes={k: v for k, v in c.genes.items() if k in kept or not k.startswith("meta.")})
        for c in candidates
    ]
    assert old[0].genes.keys() < candidates[0].genes.keys()
    results = [refine(each, [setting.stream], DEVICE, torch.float64) for each in (candidates, old)]
    assert results[0].meta_losses == results[1].meta_losses
    assert results[0].weights == results[1].weights


def test_backpropagation_over_fixed_horizons_on_plain_tasks_is_the_default() -> None:
    genes = meta_genes({})
    switches = ("estimator", "averaging", "horizon", "reparametrisation", "loss_scaling")
    assert [genes[f"meta.{name}"] for name in switches] == ["tbptt", "none", "fixed", "none", "none"]


def test_genes_that_are_not_permitted_are_refused_by_name() -> None:
    with pytest.raises(GenomeError, match=r"meta\.sigma.*allowed is a number"):
        meta_genes({"meta.estimator": "pes", "meta.sigma": 100.0})


def test_what_splits_a_cohort_and_what_does_not() -> None:
    def structure(**genes: Any) -> Any:
        return meta_structure(meta_genes({f"meta.{name}": value for name, value in genes.items()}))

    same = (
        {"lr": 1e-2},
        {"clip": 2.0},
        {"lr_decay": "none"},
        {"averaging": "ema"},
        {"write_back": "baldwinian"},
    )
    assert {structure(**genes) for genes in same} == {structure()}
    other = (
        {"steps": 7},
        {"truncation": 5},
        {"second_order": True},
        {"estimator": "es"},
        {"horizon": "log_uniform"},
    )
    assert structure() not in {structure(**genes) for genes in other}
    assert structure(estimator="es", sigma=0.1) == structure(estimator="es")
    assert structure(estimator="es", pairs=2) != structure(estimator="es")


def test_every_estimators_genes_are_active_for_it_alone() -> None:
    for name, estimator in ESTIMATORS:
        genes = meta_genes({"meta.estimator": name})
        own = {gene.name for gene in estimator.space}
        shared = {gene.name for gene in meta_space() if "meta.estimator" not in gene.when}
        assert own <= genes.keys() <= own | shared
    assert not any(name == "meta.steps" for name in meta_genes({"meta.write_back": "none"}))


class Diverging(Estimator):
    """An estimator of one's own: it sends candidate 0 one way and gives candidate 1 nothing to follow."""

    name = "diverging"
    summary = "for this test"
    space = Space()

    def footprint(self, genes: Any) -> Footprint:
        return Footprint(1, 1)

    def begin(self, problem: MetaProblem) -> Session:
        class Given(Session):
            def estimate(self, weights: Tree) -> MetaGradient:
                grads = {name: torch.tensor([1.0, torch.nan], device=DEVICE) for name in weights}
                return MetaGradient(grads, torch.tensor([1.0, torch.inf], device=DEVICE), 5)

        return Given()


def test_an_estimator_of_ones_own_is_followed_alike(setting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ESTIMATORS._members, "diverging", Diverging())
    candidates: list[Candidate] = setting.candidates(estimator="diverging", steps=4)
    result = refine(candidates, [setting.stream], DEVICE)
    assert result.n_inner_steps == 20
    assert result.n_skipped == [0, 4]
    assert result.meta_losses == [[1.0] * 4, [torch.inf] * 4]
    assert float(result.weights[0]["rule.rate"]) < 0.01
    assert float(result.weights[1]["rule.rate"]) == pytest.approx(0.03)
