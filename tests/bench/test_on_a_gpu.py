"""What only a GPU can tell of a baseline's training."""

from __future__ import annotations

import time

import pytest
import torch
from compute_device import DEVICE
from torch import Tensor

from evometa.bench import training
from evometa.bench.baselines import named
from evometa.inner.task_set import request

pytestmark = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs --device cuda")

HORIZON = 12
CYCLES = 50_000_000


def seconds_of_a_wait() -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    torch.cuda._sleep(CYCLES)
    torch.cuda.synchronize()
    return time.perf_counter() - started


def test_the_time_of_the_optimizer_is_that_of_its_work_not_of_launching_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = training._Optimizers.step

    def long_step(self: training._Optimizers, grads: Tensor) -> None:
        step(self, grads)
        torch.cuda._sleep(CYCLES)

    monkeypatch.setattr(training._Optimizers, "step", long_step)
    wait = min(seconds_of_a_wait() for _ in range(3))
    run = training.train(
        named("adam"), [1e-3], request("quadratic", {"dim": 4}, "meta_train", 3, HORIZON + 1, 3), DEVICE
    )
    assert 0.8 * HORIZON * wait < run.optimizer_seconds <= run.seconds
