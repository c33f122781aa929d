"""The contract of estimators, run over every registered one through the loop that follows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from compute_device import DEVICE

import evometa.meta.training
from evometa.errors import GenomeError
from evometa.genome.genes import Value
from evometa.inner import graphs
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.evaluate import evaluate
from evometa.inner.task_set import request
from evometa.inner.unroll import UnrollState
from evometa.layout import Layout
from evometa.meta import (
    ESTIMATORS,
    MetaProblem,
    Refinement,
    TaskStream,
    meta_genes,
    meta_space,
    meta_structure,
    refine,
)
from evometa.rng import numpy_generator, torch_generator
from evometa.rules import RULES as registered_rules
from evometa.rules import Learner
from evometa.trees import Tree

N_TASKS = 4
#: Episodes of 7 steps: segments of 5 and 2.
QUADRATICS = TaskStream("quadratic", '{"dim": 3}', N_TASKS, horizon=7, seed=11)
#: Data, minibatches, and two architectures in one meta-batch.
DIGITS = TaskStream(
    "digits",
    '{"tasks_per_architecture": 2, "batch_size": 4, "widths": [6, 7], "depths": [1]}',
    n_tasks=N_TASKS,
    horizon=6,
    seed=1,
)
#: What learned initialisations need: one model.
ONE_MODEL = replace(
    DIGITS, options='{"widths": [4], "depths": [1], "batch_size": 4, "tasks_per_architecture": 4}'
)
N_PARAMS = {"quadratic": 3, "digits": 64 * 4 + 4 + 4 * 10 + 10}
SHORT: dict[str, Value] = {"meta.steps": 3, "meta.unroll_length": 10, "meta.truncation": 5}
every_estimator = pytest.mark.parametrize("name", ESTIMATORS.names())


_SLOW: dict[str, Value] = {"base": "sgd", "lr": 1e-3, "interval": 5, "hidden": 4, "schedule": "constant"}
#: Rules in which little is learned, and gradient descent that is too slow but for its schedule or controller.
RULES: dict[str, dict[str, Value]] = {
    "sgd": {"lr": 1e-3, "schedule": "recurrent", "schedule.hidden": 4},
    "mlp": {"hidden": 4, "layers": 1, "schedule": "constant"},
    "recurrent": {"hidden": 4, "layers": 1, "schedule": "constant"},
    "controller": {**_SLOW, "policy": "gru"},
    "discrete_controller": _SLOW,
}
#: An estimator with each of the rules that it serves.
SERVED = [
    (name, family)
    for name, estimator in ESTIMATORS
    for family in RULES
    if estimator.serves(registered_rules[family])
]


def learned(
    name: str, family: str | None = None, seed: int = 0, tasks: str = "quadratic", **genes: Value
) -> Candidate:
    """A candidate with fresh weights that refines with estimator ``name`` on such tasks.

    It is of the first family that the estimator serves unless another is named.
    """
    family = family or next(served for estimator, served in SERVED if estimator == name)
    once = {"meta.epochs": 1} if "meta.epochs" in ESTIMATORS[name].space else {}
    meta = {**once, **{f"meta.{key}": value for key, value in genes.items()}}
    complete = {**RULES[family], **meta_genes({**SHORT, "meta.estimator": name, **meta})}
    start = None
    if ESTIMATORS[name].needs_initialisation:
        complete["init"] = "learned"
        start = torch.randn(N_PARAMS[tasks], generator=torch_generator(seed, "start"))
    learner = Learner.of(family, complete)
    weights = learner.init_weights(torch_generator(seed, family), start)
    return Candidate(f"{seed}", family, complete, weights)


def fitting(name: str, stream: TaskStream) -> TaskStream:
    """The stream, with one model where estimator ``name`` needs it."""
    needs_one = ESTIMATORS[name].needs_initialisation and stream is DIGITS
    return ONE_MODEL if needs_one else stream


def different(name: str) -> list[Candidate]:
    """Candidates of one cohort that differ in weights and in every gene in which a cohort may mix."""
    space = meta_space()
    drawn = space.sample(numpy_generator(0, "other genes", name))
    one = learned(name)
    free = {
        gene: drawn[gene]
        for gene in space.continuous(one.genes)
        if gene.startswith("meta.") and gene in drawn
    }
    free |= {"meta.averaging": "ema", "meta.lr_decay": "none"}
    other = learned(name, seed=1, **{gene.removeprefix("meta."): value for gene, value in free.items()})
    return [one, other]


def assert_same(one: Refinement, other: Refinement) -> None:
    for mine, theirs in zip(one.weights, other.weights, strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert one.meta_losses == other.meta_losses
    assert (one.n_inner_steps, one.n_skipped) == (other.n_inner_steps, other.n_skipped)


@pytest.mark.parametrize("stream", [QUADRATICS, DIGITS], ids=lambda stream: stream.use)
@pytest.mark.parametrize(("name", "family"), SERVED)
def test_refined_weights_are_finite_new_and_of_the_same_kind(
    name: str, family: str, stream: TaskStream
) -> None:
    candidate = learned(name, family, tasks=stream.use)
    result = refine([candidate], [fitting(name, stream)], DEVICE)
    (weights,) = result.weights
    assert weights.keys() == candidate.weights.keys()
    for key, value in candidate.weights.items():
        assert (weights[key].shape, weights[key].dtype) == (value.shape, torch.float32)
        assert bool(torch.isfinite(weights[key]).all())
    assert any(not torch.equal(weights[key], candidate.weights[key]) for key in weights)
    assert result.n_skipped == [0]
    assert len(result.meta_losses[0]) == SHORT["meta.steps"]
    assert all(0 < loss < float("inf") for loss in result.meta_losses[0])


@every_estimator
def test_the_given_weights_stay_untouched(name: str) -> None:
    candidate = learned(name)
    copies = {key: value.clone() for key, value in candidate.weights.items()}
    refine([candidate], [QUADRATICS], DEVICE)
    assert all(torch.equal(candidate.weights[key], copies[key]) for key in copies)


@every_estimator
def test_deterministic_and_told_apart_by_the_seed(name: str) -> None:
    candidate = learned(name)
    first, again = (refine([candidate], [QUADRATICS], DEVICE) for _ in range(2))
    assert_same(first, again)
    other = refine([candidate], [replace(QUADRATICS, seed=12)], DEVICE)
    assert other.meta_losses != first.meta_losses


@every_estimator
def test_global_random_numbers_are_left_alone(name: str) -> None:
    before = torch.get_rng_state()
    refine([learned(name)], [QUADRATICS], DEVICE)
    assert torch.equal(torch.get_rng_state(), before)


@every_estimator
def test_candidates_refined_together_come_out_as_if_alone(name: str) -> None:
    """The result must not depend on who shares a candidate's chunk, continuous genes and all."""
    pair = different(name)
    assert meta_structure(pair[0].genes) == meta_structure(pair[1].genes)
    together = refine(pair, [QUADRATICS], DEVICE, torch.float64)
    for index, candidate in enumerate(pair):
        alone = refine([candidate], [QUADRATICS], DEVICE, torch.float64)
        assert alone.n_inner_steps == together.n_inner_steps
        for key, value in alone.weights[0].items():
            torch.testing.assert_close(together.weights[index][key], value, rtol=1e-8, atol=1e-10)


