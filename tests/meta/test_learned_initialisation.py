"""Learned initialisations: the meta-gradients of MAML and its kin against the papers' equations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from compute_device import DEVICE
from torch import Tensor

from evometa.errors import GenomeError
from evometa.genome.genes import Value
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.unroll import advance, begin, loss_and_grad
from evometa.meta import ESTIMATORS, MetaProblem, TaskStream, meta_genes
from evometa.meta.augmentation import Part
from evometa.meta.episodes import draw_episode
from evometa.meta.meta_loss import Objective
from evometa.meta.replay import Way, backpropagate
from evometa.rng import torch_generator
from evometa.rules import Learner
from evometa.trees import Tree

RATE = 0.05
STREAM = TaskStream("sinusoid", '{"shots": 4, "width": 3, "activation": "tanh"}', 3, horizon=3, seed=5)
BILEVEL: dict[str, Value] = {"meta.loss": "last", "meta.judged_on": "valid", "meta.truncation": 5}


def candidate(number: int = 0, family: str = "sgd", **genes: Value) -> Candidate:
    """Genes without dots are the rule's; ``init_rates`` is ``init.rates``."""
    named = {name.replace("init_", "init."): value for name, value in genes.items()}
    complete: dict[str, Value] = {"schedule": "constant", "init": "learned", **named}
    if family == "sgd":
        complete["lr"] = RATE
    learner = Learner.of(family, complete)
    start = torch.randn(2 * 3 + 3 * 3 + 3 + 3 + 1, generator=torch_generator(number, "start"))
    weights = learner.init_weights(torch_generator(number, family), start)
    return Candidate(f"{number}", family, complete, weights)


def estimate(candidates: list[Candidate], estimator: str = "tbptt", **genes: Value) -> list[Tree]:
    """The meta-gradient of the first episode, in float64, of each candidate."""
    meta = {**BILEVEL, **{f"meta.{name}": value for name, value in genes.items()}}
    complete = meta_genes({"meta.estimator": estimator, **meta})
    cohort = Cohort.of(candidates, DEVICE, torch.float64)
    own = tuple(complete for _ in candidates)
    problem = MetaProblem(cohort, own, (STREAM,), DEVICE, torch.float64)
    found = ESTIMATORS[estimator].begin(problem).estimate(cohort.weights).grads
    return [{name: value[i].cpu() for name, value in found.items()} for i in range(len(candidates))]


def first_part(**genes: Value) -> Part:
    complete = meta_genes({"meta.estimator": "tbptt", **BILEVEL, **genes})
    (part,) = draw_episode(STREAM, 0, complete, torch.device("cpu"), torch.float64).parts
    return part


def plain_maml(start: Tensor, *, second_order: bool, judged: str = "last", rows: str = "valid") -> Tensor:
    """∇φ of the tasks' mean loss after K = 3 steps of gradient descent from φ, one task after another."""
    part, phi = first_part(), start.double().clone().requires_grad_()
    values = []
    for task in range(3):

        def batch(rows: Tensor, task: int = task) -> dict[str, Tensor]:
            return {name: value[task] for name, value in part.tasks.batch(rows).items()}

        params: Tensor = phi
        for step in range(3):
            loss = part.tasks.loss(params, batch(part.indices[:, step]))
            (grad,) = torch.autograd.grad(loss, params, create_graph=second_order)
            params = params - RATE * grad
            query = part.tasks.valid_rows if rows == "valid" else part.indices[:, step + 1]
            if judged == "all" or step == 2:
                values.append(part.tasks.loss(params, batch(query)))
    return torch.autograd.grad(torch.stack(values).mean(), phi)[0]


