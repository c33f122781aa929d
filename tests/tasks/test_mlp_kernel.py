"""The native losses and gradients of perceptrons against those of PyTorch."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from torch import Tensor

from evometa import native
from evometa.native.tasks import Target
from evometa.rng import torch_generator
from evometa.tasks import mlp_kernel
from evometa.tasks.mlp_model import ACTIVATIONS, MLP
from evometa.tasks.neural_fields import Siren

P, T = 3, 2


@pytest.fixture(scope="module", autouse=True)
def kernel() -> None:
    if not native.enabled() or shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("needs native kernels and a C++ compiler")
    assert native.why_unavailable("task_mlp") is None


def setting(
    model: MLP, n_rows: int, dtype: torch.dtype = torch.float64, spread: float = 0.7
) -> tuple[Tensor, dict[str, Tensor]]:
    """Params (P, T, N) and a batch; a spread of 0.7 reaches every part of the nonlinearities."""
    generator = torch_generator(0, "mlp")
    params = spread * torch.randn((P, T, model.layout.size), generator=generator).to(dtype)
    x = torch.randn((T, n_rows, model.sizes[0]), generator=generator).to(dtype)
    if model.target == "class":
        return params, {"x": x, "y": torch.randint(model.sizes[-1], (T, n_rows), generator=generator)}
    shape = (T, n_rows) if model.target == "value" else (T, n_rows, model.sizes[-1])
    return params, {"x": x, "y": torch.randn(shape, generator=generator).to(dtype)}


def both(model: MLP, params: Tensor, batch: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Losses and gradients by the kernel, and by PyTorch."""
    assert mlp_kernel.serves(model.sizes, model.target, params, batch["x"], batch["y"])
    with native.disabled():
        expected = model.loss_and_grad(params, batch)
    return [model.loss_and_grad(params, batch), expected]


SHAPES: list[tuple[tuple[int, ...], Target]] = [
    ((64, 32, 10), "class"),
    ((5, 3), "class"),
    ((13, 9, 17, 2), "class"),
    ((7, 1), "value"),
    ((30, 12, 5, 8, 1), "value"),
    ((6, 5, 1), "values"),
    ((9, 4, 21), "values"),
]
#: Sines have a frequency.
SIRENS = [Siren((2, 9, 3), "sine", "siren", "values", omega) for omega in (30.0, 0.7)]
PERCEPTRONS = [*(MLP((6, 8, 4), name, "xavier", "class") for name in ACTIVATIONS), *SIRENS]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("sizes", "target"), SHAPES)
def test_equals_pytorch_in_float64(activation: str, sizes: tuple[int, ...], target: Target) -> None:
    assert_equals_pytorch(MLP(sizes, activation, "xavier", target))


@pytest.mark.parametrize("model", SIRENS, ids=lambda one: one.kernel_activation)
def test_sines_equal_pytorch_in_float64(model: Siren) -> None:
    assert_equals_pytorch(model)


