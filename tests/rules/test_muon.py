"""Muon is torch.optim.Muon on matrices, and torch.optim.AdamW on all else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules.base import StepContext
from evometa.rules.muon import COEFFICIENTS, MuonFamily, matrices, orthogonalised
from evometa.trees import Tree

SHAPES = {"0": (6, 4), "0.bias": (6,), "1": (6, 6), "norm": (6,), "2": (6, 6), "row": (1, 5), "3": (2, 2, 3)}
LAYOUT = Layout.of(SHAPES)
MATRICES = ("0", "1", "2", "3")
LR, MOMENTUM, ADAM_LR, DECAY = 0.02, 0.9, 0.003, 0.05


def _gradients(n: int) -> list[Tensor]:
    generator = torch_generator(0)
    return [torch.randn(1, LAYOUT.size, generator=generator) for _ in range(n)]


def _trained(genes: dict[str, object], grads: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Params ``(1, N)`` after a step along each of ``grads``."""
    family = MuonFamily()
    complete = family.space.complete(
        genes | {"lr": LR, "one_minus_momentum": 1 - MOMENTUM, "adam_lr": ADAM_LR, "weight_decay": DECAY}  # type: ignore[arg-type]
    )
    rule = family.build(complete)
    hyper: Tree = {
        name: torch.tensor(value, dtype=dtype) for name, value in family.space.continuous(complete).items()
    }
    params = torch.linspace(-1, 1, LAYOUT.size, dtype=dtype).unsqueeze(0)
    state = rule.init_state({}, params, LAYOUT)
    for k, grad in enumerate(grads):
        context = StepContext(LAYOUT, torch.tensor(float(k)), torch.tensor(20.0), None)
        step, state = rule.update({}, hyper, state, grad.to(dtype), params, context)
        params = params + step
    return params


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
def test_equals_torch(nesterov: bool, scale: str) -> None:
    """To the digits that PyTorch's bfloat16 leaves it; what is in no matrix to all."""
    grads = _gradients(4)
    start = LAYOUT.views(torch.linspace(-1, 1, LAYOUT.size))
    own = {
        name: nn.Parameter((value.flatten(1) if name in MATRICES else value).clone())
        for name, value in start.items()
    }
    muon = torch.optim.Muon(
        [own[name] for name in MATRICES],
        lr=LR,
        momentum=MOMENTUM,
        nesterov=nesterov,
        weight_decay=DECAY,
        adjust_lr_fn=scale,
    )
    adamw = torch.optim.AdamW(
        [value for name, value in own.items() if name not in MATRICES], lr=ADAM_LR, weight_decay=DECAY
    )
    for grad in grads:
        for name, value in LAYOUT.views(grad[0]).items():
            own[name].grad = value.reshape(own[name].shape)
        muon.step()
        adamw.step()
    ended = LAYOUT.views(_trained({"nesterov": nesterov, "scale": scale}, grads, torch.float32)[0])
    for name, value in own.items():
        moved = (value - start[name].reshape(value.shape)).detach()
        difference = (ended[name].reshape(value.shape) - value).detach()
        assert difference.norm() <= (0.05 if name in MATRICES else 1e-4) * moved.norm()


def test_equals_a_loop_in_numpy() -> None:
    """The paper's iteration, matrix by matrix, in float64."""
    grads = _gradients(5)
    ended = LAYOUT.views(_trained({}, grads, torch.float64)[0])
    a, b, c = COEFFICIENTS
    for name in MATRICES:
        start = LAYOUT.views(torch.linspace(-1, 1, LAYOUT.size, dtype=torch.float64))[name]
        theta = start.numpy().reshape(start.shape[0], -1)
        average = np.zeros_like(theta)
        for grad in grads:
            g = LAYOUT.views(grad[0].double())[name].numpy().reshape(theta.shape)
            average = MOMENTUM * average + (1 - MOMENTUM) * g
            x = MOMENTUM * average + (1 - MOMENTUM) * g
            x = x / np.linalg.norm(x)
            for _ in range(5):
                left = x @ x.T
                x = a * x + (b * left + c * left @ left) @ x
            scale = max(1.0, theta.shape[0] / theta.shape[1]) ** 0.5
            theta = theta - LR * (scale * x + DECAY * theta)
        np.testing.assert_allclose(ended[name].numpy().reshape(theta.shape), theta, rtol=0, atol=1e-9)


def test_steps_are_nearly_orthogonal() -> None:
    """Singular values as the paper's coefficients bound them, but for those that begin near zero."""
    wide = torch.randn(3, 8, 20, generator=torch_generator(0))
    for matrix in (wide, wide.mT):
        values = torch.linalg.svdvals(orthogonalised(matrix))
        assert values.min() > 0.6
        assert values.max() < 1.25


def test_what_counts_as_a_matrix() -> None:
    """Kernels of convolutions do; a single row does not, and keeps the second moments that Adam needs."""
    assert matrices(LAYOUT) == ((6, 4, (0,)), (6, 6, (2, 4)), (2, 6, (6,)))
    rule = MuonFamily().build(MuonFamily().space.complete({}))
    assert rule.init_state({}, torch.zeros(2, LAYOUT.size), LAYOUT)["second"].shape == (2, 6 + 6 + 5)


def test_words_name_its_settings() -> None:
    family = MuonFamily()
    genes = family.space.complete({"lr": 0.0123, "adam_lr": 0.00456, "scale": "match_rms_adamw"})
    for text in (family.describe(genes), family.formula(genes)):
        assert "0.0123" in text
        assert "0.00456" in text
    assert "0.2·√max(rows, columns)" in family.formula(genes)
