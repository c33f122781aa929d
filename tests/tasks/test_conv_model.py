from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from evometa.rng import torch_generator
from evometa.tasks.conv_model import ConvNet
from evometa.tasks.mlp_model import ACTIVATIONS

P, T, B = 3, 2, 5


def setting(model: ConvNet) -> tuple[Tensor, dict[str, Tensor]]:
    """Float64 params (P, T, N) and a batch."""
    generator = torch_generator(0, "conv")
    params = 0.4 * torch.randn((P, T, model.layout.size), generator=generator).double()
    x = torch.rand((T, B, model.side**2), generator=generator).double()
    return params, {"x": x, "y": torch.randint(model.n_classes, (T, B), generator=generator)}


def test_is_a_stack_of_pytorch_layers() -> None:
    model = ConvNet(8, (3, 6), 4, "tanh", "xavier")
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(24, 4),
    )
    assert [tuple(p.shape) for p in module.parameters()] == [s.shape for s in model.layout.segments]
    params, batch = setting(model)
    flat = params[0, 0].float()
    torch.nn.utils.vector_to_parameters(flat, module.parameters())
    x, y = batch["x"][0].float(), batch["y"][0]
    expected = nn.functional.cross_entropy(module(x.reshape(B, 1, 8, 8)), y)
    torch.testing.assert_close(model.loss(flat, {"x": x, "y": y}), expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("channels", [(3,), (2, 3), (2, 3, 4)])
def test_hand_batched_gradient_equals_autograd(activation: str, channels: tuple[int, ...]) -> None:
    model = ConvNet(8, channels, 3, activation, "xavier")
    params, batch = setting(model)
    grads, losses = vmap(vmap(grad_and_value(model.loss)), (0, None))(params, batch)
    got_losses, got_grads = model.loss_and_grad(params, batch)
    torch.testing.assert_close(got_losses, losses, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got_grads, grads, rtol=1e-12, atol=1e-12)


def test_second_derivatives_pass_through_the_hand_batched_gradient() -> None:
    """A Hessian-vector product through loss_and_grad equals the one through the plain loss."""
    model = ConvNet(8, (2, 3), 3, "tanh", "xavier")
    params, batch = setting(model)
    vector = torch.randn(params.shape, generator=torch_generator(1)).double()

    point = params.clone().requires_grad_()
    _, grads = model.loss_and_grad(point, batch)
    (got,) = torch.autograd.grad((grads * vector).sum(), point)

    plain = params.clone().requires_grad_()
    total = vmap(vmap(model.loss), (0, None))(plain, batch).sum()
    (slope,) = torch.autograd.grad(total, plain, create_graph=True)
    (expected,) = torch.autograd.grad((slope * vector).sum(), plain)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("init", "first", "last"),
    [("kaiming", (2 / 9) ** 0.5, (2 / 1600) ** 0.5), ("xavier", (2 / (9 + 3600)) ** 0.5, (2 / 1610) ** 0.5)],
)
def test_initial_spread_is_that_of_the_fans(init: str, first: float, last: float) -> None:
    model = ConvNet(4, (400,), 10, "relu", init)
    tensors = model.layout.views(model.init_params(2, torch_generator(0)))
    assert float(tensors["0.weight"].std()) == pytest.approx(first, rel=0.05)
    assert float(tensors["1.weight"].std()) == pytest.approx(last, rel=0.05)
    assert not tensors["0.bias"].any()
    assert not tensors["1.bias"].any()
