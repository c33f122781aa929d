"""A genome scores on a GPU what it scores on a CPU, evaluated as campaigns do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compute_device import DEVICE

from evometa.execution import EvaluationUnit, Executor
from evometa.inner.cohort import Candidate
from evometa.inner.record import RunSummary
from evometa.inner.task_set import request
from evometa.rng import torch_generator
from evometa.rules.learner import Learner
from evometa.rules.learner_structure import learner_space
from evometa.rules.registry import RULES, SCHEDULES

pytestmark = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs --device cuda")
SCHEDULED = SCHEDULES.names()
TASKS: dict[str, dict[str, object]] = {
    "quadratic": {},
    "rosenbrock": {},
    "digits": {"widths": [16], "depths": [1]},
}


def unit(family: str, schedule: str, use: str) -> EvaluationUnit:
    """Two candidates with weights off their start, where an output layer of zeros would hide everything."""
    genes = learner_space(RULES[family]).complete({"schedule": schedule})
    members = []
    for number in range(2):
        generator = torch_generator(number, "weights", family)
        weights = {
            name: value + 0.05 * torch.randn(value.shape, generator=generator)
            for name, value in Learner.of(family, genes).init_weights(generator).items()
        }
        members.append(Candidate(str(number), family, genes, weights))
    return EvaluationUnit(tuple(members), request(use, TASKS[use], "meta_valid", 4, 31, seed=1))


def summary(executor: Executor, work: EvaluationUnit) -> RunSummary:
    (result,) = executor.run([work])
    assert isinstance(result.value, RunSummary), result.message
    return result.value


@pytest.mark.parametrize("use", TASKS)
@pytest.mark.parametrize(
    ("family", "schedule"),
    [(family, SCHEDULED[number % len(SCHEDULED)]) for number, family in enumerate(RULES.names())],
)
def test_scores_are_those_of_a_cpu(family: str, schedule: str, use: str) -> None:
    """meta_loss is the exponential of the mean final logarithm less tuned Adam's: to a thousandth."""
    work = unit(family, schedule, use)
    on_cpu, on_gpu = (summary(Executor(device), work) for device in (torch.device("cpu"), DEVICE))
    assert on_gpu.status.tolist() == on_cpu.status.tolist()
    assert on_gpu.n_inner_steps == on_cpu.n_inner_steps
    np.testing.assert_allclose(on_gpu.final_logs.mean(1), on_cpu.final_logs.mean(1), rtol=0, atol=1e-3)
    np.testing.assert_allclose(on_gpu.anytime_logs.mean(1), on_cpu.anytime_logs.mean(1), rtol=0, atol=1e-3)
    np.testing.assert_allclose(on_gpu.valid_losses, on_cpu.valid_losses, rtol=1e-2)
