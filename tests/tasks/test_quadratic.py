from __future__ import annotations

import math

import pytest
import torch
from torch.func import vmap

from evometa.errors import TaskError
from evometa.rng import torch_generator
from evometa.tasks.quadratic import CONDITIONS, Quadratic


@pytest.mark.parametrize(
    ("kind", "expected", "published"),
    [
        # E‖Wx − y‖² = d·d + d for standard normal W, x and y.
        ("l2l", 110.0, 106.0),
        # E y² = 1/3 a coordinate, and E (W x)² = 10·(1/3)·1e-4.
        ("open_l2o", 10 / 3 + 10 * 10 / 3 * 1e-4, 3.35),
    ],
)
def test_mean_initial_loss_is_that_of_the_literature(kind: str, expected: float, published: float) -> None:
    n_tasks, n_published = 20_000, 512
    (batch,) = Quadratic(kind=kind).sample("meta_test", n_tasks, torch_generator(0, "tasks"))  # type: ignore[arg-type]
    losses = vmap(batch.loss)(batch.init_params(torch_generator(0, "init")), batch.batch(None))
    deviation = float(losses.std())
    assert float(losses.mean()) == pytest.approx(expected, abs=4 * deviation / math.sqrt(n_tasks))
    assert published == pytest.approx(expected, abs=3 * deviation / math.sqrt(n_published))


def test_the_loss_is_exact() -> None:
    (batch,) = Quadratic(dim=3).sample("meta_train", 4, torch_generator(0))
    assert batch.index_stream(5, torch_generator(0)) is None
    assert batch.valid_batch() is None
    assert batch.final_window == 1
    solution = torch.linalg.solve(batch.constants["W"].double(), batch.constants["y"].double())
    moved = batch.to(torch.device("cpu"), torch.float64)
    assert (vmap(batch.loss)(solution, moved.batch(None)) < 1e-15).all()


def test_second_order_meta_gradients_pass_through() -> None:
    """One step x₁ = x₀ − αg: dL/dα = −∇L(x₁)·g, with the closed form of the gradient."""
    (batch,) = Quadratic(dim=4).sample("meta_train", 2, torch_generator(0))
    rows = batch.to(torch.device("cpu"), torch.float64).batch(None)
    start = batch.init_params(torch_generator(0)).double().unsqueeze(0)
    rate = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    assert batch.loss_and_grad is not None
    _, grads = batch.loss_and_grad(start, rows)
    moved = start - rate * grads
    losses, next_grads = batch.loss_and_grad(moved, rows)
    (slope,) = torch.autograd.grad(losses.sum(), rate)
    assert float(slope) == pytest.approx(float(-(next_grads * grads).detach().sum()), rel=1e-10)


def test_conditioned_quadratics_have_the_condition_numbers_of_their_split() -> None:
    for split, (low, high) in CONDITIONS.items():
        (batch,) = Quadratic(kind="conditioned").sample(split, 200, torch_generator(0))
        weight = batch.constants["W"].double()
        eigenvalues = torch.linalg.eigvalsh(2 * weight.mT @ weight)
        torch.testing.assert_close(eigenvalues[:, -1], torch.ones_like(eigenvalues[:, -1]), rtol=1e-5, atol=0)
        condition = eigenvalues[:, -1] / eigenvalues[:, 0]
        assert low * (1 - 1e-3) <= float(condition.min()) < 1.2 * low
        assert high / 1.2 < float(condition.max()) <= high * (1 + 1e-3)
        solution = torch.linalg.solve(weight, batch.constants["y"].double())
        assert (
            float(
                vmap(batch.to(torch.device("cpu"), torch.float64).loss)(
                    solution, {"W": weight, "y": batch.constants["y"].double()}
                ).max()
            )
            < 1e-15
        )
        assert float(solution.std()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kind": "l2o"}, r"'kind' is 'l2o'; allowed: one of 'l2l', 'open_l2o', 'conditioned'"),
        ({"condition": (1.0, 9.0)}, r"'condition' is .*; allowed: left out unless kind = \"conditioned\""),
        ({"kind": "conditioned", "condition": (0.5, 9.0)}, r"'condition' is .*numbers of at least 1"),
        ({"dim": 0}, r"'dim' is 0; allowed: an integer of at least 1"),
        ({"dim": 2.0}, r"'dim' is 2.0"),
        ({"dim": True}, r"'dim' is True"),
    ],
)
def test_refuses_options_with_what_is_allowed(options: dict[str, object], text: str) -> None:
    with pytest.raises(TaskError, match=text):
        Quadratic(**options)  # type: ignore[arg-type]
