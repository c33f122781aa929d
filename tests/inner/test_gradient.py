"""The mapped gradient: its graph, and losses without it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from compute_device import DEVICE
from torch import Tensor

from evometa.inner.gradient import eager, losses_at
from evometa.rng import torch_generator
from evometa.tasks.base import Batch
from evometa.tasks.module_model import ModuleModel

N_CANDIDATES, N_TASKS, N_ROWS, WIDTH = 2, 3, 6, 4


def normalised_loss(params: Tensor, batch: Batch) -> Tensor:
    """A layer norm between two affine maps."""
    first, second = params[: WIDTH * WIDTH].reshape(WIDTH, WIDTH), params[WIDTH * WIDTH :]
    hidden = F.layer_norm(batch["x"] @ first, (WIDTH,)).tanh()
    return (hidden @ second - batch["y"]).square().mean()


@pytest.fixture
def point() -> Tensor:
    shape = (N_CANDIDATES, N_TASKS, WIDTH * WIDTH + WIDTH)
    return torch.randn(shape, generator=torch_generator(0, "params"), dtype=torch.float64).to(DEVICE)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch_generator(0, "batch")
    x = torch.randn((N_TASKS, N_ROWS, WIDTH), generator=generator, dtype=torch.float64).to(DEVICE)
    return {"x": x, "y": x.sum(-1).sin()}


def plain(params: Tensor, batch: Batch, task: int) -> tuple[Tensor, Tensor]:
    """Loss and gradient of one run, with autograd's graph."""
    loss = normalised_loss(params, {name: value[task] for name, value in batch.items()})
    return loss, torch.autograd.grad(loss, params, create_graph=True)[0]


def runs() -> list[tuple[int, int]]:
    return [(p, t) for p in range(N_CANDIDATES) for t in range(N_TASKS)]


def test_losses_and_gradients_are_those_of_each_run(point: Tensor, batch: Batch) -> None:
    losses, grads = eager(normalised_loss, point, batch)
    assert not losses.requires_grad
    assert not grads.requires_grad
    torch.testing.assert_close(losses_at(normalised_loss, point, batch), losses)
    for p, t in runs():
        loss, grad = plain(point[p, t].clone().requires_grad_(), batch, t)
        torch.testing.assert_close(losses[p, t], loss)
        torch.testing.assert_close(grads[p, t], grad)


@pytest.mark.parametrize("n_candidates", [1, N_CANDIDATES])
@pytest.mark.parametrize(("of_losses", "of_grads"), [(1.0, 0.0), (0.0, 1.0), (0.3, 0.7)])
def test_their_graph_is_that_of_each_run(
    point: Tensor, batch: Batch, of_losses: float, of_grads: float, n_candidates: int
) -> None:
    """Autograd through the mapped gradient of a layer norm would be wrong."""
    direction = torch.linspace(-1, 1, point.shape[-1], dtype=torch.float64, device=DEVICE)

    def measure(loss: Tensor, grad: Tensor) -> Tensor:
        parts = [of_losses * loss.sum()] if of_losses else []
        return torch.stack([*parts, *([of_grads * (grad @ direction).sum()] if of_grads else [])]).sum()

    params = point[:n_candidates].clone().requires_grad_()
    (found,) = torch.autograd.grad(measure(*eager(normalised_loss, params, batch)), params)
    for p, t in runs()[: n_candidates * N_TASKS]:
        own = point[p, t].clone().requires_grad_()
        (exact,) = torch.autograd.grad(measure(*plain(own, batch, t)), own)
        torch.testing.assert_close(found[p, t], exact, rtol=1e-10, atol=1e-12)


def test_without_grad_mode_there_is_no_graph(point: Tensor, batch: Batch) -> None:
    with torch.no_grad():
        losses, grads = eager(normalised_loss, point.requires_grad_(), batch)
    assert not losses.requires_grad
    assert not grads.requires_grad


def test_recurrent_layers_can_be_measured_without_a_gradient() -> None:
    """PyTorch cannot map them where no gradient is wanted."""
    model = ModuleModel.of(
        "recurrent",
        lambda: torch.nn.GRU(2, 3, batch_first=True),
        lambda outputs, _: outputs[0].square().mean(),
    )
    params = model.init_params(6, torch_generator(0)).unflatten(0, (2, 3)).to(DEVICE)
    x = torch.randn((3, 4, 5, 2), generator=torch_generator(1)).to(DEVICE)
    batch = {"x": x, "y": x}
    with torch.no_grad():
        found = losses_at(model.loss, params, batch)
        exact = [model.loss(params[p, t], {"x": x[t], "y": x[t]}) for p in range(2) for t in range(3)]
    torch.testing.assert_close(found, torch.stack(exact).unflatten(0, (2, 3)))
