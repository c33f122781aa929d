"""Tasks in other units: the loss, its gradient, and what a rule makes of them."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.task_set import PreparedTasks, prepare, request
from evometa.inner.unroll import unroll
from evometa.meta import meta_genes
from evometa.meta.augmentation import Part, augment
from evometa.rng import torch_generator
from evometa.tasks.rescaling import rescaled

CPU = torch.device("cpu")
FAMILIES = {"quadratic": {"dim": 3}, "rosenbrock": {"dims": [4]}, "digits": {"batch_size": 8}}


def tasks_of(use: str, n_tasks: int = 3, n_steps: int = 1) -> PreparedTasks:
    """One batch, in float64."""
    return prepare(request(use, FAMILIES[use], "meta_train", n_tasks, n_steps, 7), CPU, torch.float64)[0]


def augmented(part: PreparedTasks, seed: int = 0, **genes: Any) -> Part:
    complete = meta_genes({f"meta.{name}": value for name, value in genes.items()})
    return augment(part, complete, seed)


def first_batch(part: PreparedTasks) -> dict[str, Tensor]:
    return part.tasks.batch(None if part.indices is None else part.indices[:, 0])


def scale(part: PreparedTasks, other: Part) -> Tensor:
    """s ``(T, N)``."""
    return part.params / other.params


@pytest.mark.parametrize("use", FAMILIES)
@pytest.mark.parametrize("shared_by", ["none", "task", "tensor", "coordinate"])
def test_the_loss_is_the_old_one_in_other_units(use: str, shared_by: str) -> None:
    """At θ/s it is c·L(θ) with gradient c·s∘∇L(θ), by hand-batched code as by automatic differentiation."""
    part = tasks_of(use)
    other = augmented(part, reparametrisation=shared_by, loss_scaling="log_uniform")
    assert other.loss_scale is not None
    grads, losses = vmap(grad_and_value(part.tasks.loss))(part.params, first_batch(part))
    new_grads, new_losses = vmap(grad_and_value(other.tasks.loss))(other.params, first_batch(other))
    unit = other.loss_scale
    torch.testing.assert_close(new_losses, unit * losses)
    torch.testing.assert_close(new_grads, unit.unsqueeze(-1) * scale(part, other) * grads)
    torch.testing.assert_close(other.own_unit(new_losses.unsqueeze(0))[0], losses)
    if other.tasks.loss_and_grad is not None:
        two = torch.stack([other.params, 1.1 * other.params])
        batched = other.tasks.loss_and_grad(two, first_batch(other))
        torch.testing.assert_close(batched[0][0], new_losses)
        torch.testing.assert_close(batched[1][0], new_grads)
    else:
        assert part.tasks.loss_and_grad is None


@pytest.mark.parametrize("largest", [10, 1000])
def test_scales_are_log_uniform_between_their_gene_and_its_inverse(largest: int) -> None:
    part = tasks_of("quadratic", n_tasks=300)
    options = {"reparametrisation": "task", "loss_scaling": "log_uniform"}
    ranges = {"reparametrisation_range": largest, "loss_scaling_range": largest}
    other = augmented(part, **options, **ranges)
    assert other.loss_scale is not None
    for drawn in (scale(part, other)[:, 0], other.loss_scale):
        place = (drawn.log() / math.log(largest)).numpy()
        assert np.abs(place).max() <= 1
        # The standard deviation of a uniform draw in [−1, 1] is 1/√3.
        assert abs(place.mean()) < 3 / np.sqrt(3 * len(place))
        assert place.std() == pytest.approx(1 / np.sqrt(3), rel=0.1)


def test_what_shares_a_scale() -> None:
    part = tasks_of("digits")
    segments = part.tasks.layout.segments

    def spread(values: Tensor) -> float:
        return float((values.max(dim=-1).values / values.min(dim=-1).values).min())

    found = {
        name: (scale(part, augmented(part, reparametrisation=name)))
        for name in ("task", "tensor", "coordinate")
    }
    nonzero = part.params != 0  # biases start at 0, where no scale is to be seen
    per_task, per_tensor, each = (torch.where(nonzero, found[name], torch.nan) for name in found)
    weights = [segment.slice for segment in segments if bool(nonzero[:, segment.slice].all())]
    assert spread(per_task[:, weights[0]]) == pytest.approx(1)
    torch.testing.assert_close(per_task[:, weights[0].start], per_task[:, weights[1].start])
    assert spread(per_tensor[:, weights[0]]) == pytest.approx(1)
    assert not torch.allclose(per_tensor[:, weights[0].start], per_tensor[:, weights[1].start], rtol=0.1)
    assert spread(each[:, weights[0]]) > 100
    assert len(set(per_task[:, weights[0].start].tolist())) == part.tasks.n_tasks


def test_initial_parameters_of_the_batch_are_rescaled_too() -> None:
    part = tasks_of("quadratic")
    s = torch.tensor([[2.0], [0.5], [4.0]], dtype=torch.float64).expand_as(part.params)
    other = rescaled(part.tasks, s, torch.ones(3, dtype=torch.float64))
    before, after = (batch.init_params(torch_generator(1)) for batch in (part.tasks, other))
    torch.testing.assert_close(after, before / s.float())


@pytest.mark.parametrize("use", FAMILIES)
def test_descent_that_knows_the_units_trains_as_before(use: str) -> None:
    """Gradient descent on c·L(s·θ) at rate α/(c·s²) is gradient descent on L at rate α."""
    part = tasks_of(use, n_tasks=1, n_steps=11)
    s, c = 30.0, 0.02
    other = rescaled(part.tasks, torch.full_like(part.params, s), torch.full((1,), c, dtype=torch.float64))
    losses = []
    for tasks, params, rate in (
        (part.tasks, part.params, 1e-3),
        (other, part.params / s, 1e-3 / (c * s * s)),
    ):
        candidate = Candidate("0", "sgd", {"lr": 1e-3, "schedule": "constant"}, {})
        cohort = Cohort.of([candidate], CPU, torch.float64)
        cohort.hyper["lr"] = torch.tensor([rate], dtype=torch.float64)
        losses.append(unroll(cohort, tasks, params, part.indices, 10).losses)
    np.testing.assert_allclose(losses[1], c * losses[0], rtol=1e-9)
    assert losses[0][0, 0, -1] < losses[0][0, 0, 0]


@pytest.mark.parametrize("estimator", ["tbptt", "pes"])
def test_meta_losses_are_in_the_tasks_own_unit(setting: Any, estimator: str) -> None:
    """Without a step, whatever the units, the loss seen is the loss at the start."""
    from evometa.meta import ESTIMATORS

    seen = []
    for options in ({}, {"loss_scaling": "log_uniform", "reparametrisation": "coordinate"}):
        problem = setting.problem(estimator=estimator, sigma=1e-15, pairs=1, **options)
        still = {name: torch.zeros_like(value) for name, value in problem.cohort.weights.items()}
        seen.append(ESTIMATORS[estimator].begin(problem).estimate(still).losses)
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("loss", ["mean", "log_mean"])
def test_the_surrogate_of_one_step_is_exact_in_any_unit(setting: Any, loss: str) -> None:
    """After one step the inner gradient does not depend on the weights yet: both orders agree."""
    options = {"loss_scaling": "log_uniform", "reparametrisation": "tensor", "loss": loss, "truncation": 1}
    first, second = (setting.estimates("tbptt", **options, second_order=order) for order in (False, True))
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)


def test_switching_one_augmentation_on_leaves_the_other_as_it_was() -> None:
    part = tasks_of("quadratic")
    both = augmented(part, reparametrisation="task", loss_scaling="log_uniform")
    unit = augmented(part, loss_scaling="log_uniform")
    params = augmented(part, reparametrisation="task")
    assert both.loss_scale is not None
    assert unit.loss_scale is not None
    torch.testing.assert_close(both.loss_scale, unit.loss_scale)
    torch.testing.assert_close(both.params, params.params)
    assert params.loss_scale is None


def test_without_augmentation_tasks_are_the_very_same() -> None:
    part = tasks_of("quadratic")
    other = augmented(part)
    assert other.tasks is part.tasks
    assert other.params is part.params


def test_augmented_batches_can_be_pickled() -> None:
    other = augmented(tasks_of("quadratic"), reparametrisation="task")
    copy = pickle.loads(pickle.dumps(other.tasks))
    batch = copy.batch(None)
    torch.testing.assert_close(
        vmap(copy.loss)(other.params, batch), vmap(other.tasks.loss)(other.params, batch)
    )
