"""Lower precisions: what is rounded, what is not, and that PyTorch's settings are put back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from compute_device import DEVICE
from torch import Tensor

from evometa.errors import ConfigError
from evometa.inner.cohort import Candidate
from evometa.inner.evaluate import evaluate
from evometa.inner.precision import check_precision, precision_of
from evometa.inner.task_set import prepare, request
from evometa.inner.unroll import loss_and_grad
from evometa.rng import torch_generator
from evometa.rules.learner import Learner
from evometa.rules.learner_structure import learner_space
from evometa.rules.registry import RULES
from evometa.tasks.base import Batch

CPU = torch.device("cpu")
DIGITS = {"widths": [8], "depths": [1], "tasks_per_architecture": 2}
WANTED = request("digits", DIGITS, "meta_train", 2, 11, seed=4)


def candidate(family: str) -> Candidate:
    genes = learner_space(RULES[family]).complete({"schedule": "constant"})
    return Candidate(
        family, family, genes, Learner.of(family, genes).init_weights(torch_generator(1, family))
    )


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture
def tf32_everywhere() -> Iterator[None]:
    before = flags()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("tf32_everywhere")
def test_tf32_is_on_for_tf32_alone_and_put_back_whatever_happens() -> None:
    for precision, expected in (("float32", False), ("bfloat16", False), ("tf32", True)):
        with precision_of(precision):  # type: ignore[arg-type]
            assert flags() == (expected, expected)
        assert flags() == (True, True)
    with pytest.raises(ZeroDivisionError), precision_of("float32"):
        raise ZeroDivisionError
    assert flags() == (True, True)


def test_tf32_without_a_gpu_is_refused_in_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r'^execution.precision = "tf32" needs a GPU, the device is \'cpu\''
    ):
        check_precision("tf32", CPU)
    check_precision("tf32", torch.device("cuda", 1))
    check_precision("bfloat16", CPU)


def test_bfloat16_rounds_the_products_of_the_loss_and_nothing_it_hands_on() -> None:
    (part,) = prepare(WANTED, DEVICE)
    assert part.indices is not None
    batch = part.tasks.batch(part.indices[:, 0])
    params = part.params.repeat(3, 1, 1)
    losses, grads = loss_and_grad(part.tasks, params, batch)
    with precision_of("bfloat16"):
        lowered_losses, lowered_grads = loss_and_grad(part.tasks, params, batch)
    assert lowered_losses.dtype == lowered_grads.dtype == torch.float32
    relative = (lowered_grads - grads).norm() / grads.norm()
    assert 1e-4 < relative < 2e-2, "bfloat16 has 8 bits"
    torch.testing.assert_close(lowered_losses, losses, rtol=1e-2, atol=0)


def test_bfloat16_leaves_the_update_rule_in_float32() -> None:
    """With a loss that autocast does not touch, a rule made of products gives what it gives in float32."""
    wanted = request("rosenbrock", {}, "meta_train", 2, 11, seed=4)
    for family in ("recurrent", "mlp"):
        exact = evaluate([candidate(family)], wanted, DEVICE)
        with precision_of("bfloat16"):
            lowered = evaluate([candidate(family)], wanted, DEVICE)
        np.testing.assert_array_equal(lowered.losses, exact.losses)


def test_bfloat16_passes_derivatives_of_second_order() -> None:
    (part,) = prepare(WANTED, DEVICE)
    assert part.indices is not None
    batch: Batch = part.tasks.batch(part.indices[:, 0])

    def curvature() -> Tensor:
        params = part.params.unsqueeze(0).clone().requires_grad_()
        _, grads = loss_and_grad(part.tasks, params, batch)
        (found,) = torch.autograd.grad(grads.square().sum(), params)
        return found

    exact = curvature()
    with precision_of("bfloat16"):
        lowered = curvature()
    assert (lowered - exact).norm() / exact.norm() < 0.1


def test_training_in_bfloat16_ends_near_training_in_float32() -> None:
    exact = evaluate([candidate("adam")], WANTED, DEVICE)
    with precision_of("bfloat16"):
        lowered = evaluate([candidate("adam")], WANTED, DEVICE)
    assert not np.array_equal(lowered.losses, exact.losses)
    np.testing.assert_allclose(lowered.losses, exact.losses, rtol=0.05)
