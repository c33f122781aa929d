from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from evometa.errors import TaskError
from evometa.native.tasks import Target
from evometa.rng import torch_generator
from evometa.tasks.mlp_model import ACTIVATIONS, MLP, init_stds

P, T, B = 3, 2, 5


def setting(model: MLP) -> tuple[Tensor, dict[str, Tensor]]:
    """Float64 params (P, T, N) and a batch; the parameters are large enough to reach every nonlinearity."""
    generator = torch_generator(0, "mlp")
    params = 0.7 * torch.randn((P, T, model.layout.size), generator=generator).double()
    x = torch.randn((T, B, model.sizes[0]), generator=generator).double()
    if model.target == "class":
        return params, {"x": x, "y": torch.randint(model.sizes[-1], (T, B), generator=generator)}
    shape = (T, B) if model.target == "value" else (T, B, model.sizes[-1])
    return params, {"x": x, "y": torch.randn(shape, generator=generator).double()}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize(("target", "n_outputs"), [("class", 3), ("value", 1), ("values", 3)])
def test_hand_batched_gradient_equals_autograd(
    activation: str, depth: int, target: Target, n_outputs: int
) -> None:
    model = MLP((4, *[6] * depth, n_outputs), activation, "xavier", target)
    params, batch = setting(model)
    grads, losses = vmap(vmap(grad_and_value(model.loss)), (0, None))(params, batch)
    got_losses, got_grads = model.loss_and_grad(params, batch)
    torch.testing.assert_close(got_losses, losses, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got_grads, grads, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("target", "n_outputs"), [("class", 3), ("value", 1), ("values", 3)])
def test_second_derivatives_pass_through_the_hand_batched_gradient(
    activation: str, target: Target, n_outputs: int
) -> None:
    """A Hessian-vector product through loss_and_grad equals the one through the plain loss."""
    model = MLP((4, 6, 5, n_outputs), activation, "xavier", target)
    params, batch = setting(model)
    vector = torch.randn(params.shape, generator=torch_generator(1)).double()

    point = params.clone().requires_grad_()
    losses, grads = model.loss_and_grad(point, batch)
    (got,) = torch.autograd.grad((grads * vector).sum() + losses.sum(), point)

    plain = params.clone().requires_grad_()
    total = vmap(vmap(model.loss), (0, None))(plain, batch).sum()
    (slope,) = torch.autograd.grad(total, plain, create_graph=True)
    (expected,) = torch.autograd.grad((slope * vector).sum(), plain)
    torch.testing.assert_close(got, expected + slope.detach(), rtol=1e-11, atol=1e-11)


def test_neither_parameters_nor_data_are_edited() -> None:
    model = MLP((4, 6, 3), "relu", "xavier", "class")
    params, batch = setting(model)
    before = params.clone(), {name: value.clone() for name, value in batch.items()}
    model.loss_and_grad(params, batch)
    assert torch.equal(params, before[0])
    assert all(torch.equal(batch[name], value) for name, value in before[1].items())


def test_equals_the_torch_module_of_the_same_parameters() -> None:
    model = MLP((4, 6, 3), "gelu", "xavier", "class")
    params, batch = setting(model)
    module = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)).double()
    tensors = model.layout.views(params[0, 0])
    names = {"0.weight": "0.weight", "0.bias": "0.bias", "1.weight": "2.weight", "1.bias": "2.bias"}
    module.load_state_dict({theirs: tensors[ours] for ours, theirs in names.items()})
    expected = nn.functional.cross_entropy(module(batch["x"][0]), batch["y"][0])
    torch.testing.assert_close(model.loss(params[0, 0], {k: v[0] for k, v in batch.items()}), expected)


@pytest.mark.parametrize(
    ("init", "weight_std", "bias_std"),
    [
        ("kaiming", math.sqrt(2 / 100), 0.0),
        ("xavier", math.sqrt(2 / 150), 0.0),
        ("normal(0.01)", 0.01, 0.01),
        ("normal(1e-3)", 1e-3, 1e-3),
    ],
)
def test_initial_parameters_have_the_named_spread(init: str, weight_std: float, bias_std: float) -> None:
    model = MLP((100, 50, 10), "relu", init, "class")
    tensors = model.layout.views(model.init_params(40, torch_generator(0)))
    assert float(tensors["0.weight"].std()) == pytest.approx(weight_std, rel=0.02)
    assert float(tensors["0.bias"].std()) == pytest.approx(bias_std, rel=0.1)
    assert float(tensors["0.weight"].mean()) == pytest.approx(0, abs=0.01 * weight_std)


@pytest.mark.parametrize("init", ["he", "normal", "normal()", "normal(-1)", "normal(1", "kaiming "])
def test_unknown_inits_are_refused(init: str) -> None:
    with pytest.raises(TaskError, match="normal\\(STD\\)"):
        init_stds(init, 3, 4)


def test_description_names_sizes_activation_and_init() -> None:
    assert MLP((64, 32, 10), "relu", "kaiming", "class").description == "MLP 64-32-10 relu kaiming"
    assert MLP((64, 10), "relu", "kaiming", "class").description == "linear 64-10 kaiming"
