"""Sparse recovery: its optimum is scikit-learn's, and ISTA and FISTA recover as well as published."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import Lasso
from torch.func import grad, vmap

from evometa.errors import TaskError
from evometa.inner.cohort import Candidate
from evometa.inner.evaluate import evaluate
from evometa.inner.task_set import request
from evometa.rng import torch_generator
from evometa.rules import RULES
from evometa.rules.learner_structure import learner_space
from evometa.tasks.sparse_recovery import NOISE_FLOOR, SparseRecovery, lasso_minimum

CPU = torch.device("cpu")


def test_optimum_is_scikit_learns() -> None:
    (batch,) = SparseRecovery().sample("meta_train", 3, torch_generator(0))
    matrix, measured = batch.constants["A"], batch.constants["b"]
    _, optimum = lasso_minimum(matrix, measured, 0.1)
    for t in range(3):
        peer = Lasso(alpha=0.1 / matrix.shape[1], fit_intercept=False, tol=1e-12, max_iter=100_000)
        peer.fit(matrix[t].double().numpy(), measured[t].double().numpy())
        found = torch.tensor(peer.coef_)
        value = 0.5 * (matrix[t].double() @ found - measured[t]).square().sum() + 0.1 * found.abs().sum()
        assert float(optimum[t]) == pytest.approx(float(value), abs=2e-7)
        rows = {name: rows[t].double() for name, rows in batch.batch(None).items()}
        assert float(batch.loss(found, rows)) == pytest.approx(NOISE_FLOOR, abs=5e-7)


def test_draws_are_those_of_the_setting() -> None:
    (batch,) = SparseRecovery(measure="nmse").sample("meta_train", 400, torch_generator(0))
    truth = batch.constants["truth"]
    assert float((truth != 0).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert float(truth[truth != 0].std()) == pytest.approx(1.0, abs=0.05)
    norms = torch.linalg.vector_norm(batch.constants["A"], dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    start = batch.init_params(torch_generator(0))
    assert bool((start == 0).all())
    assert float(vmap(batch.loss)(start, batch.batch(None)).min()) == pytest.approx(1.0, rel=1e-5)


def test_no_draw_is_too_faint_for_the_penalty() -> None:
    (batch,) = SparseRecovery(dim=8, n_measurements=8, density=0.01).sample(
        "meta_train", 50, torch_generator(0)
    )
    losses = vmap(batch.loss)(batch.init_params(torch_generator(0)), batch.batch(None))
    assert float(losses.min()) > 100 * NOISE_FLOOR


def test_with_nmse_the_value_is_the_recovery_and_the_gradient_that_of_least_squares() -> None:
    (batch,) = SparseRecovery(measure="nmse").sample("meta_train", 2, torch_generator(0))
    rows = batch.to(CPU, torch.float64).batch(None)
    params = torch.randn((2, 64), generator=torch_generator(0), dtype=torch.float64)
    expected = (params - rows["truth"]).square().sum(1) / rows["truth"].square().sum(1)
    torch.testing.assert_close(vmap(batch.loss)(params, rows), expected)
    residual = (rows["A"] @ params.unsqueeze(-1)).squeeze(-1) - rows["b"]
    gradient = (rows["A"].mT @ residual.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(vmap(grad(batch.loss))(params, rows), gradient)


def test_ista_and_fista_recover_as_published() -> None:
    """250 × 500, λ = 0.1: −5.4 and −15.4 dB after 16 and 100 iterations; FISTA −10.3 and −16.8.

    The step is 1/‖A‖² on average, since one rate serves all tasks. FISTA's figures are those of x, here it is
    y that is measured, which is half a decibel ahead.
    """
    options = {"n_measurements": 250, "dim": 500, "measure": "nmse"}
    wanted = request("sparse_recovery", options, "meta_test", 12, 101, seed=0)
    (batch,) = SparseRecovery(**options).sample("meta_test", 12, torch_generator(0))  # type: ignore[arg-type]
    lr = 1 / float(torch.linalg.matrix_norm(batch.constants["A"], 2).square().mean())
    space = learner_space(RULES["proximal"])
    figures = {"none": (-5.4, -15.4), "fista": (-10.3, -16.8)}
    for acceleration, expected in figures.items():
        genes = space.complete(
            {
                "lr": lr,
                "threshold": 0.1,
                "penalty": "in_rule",
                "acceleration": acceleration,
                "schedule": "constant",
            }
        )
        losses = evaluate([Candidate("", "proximal", genes, {})], wanted, CPU).losses[0]
        decibels = 10 * torch.log10(torch.tensor(losses[:, [16, 100]]).mean(0))
        assert decibels.tolist() == pytest.approx(expected, abs=0.8), acceleration


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"measure": "mse"}, r"'measure' is 'mse'; allowed: one of 'excess', 'nmse'"),
        ({"density": 0}, r"'density' is 0; allowed: a number above 0 and at most 1"),
        ({"dim": 1}, r"'dim' is 1; allowed: an integer of at least 2"),
    ],
)
def test_refuses_options_with_what_is_allowed(options: dict[str, object], text: str) -> None:
    with pytest.raises(TaskError, match=text):
        SparseRecovery(**options)  # type: ignore[arg-type]