@every_estimator
def test_streams_are_taken_in_turn(name: str) -> None:
    """Episodes of two segments, where they are cut: tasks of the first stream, then of the second."""
    candidate = learned(name)
    twins = (replace(QUADRATICS, options='{"dim": 3, "kind": "open_l2o"}'), QUADRATICS)
    mixed = refine([candidate], twins, DEVICE).meta_losses[0]
    alone = refine([candidate], twins[:1], DEVICE).meta_losses[0]
    n_first = 1 if ESTIMATORS[name].needs_initialisation else 2
    assert mixed[:n_first] == alone[:n_first]
    assert mixed[n_first] != alone[n_first]


@every_estimator
def test_inner_steps_are_those_that_were_made(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted at the engine's door; per candidate, so the number of candidates does not matter."""
    made = 0
    advance = evometa.meta.training.advance

    def counted(cohort: Cohort, layout: Layout, carry: UnrollState, *arguments: Any, **options: Any) -> Any:
        nonlocal made
        n_candidates, n_tasks, _ = carry.params.shape
        made += n_candidates * n_tasks
        return advance(cohort, layout, carry, *arguments, **options)

    monkeypatch.setattr(evometa.meta.training, "advance", counted)
    monkeypatch.setattr(graphs, "serves", lambda device, n_steps: False)  # replays pass by that door
    candidates = [learned(name, seed=seed) for seed in range(3)]
    result = refine(candidates, [QUADRATICS], DEVICE)
    assert made == result.n_inner_steps * len(candidates)
    assert made > 0


@every_estimator
def test_a_candidate_without_a_finite_meta_gradient_keeps_its_weights(name: str) -> None:
    broken, healthy = learned(name), learned(name, seed=1)
    nan = {key: torch.full_like(value, torch.nan) for key, value in broken.weights.items()}
    result = refine([replace(broken, weights=nan), healthy], [QUADRATICS], DEVICE)
    assert result.n_skipped == [SHORT["meta.steps"], 0]
    assert all(bool(torch.isnan(value).all()) for value in result.weights[0].values())
    assert all(bool(torch.isfinite(value).all()) for value in result.weights[1].values())
    assert any(not torch.equal(result.weights[1][key], healthy.weights[key]) for key in healthy.weights)


@every_estimator
def test_lowers_the_loss_on_tasks_not_seen(name: str) -> None:
    stream = TaskStream("quadratic", '{"dim": 3}', n_tasks=8, horizon=20, seed=11)
    genes: dict[str, Value] = {"steps": 20, "unroll_length": 10, "truncation": 5, "lr": 3e-2}
    candidate = learned(name, **genes)
    (weights,) = refine([candidate], [stream], DEVICE).weights
    unseen = request("quadratic", {"dim": 3}, "meta_valid", 64, 21, seed=5)
    before = evaluate([candidate], unseen, DEVICE).losses[0, :, -1]
    after = evaluate([replace(candidate, weights=weights)], unseen, DEVICE).losses[0, :, -1]
    assert after.mean() < 0.8 * before.mean()


@pytest.fixture(scope="module")
def refined_as_is() -> Callable[[str], Tree]:
    """The weights that an estimator by its name comes to with the defaults of the shared genes."""
    return lru_cache(
        lambda name: refine([learned(name, tasks="digits")], [fitting(name, DIGITS)], DEVICE).weights[0]
    )


@every_estimator
@pytest.mark.parametrize(
    "options",
    [
        {"horizon": "log_uniform", "horizon_low": 2},
        {"reparametrisation": "tensor", "loss_scaling": "log_uniform"},
        {"averaging": "ema", "loss": "mean"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_serves_every_option_of_the_shared_genes(
    name: str, options: dict[str, Value], refined_as_is: Callable[[str], Tree]
) -> None:
    changed = refine([learned(name, tasks="digits", **options)], [fitting(name, DIGITS)], DEVICE)
    assert changed.n_skipped == [0]
    assert any(not torch.equal(changed.weights[0][key], value) for key, value in refined_as_is(name).items())


@every_estimator
def test_one_session_at_one_point_gives_a_gradient_of_the_weights_shape(name: str) -> None:
    pair = different(name)
    cohort = Cohort.of(pair, DEVICE, torch.float64)
    problem = MetaProblem(
        cohort, tuple(meta_genes(c.genes) for c in pair), (QUADRATICS,), DEVICE, torch.float64
    )
    found = ESTIMATORS[name].begin(problem).estimate(cohort.weights)
    assert {k: (v.shape, v.dtype) for k, v in found.grads.items()} == {
        k: (v.shape, v.dtype) for k, v in cohort.weights.items()
    }
    assert found.losses.shape == (2,)
    assert not any(value.requires_grad for value in (*found.grads.values(), found.losses))


@every_estimator
def test_words_genes_and_memory(name: str) -> None:
    estimator = ESTIMATORS[name]
    assert estimator.name == name
    assert estimator.summary
    assert all(gene.name.startswith("meta.") for gene in estimator.space)
    genes = learned(name).genes
    assert all(gene.name in genes for gene in estimator.space)
    assert hash(estimator.structure(genes)) == hash(estimator.structure(learned(name, seed=1).genes))
    footprint = estimator.footprint(genes)
    assert footprint.breadth >= max(footprint.n_trainings, 1)
    assert footprint.n_live_steps >= 1
    with pytest.raises(GenomeError, match=r"meta\.unheard_of"):
        meta_genes({"meta.estimator": name, "meta.unheard_of": 1})