@pytest.mark.parametrize("second_order", [True, False], ids=["maml", "fomaml"])
def test_meta_gradient_equals_a_plain_loop(second_order: bool) -> None:
    """Two candidates at once, each with its own start."""
    pair = [candidate(0), candidate(1)]
    for one, found in zip(pair, estimate(pair, second_order=second_order), strict=True):
        expected = plain_maml(one.weights["init.params"], second_order=second_order)
        torch.testing.assert_close(found["init.params"], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("loss", ["mean", "last"])
@pytest.mark.parametrize("rows", ["train", "valid"])
def test_it_is_judged_on_the_rows_and_steps_that_the_genes_say(loss: str, rows: str) -> None:
    one = candidate()
    (found,) = estimate([one], second_order=True, loss=loss, judged_on=rows)
    judged = "all" if loss == "mean" else "last"
    expected = plain_maml(one.weights["init.params"], second_order=True, judged=judged, rows=rows)
    torch.testing.assert_close(found["init.params"], expected, rtol=1e-9, atol=1e-11)


def test_first_order_maml_is_the_gradient_at_the_trained_params() -> None:
    """FOMAML leaves the derivative of the steps out (Finn et al. 2017, section 5.2): ∇L(θ_K)."""
    one, part = candidate(), first_part()
    params = one.weights["init.params"].double().repeat(3, 1)

    def grads(rows: Tensor) -> Tensor:
        assert part.tasks.loss_and_grad is not None
        return part.tasks.loss_and_grad(params.unsqueeze(0), part.tasks.batch(rows))[1][0]

    for step in range(3):
        params = params - RATE * grads(part.indices[:, step])
    (found,) = estimate([one], second_order=False)
    expected = grads(part.tasks.valid_rows).mean(dim=0)
    torch.testing.assert_close(found["init.params"], expected, rtol=1e-9, atol=1e-11)


def test_a_segment_that_does_not_begin_a_training_says_nothing_of_its_start() -> None:
    complete = meta_genes({"meta.estimator": "tbptt", **BILEVEL, "meta.second_order": True})
    cohort = Cohort.of([candidate()], DEVICE, torch.float64)
    cut = {**complete, "meta.truncation": 2}
    session = ESTIMATORS["tbptt"].begin(MetaProblem(cohort, (cut,), (STREAM,), DEVICE, torch.float64))
    first, second, third = (session.estimate(cohort.weights).grads["init.params"] for _ in range(3))
    assert first.abs().max() > 0
    assert second.abs().max() == 0
    assert third.abs().max() > 0


@pytest.mark.parametrize("family", ["sgd", "meta_lstm", "recurrent"])
@pytest.mark.parametrize("rows", ["train", "valid"])
@pytest.mark.parametrize("second_order", [True, False])
def test_every_way_through_memory_gives_the_same_bits(family: str, rows: str, second_order: bool) -> None:
    pair = [candidate(number, family, init_rates="coordinate") for number in range(2)]
    cohort, part = Cohort.of(pair, DEVICE), first_part()
    single = replace(
        part,
        tasks=part.tasks.to(DEVICE),
        params=part.params.float().to(DEVICE),
        indices=part.indices.to(DEVICE),
    )
    groups = [[single.of(slice(0, 2)), single.of(slice(2, 3))]]
    found = [
        backpropagate(cohort, groups, None, 3, 3, Objective(kind, second_order, rows), way)
        for kind in ("last", "log_mean")
        for way in (Way(False), Way(True), Way(True, steps_at_once=2), Way(True, steps_at_once=1))
    ]
    for ways in (found[:4], found[4:]):
        assert all(bool(ways[0].grads[f"init.{name}"].abs().max() > 0) for name in ("params", "rates"))
        for other in ways[1:]:
            for name, grad in ways[0].grads.items():
                assert torch.equal(grad, other.grads[name]), name
            assert torch.equal(ways[0].losses[0], other.losses[0])


def test_reptile_is_the_start_minus_the_mean_of_what_training_reaches() -> None:
    one, part = candidate(init_rates="coordinate"), first_part()
    assert part.indices is not None
    params = one.weights["init.params"].double().repeat(3, 1)
    for step in range(3):
        assert part.tasks.loss_and_grad is not None
        batch = part.tasks.batch(part.indices[:, step])
        params = params - RATE * part.tasks.loss_and_grad(params.unsqueeze(0), batch)[1][0]
    (found,) = estimate([one], "reptile", truncation=5)
    expected = one.weights["init.params"].double() - params.mean(dim=0)
    torch.testing.assert_close(found["init.params"], expected, rtol=1e-9, atol=1e-11)
    assert not found["init.rates"].any()


def test_reptile_refuses_what_has_no_learned_initialisation() -> None:
    with pytest.raises(GenomeError, match='trains genomes of init = "learned" alone'):
        estimate([candidate(init="drawn", schedule="recurrent")], "reptile")


def test_meta_sgd_with_rates_of_one_is_maml_bit_for_bit() -> None:
    """Fresh rates are 1 (Li et al. 2017, equation 5, with α = lr·ρ); their own gradient is not 0."""
    maml, meta_sgd = candidate(), candidate(init_rates="coordinate")
    (one,) = estimate([maml], second_order=True)
    (other,) = estimate([meta_sgd], second_order=True)
    assert torch.equal(one["init.params"], other["init.params"])
    assert other["init.rates"].abs().max() > 0


def test_anil_steps_the_last_layer_alone() -> None:
    """Raghu et al. 2020: the body is learned, and stays as it is in the inner loop."""
    anil, part = candidate(init_adapts="last_layer"), first_part()
    single = replace(part, tasks=part.tasks.to(DEVICE))
    cohort = Cohort.of([anil], DEVICE)
    carry = begin(cohort, part.tasks.layout, torch.zeros((3, 22), device=DEVICE), delay=0)
    assert single.indices is not None
    losses, grads = loss_and_grad(
        single.tasks, carry.params, single.tasks.batch(single.indices[:, 0].to(DEVICE))
    )
    after = advance(cohort, part.tasks.layout, carry, losses, grads, 3).params
    body = slice(0, 22 - 4)
    assert torch.equal(after[..., body], carry.params[..., body])
    torch.testing.assert_close(after[..., 18:], (carry.params - RATE * grads)[..., 18:])
    (found,) = estimate([anil], second_order=True)
    assert found["init.params"][body].abs().max() > 0