def assert_equals_pytorch(model: MLP) -> None:
    """Batches of one row, of part of a vector, of whole blocks of rows, and of blocks with a rest."""
    for n_rows in (1, 5, 64, 65, 130):
        got, expected = both(model, *setting(model, n_rows))
        torch.testing.assert_close(got[0], expected[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(got[1], expected[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("sizes", "target"), SHAPES)
def test_equals_float64_in_float32(activation: str, sizes: tuple[int, ...], target: Target) -> None:
    model = MLP(sizes, activation, "xavier", target)
    assert_close_to_float64(model, *setting(model, 64, torch.float32))


@pytest.mark.parametrize("angle", [0.5, 3.0, 400.0])
def test_sines_equal_float64_in_float32(angle: float) -> None:
    """Angles of less than a quarter turn, of a turn, and of many; exact products leave the sines alone."""
    model = Siren((2, 32, 3), "sine", "siren", "values", 32.0)
    params, batch = setting(model, 64, torch.float32)
    tensors = model.layout.views(params)
    tensors["0.weight"].zero_()
    tensors["0.bias"].uniform_(-angle / 32, angle / 32, generator=torch_generator(0, "angles"))
    assert_close_to_float64(model, params, batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angle", [8e3, 9e3, 1e6, 3e30])
def test_sines_of_any_angle_are_those_of_pytorch(angle: float, dtype: torch.dtype) -> None:
    """Half of the units have small angles; frequency and weights of 1 leave the angles as they are."""
    model = Siren((1, 16, 2), "sine", "siren", "values", 1.0)
    params, batch = setting(model, 40, dtype)
    model.layout.views(params)["0.weight"].fill_(1.0)
    model.layout.views(params)["0.bias"].zero_()
    batch["x"][:, ::2] *= angle
    got, expected = both(model, params, batch)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected[1].abs().max()))


def assert_close_to_float64(model: MLP, params: Tensor, batch: dict[str, Tensor]) -> None:
    exact = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    expected = both(model, params.double(), exact)[1]
    got = model.loss_and_grad(params, batch)
    for value, reference in zip(got, expected, strict=True):
        assert float(((value.double() - reference).abs() / reference.abs().max()).max()) < 1e-5


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_units_and_certain_scores_stay_finite(activation: str, dtype: torch.dtype) -> None:
    model = MLP((6, 8, 4), activation, "xavier", "class")
    got, expected = both(model, *setting(model, 20, dtype, spread=300.0))
    assert bool(got[0].isfinite().all())
    assert bool(got[1].isfinite().all())
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected[1].abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("model", PERCEPTRONS, ids=lambda one: one.kernel_activation)
def test_a_diverged_run_has_no_loss_and_leaves_the_others_as_they_are(
    model: MLP, bad: float, dtype: torch.dtype
) -> None:
    params, batch = setting(model, 20, dtype)
    clean = model.loss_and_grad(params, batch)
    for coordinate in (3, model.layout.size - 1):  # a weight of the first layer, the bias of one class
        broken = params.clone()
        broken[1, 0, coordinate] = bad
        losses, grads = model.loss_and_grad(broken, batch)
        with native.disabled():
            expected = model.loss_and_grad(broken, batch)[0]
        assert torch.equal(losses.isnan(), expected.isnan())
        others = torch.ones(P, T, dtype=torch.bool)
        others[1, 0] = False
        assert torch.equal(losses[others], clean[0][others])
        assert torch.equal(grads[others], clean[1][others])


def test_a_run_does_not_depend_on_those_beside_it() -> None:
    model = MLP((64, 32, 10), "gelu", "kaiming", "class")
    params, batch = setting(model, 64, torch.float32)
    together = model.loss_and_grad(params, batch)
    alone = model.loss_and_grad(params[1:2, 1:], {name: value[1:] for name, value in batch.items()})
    assert torch.equal(alone[0], together[0][1:2, 1:])
    assert torch.equal(alone[1], together[1][1:2, 1:])


def test_tensors_need_not_be_contiguous() -> None:
    model = MLP((6, 8, 4), "relu", "xavier", "class")
    params, batch = setting(model, 20)
    shared = {name: value[:1].expand_as(value) for name, value in batch.items()}
    same = params[:1].expand_as(params)
    got = model.loss_and_grad(same, shared)
    expected = model.loss_and_grad(same.clone(), {name: value.clone() for name, value in shared.items()})
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    model = MLP((6, 8, 4), "relu", "xavier", "class")
    params, batch = setting(model, 20)
    batch["y"][1, 7] = label
    with pytest.raises(RuntimeError, match=f"label {label} is out of range for 4 classes"):
        model.loss_and_grad(params, batch)


def test_serves_neither_graphs_nor_transforms_nor_large_layers_nor_other_types() -> None:
    model = MLP((6, 8, 4), "relu", "xavier", "class")
    params, batch = setting(model, 20)
    x, y = batch["x"], batch["y"]
    point = params.clone().requires_grad_()

    def serves(params: Tensor, y: Tensor = y, sizes: tuple[int, ...] = model.sizes) -> bool:
        return mlp_kernel.serves(sizes, "class", params, x, y)

    assert serves(params)
    assert not serves(point)
    assert model.loss_and_grad(point, batch)[1].requires_grad
    with torch.no_grad():
        assert serves(point)
        assert not model.loss_and_grad(point, batch)[1].requires_grad
    assert not serves(params.float())
    assert not serves(params, y.int())
    assert not serves(params, sizes=(6, 1024, 1024, 4))
    inside: list[bool] = []
    torch.vmap(lambda one: inside.append(serves(one)) or one)(params)
    assert inside == [False]
    with native.disabled():
        assert not serves(params)


def test_the_operator_refuses_what_would_read_or_write_elsewhere() -> None:
    model = MLP((6, 8, 4), "relu", "xavier", "class")
    params, batch = setting(model, 20)
    x, y = batch["x"], batch["y"]
    operator = torch.ops.evometa.mlp_loss_and_grad
    for given in (
        (params[..., 1:].contiguous(), x, y, [6, 8, 4], "relu", "class"),
        (params.mT.contiguous().mT, x, y, [6, 8, 4], "relu", "class"),
        (params, x[:1], y, [6, 8, 4], "relu", "class"),
        (params, x[..., 1:].contiguous(), y, [6, 8, 4], "relu", "class"),
        (params, x[:, :0].contiguous(), y[:, :0].contiguous(), [6, 8, 4], "relu", "class"),
        (params, x, y[:, 1:].contiguous(), [6, 8, 4], "relu", "class"),
        (params, x.float(), y, [6, 8, 4], "relu", "class"),
        (params, x, y.int(), [6, 8, 4], "relu", "class"),
        (params, x, y, [6], "relu", "class"),
        (params, x, y, [6, 8, 0], "relu", "class"),
        (params, x, y, [6, 8, 4], "softplus", "class"),
        *(
            (params, x, y, [6, 8, 4], name, "class")
            for name in ("sine", "sine()", "sine(0)", "sine(3", "sine(3x)")
        ),
        (params, x, y, [6, 8, 4], "relu", "rank"),
        (params, x, y.double(), [6, 8, 4], "relu", "value"),
        (params, x, y.double(), [6, 8, 4], "relu", "values"),
        (params, x, y.double().unsqueeze(-1), [6, 8, 4], "relu", "values"),
        (params, x, torch.zeros((T, 20, 4), dtype=torch.int64), [6, 8, 4], "relu", "values"),
    ):
        with pytest.raises(RuntimeError):
            operator(*given)
