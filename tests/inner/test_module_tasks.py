"""Ordinary modules on the path of the built-in tasks: whole unrolls and meta-gradients, layer by layer."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from compute_device import DEVICE

from evometa.inner import reference
from evometa.inner.evaluate import evaluate
from evometa.inner.task_set import prepare, request
from evometa.meta import TaskStream

CPU = torch.device("cpu")
USE = "module_tasks:family"
#: Those of ``module_tasks.MODELS``, which can be imported only inside a test.
NAMES = [
    "perceptron",
    "convolution",
    "max_pool",
    "group_norm",
    "batch_norm",
    "layer_norm",
    "embedding",
    "fused_attention",
    "multihead",
    "multihead_fused",
    "multihead_eval",
    "transformer",
    "transformer_eval",
    "gru",
    "lstm",
    "tied",
    "frozen",
]
#: Layers that PyTorch maps by a loop, which it says in a warning.
LOOPED = {"lstm"}

pytestmark = pytest.mark.usefixtures("module_tasks")


def test_every_model_is_tried() -> None:
    import module_tasks  # type: ignore[import-not-found]

    assert list(module_tasks.MODELS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_training_is_that_of_the_plain_loop(name: str, cohort_of: Any) -> None:
    """Losses of every step and the held-out losses, without a warning."""
    wanted = request(USE, {"name": name}, "meta_train", 2, 9, seed=3)
    candidates = cohort_of("adam", {"lr": 1e-2}, n=2)
    with warnings.catch_warnings():
        warnings.simplefilter("default" if name in LOOPED else "error")
        record = evaluate(candidates, wanted, DEVICE, torch.float64)
    (part,) = prepare(wanted, CPU, torch.float64)
    for p, candidate in enumerate(candidates):
        subject = reference.Subject.of(candidate, torch.float64)
        for t in range(2):
            run = reference.train(subject, part, t, 8)
            np.testing.assert_allclose(record.losses[p, t], run.losses.numpy(), rtol=1e-12)
            held_out = reference.valid_loss(part, t, run.params)
            assert record.valid_losses[p, t] == pytest.approx(float(held_out), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "second_order"),
    [*((name, True) for name in NAMES), ("convolution", False), ("transformer", False)],
)
def test_meta_gradients_pass_through(
    name: str, second_order: bool, cohort_of: Any, check_meta_gradients: Any
) -> None:
    """Layer and batch norm are the ones that autograd alone would get wrong."""
    stream = TaskStream(USE, json.dumps({"name": name}), n_tasks=2, horizon=6, seed=5)
    with warnings.catch_warnings():
        warnings.simplefilter("default" if name in LOOPED else "error")
        check_meta_gradients(cohort_of("mlp", {"layers": 1, "lr": 1e-3}, n=2), stream, second_order)
