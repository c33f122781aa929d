"""Linear models: their optima are scikit-learn's."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import HuberRegressor, LogisticRegression
from torch import Tensor
from torch.func import grad, vmap

from evometa.errors import TaskError
from evometa.rng import torch_generator
from evometa.tasks import linear_models
from evometa.tasks.base import TaskBatch
from evometa.tasks.linear_models import DIMS, NOISE_FLOOR, LinearModels, minimum

N_ROWS, L2 = 64, 1e-2


def _batch(kind: str) -> TaskBatch:
    family = LinearModels(kinds=(kind,), dims=(6,), n_rows=N_ROWS, l2=L2)  # type: ignore[arg-type]
    (batch,) = family.sample("meta_test", 3, torch_generator(0))
    return batch


def _double(batch: TaskBatch) -> dict[str, Tensor]:
    return batch.to(torch.device("cpu"), torch.float64).batch(None)


def test_logistic_optimum_is_scikit_learns() -> None:
    batch = _batch("logistic")
    weights, _ = minimum("logistic", batch.constants["x"], batch.constants["y"], L2)
    for t in range(batch.n_tasks):
        x, y = (batch.constants[name][t].double().numpy() for name in ("x", "y"))
        peer = LogisticRegression(C=1 / (L2 * N_ROWS), fit_intercept=False, tol=1e-12, max_iter=10_000)
        found = torch.tensor(peer.fit(x, y).coef_[0])
        torch.testing.assert_close(weights[t], found, rtol=1e-4, atol=1e-5)


def test_huber_optimum_is_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """It estimates the residuals' scale σ as well; given σ, its weights minimise Huber's loss at δ = εσ.

    It weighs rows by Σ (2/σ)·huber(r) against alpha·‖w‖², so l2 = alpha·σ/n.
    """
    batch = _batch("huber")
    for t in range(batch.n_tasks):
        x, y = batch.constants["x"][t].double(), batch.constants["y"][t].double()
        peer = HuberRegressor(epsilon=1.35, alpha=0.5, fit_intercept=False, tol=1e-10, max_iter=100_000)
        peer.fit(x.numpy(), y.numpy())
        monkeypatch.setattr(linear_models, "DELTA", 1.35 * float(peer.scale_))
        l2 = 0.5 * float(peer.scale_) / N_ROWS
        weights, _ = minimum("huber", x.unsqueeze(0), y.unsqueeze(0), l2)
        torch.testing.assert_close(weights[0], torch.tensor(peer.coef_), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["logistic", "huber"])
def test_the_loss_is_the_excess_over_the_optimum(kind: str) -> None:
    batch = _batch(kind)
    rows = _double(batch)
    weights, optimum = minimum(kind, batch.constants["x"], batch.constants["y"], L2)  # type: ignore[arg-type]
    at_optimum = vmap(batch.loss)(weights, rows)
    # as exact as the optimum is in float32
    torch.testing.assert_close(at_optimum, torch.full_like(at_optimum, NOISE_FLOOR), rtol=0, atol=2e-7)
    assert float(vmap(grad(batch.loss))(weights, rows).abs().max()) < 1e-6
    nearby = weights + 0.1 * torch.randn(weights.shape, generator=torch_generator(1), dtype=torch.float64)
    assert bool((vmap(batch.loss)(nearby, rows) > at_optimum).all())
    assert bool((optimum > 0).all())


def test_huber_loss_is_pytorchs() -> None:
    generator = torch_generator(0)
    output, target = (torch.randn(100, generator=generator, dtype=torch.float64) for _ in range(2))
    found = linear_models.ROW_LOSSES["huber"].value(output, target).mean()
    expected = torch.nn.functional.huber_loss(output, target, delta=linear_models.DELTA)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_both_kinds_and_all_numbers_of_features_are_drawn() -> None:
    for split, dims in DIMS.items():
        seen = set()
        for batch in LinearModels().sample(split, 24, torch_generator(0)):
            seen.add((batch.description.split()[0], batch.layout.size))
        assert {kind for kind, _ in seen} == {"logistic", "huber"}
        assert {dim for _, dim in seen} == set(dims)
    assert len({dim for dims in DIMS.values() for dim in dims}) == sum(map(len, DIMS.values()))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"kinds": ("ridge",)},
            r"'kinds' is \('ridge',\); allowed: a non-empty list out of 'logistic', 'huber'",
        ),
        ({"n_rows": 1}, r"'n_rows' is 1; allowed: an integer of at least 2"),
        ({"l2": 0.0}, r"'l2' is 0.0; allowed: a number above 0"),
    ],
)
def test_refuses_options_with_what_is_allowed(options: dict[str, object], text: str) -> None:
    with pytest.raises(TaskError, match=text):
        LinearModels(**options)  # type: ignore[arg-type]
