"""Proximal rules are the textbook's ISTA and FISTA."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules.base import StepContext
from evometa.rules.proximal import ProximalFamily
from evometa.tasks.sparse_recovery import SparseRecovery

N_STEPS, PENALTY, RATE = 40, 0.1, 0.15
LAYOUT = Layout.of({"x": (64,)})


def _textbook(matrix: np.ndarray, measured: np.ndarray, accelerated: bool) -> list[np.ndarray]:
    """The points at which the gradient is taken: x of ISTA, y of FISTA (Beck & Teboulle 2009)."""
    x = y = np.zeros(matrix.shape[1])
    t, points = 1.0, []
    for _ in range(N_STEPS):
        z = y - RATE * matrix.T @ (matrix @ y - measured)
        x_next = np.sign(z) * np.maximum(np.abs(z) - RATE * PENALTY, 0.0)
        t_next = (1 + np.sqrt(1 + 4 * t**2)) / 2
        y = x_next + (t - 1) / t_next * (x_next - x) if accelerated else x_next
        x, t = x_next, t_next
        points.append(y)
    return points


@pytest.mark.parametrize("acceleration", ["none", "fista"])
@pytest.mark.parametrize(("penalty", "measure"), [("in_loss", "excess"), ("in_rule", "nmse")])
def test_equals_the_textbook(acceleration: str, penalty: str, measure: str) -> None:
    """Whether the penalty is in the gradients of autograd or not."""
    family = ProximalFamily()
    rule = family.build(family.space.complete({"acceleration": acceleration, "penalty": penalty}))
    hyper = {"lr": torch.tensor(RATE).double(), "threshold": torch.tensor(PENALTY).double()}
    tasks = SparseRecovery(penalty=PENALTY, measure=measure)  # type: ignore[arg-type]
    (batch,) = tasks.sample("meta_train", 1, torch_generator(0))
    rows = {name: value[0].double() for name, value in batch.batch(None).items()}
    params = batch.init_params(torch_generator(0)).double()
    state = rule.init_state({}, params, LAYOUT)
    expected = _textbook(rows["A"].numpy(), rows["b"].numpy(), acceleration == "fista")
    zeros = 0
    for k in range(N_STEPS):
        point = params[0].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(batch.loss(point, rows), point)
        context = StepContext(LAYOUT, params.new_tensor(k), params.new_tensor(N_STEPS), None)
        step, state = rule.update({}, hyper, state, gradient.unsqueeze(0), params, context)
        params = params + step
        np.testing.assert_allclose(params[0].numpy(), expected[k], rtol=0, atol=1e-6)
        zeros += int((params == 0).sum())
    assert zeros > N_STEPS * 10  # it is exactly zero that most entries become


def test_words_name_what_it_does() -> None:
    family = ProximalFamily()
    genes = family.space.complete({"acceleration": "fista", "lr": 0.25, "threshold": 0.5})
    assert "looks ahead as FISTA does" in family.describe(genes)
    assert "p = sign(z)·max(|z| − 0.25·0.5, 0)" in family.formula(genes)
    plain = family.space.complete({"penalty": "in_rule"})
    assert "sign(θ)" not in family.formula(plain)
    assert family.formula(plain).endswith("Δ = p − θ")
