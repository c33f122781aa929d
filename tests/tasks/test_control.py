from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from evometa.errors import TaskError
from evometa.inner.evaluate import evaluate
from evometa.inner.task_set import request
from evometa.objectives.baseline import baseline_candidate
from evometa.rng import torch_generator
from evometa.tasks import SPLITS, TaskBatch, build_family
from evometa.tasks.control import Control, Steering
from evometa.tasks.dynamics import ENVIRONMENTS

CPU = torch.device("cpu")
SMALL = {"width": 4, "horizon": 6, "batch_size": 4, "n_starts": 16, "n_valid": 8}


def sample(environment: str, n_tasks: int = 2, **options: object) -> TaskBatch:
    asked = {**SMALL, "environments": [environment], **options}
    (batch,) = build_family("control", asked).sample("meta_train", n_tasks, torch_generator(0))
    return batch.to(CPU, torch.float64)


def params_of(batch: TaskBatch) -> Tensor:
    return batch.init_params(torch_generator(1)).double()


def many_episodes(environment: str, horizon: int, n_groups: int, n_episodes: int) -> dict[str, Tensor]:
    """Batches ``(groups, episodes, …)`` that all begin in one state: only the noise of actions differs."""
    body, generator = ENVIRONMENTS[environment], torch_generator(0, "episodes")
    numbers = {**body.standard, "n_steps": float(horizon)}
    batch = {name: torch.tensor(value).double().expand(n_groups) for name, value in numbers.items()}
    batch["start"] = torch.full((n_groups, n_episodes, body.n_drawn), 0.5).double()
    shape = (n_groups, n_episodes, horizon, body.n_actions)
    batch["noise"] = torch.randn(shape, generator=generator).double()
    return batch


def errors_off(estimates: Tensor, exact: Tensor, least_signal: float) -> Tensor:
    """By how many standard errors their means differ, where a mean is many standard errors long."""
    gap = estimates - exact
    standard_error = gap.std(0) / len(gap) ** 0.5
    assert float(exact.mean(0).norm() / standard_error.norm()) > least_signal
    return gap.mean(0).abs() / standard_error


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_score_function_estimates_the_gradient_through_the_dynamics(environment: str) -> None:
    """Both are unbiased for the same expected cost: their means agree within 3 standard errors."""
    through = Steering(environment, "differentiable", 3, 1, 8, 0.5)
    by_score = replace(through, gradient="score_function")
    params = through.init_params(1, torch_generator(0))[0].double()
    batch = many_episodes(environment, 8, n_groups=100, n_episodes=20)
    exact, costs = vmap(grad_and_value(through.loss), (None, 0))(params, batch)
    estimates, same_costs = vmap(grad_and_value(by_score.loss), (None, 0))(params, batch)
    torch.testing.assert_close(same_costs, costs)
    assert (errors_off(estimates, exact, least_signal=15) < 3).all()


def test_second_derivatives_of_the_score_function_estimate_those_of_the_cost() -> None:
    through = Steering("cart_pole", "differentiable", 2, 1, 4, 1.0)
    by_score = replace(through, gradient="score_function")
    params = through.init_params(1, torch_generator(0))[0].double()
    batch = many_episodes("cart_pole", 4, n_groups=100, n_episodes=100)
    vector = torch.randn(params.shape, generator=torch_generator(0)).double()

    def product(model: Steering) -> Tensor:
        def along(params: Tensor, batch: dict[str, Tensor]) -> Tensor:
            return grad(model.loss)(params, batch) @ vector

        return vmap(grad(along), (None, 0))(params, batch)

    assert (errors_off(product(by_score), product(through), least_signal=4) < 3).all()


def test_the_loss_is_the_mean_cost_of_the_steps_that_a_task_has() -> None:
    """Written out: one episode after the other, one step after the other."""
    batch = sample("pendulum", n_tasks=3, horizon=8)
    lengths = batch.constants["n_steps"].tolist()
    assert set(lengths) <= {4, 5, 6, 7, 8}
    assert len(set(lengths)) > 1
    params, rows = params_of(batch), batch.batch(torch.tensor([[0, 1], [2, 3], [4, 5]]))
    body, steering = ENVIRONMENTS["pendulum"], batch.loss.__self__  # type: ignore[attr-defined]
    for task in range(3):
        costs = []
        tensors = steering.layout.views(params[task])
        physics = {name: rows[name][task].unsqueeze(0) for name in body.standard}
        for episode in range(2):
            state = body.start(rows["start"][task, episode : episode + 1])
            for t in range(int(lengths[task])):
                seen = body.observe(state)
                hidden = torch.tanh(seen @ tensors["0.weight"].mT + tensors["0.bias"])
                mean = hidden @ tensors["1.weight"].mT + tensors["1.bias"]
                action = 2 * torch.tanh(mean + 0.5 * rows["noise"][task, episode, t])
                costs.append(float(body.cost(state, action, physics)))
                state = body.step(state, action, physics)
        own = {name: value[task] for name, value in rows.items()}
        assert float(steering.loss(params[task], own)) == pytest.approx(np.mean(costs), rel=1e-10)


def test_held_out_episodes_are_judged_without_noise_and_a_cart_pole_by_how_long_it_stands() -> None:
    batch = sample("cart_pole", n_tasks=1, horizon=100, n_valid=2)
    steering = batch.loss.__self__  # type: ignore[attr-defined]
    params = 3 * params_of(batch)
    rows = batch.valid_batch()
    assert rows is not None
    rows["n_steps"] = torch.tensor([100.0]).double()
    found = float(vmap(steering.valid_loss)(params, rows))
    episodes = steering._roll_out(params[0], {name: value[0] for name, value in rows.items()}, 0.0)
    stands = []
    for episode in range(2):
        angles = torch.stack([state[2][episode] for state in episodes.states])
        places = torch.stack([state[0][episode] for state in episodes.states])
        lost = ((angles.abs() > 12 * 2 * np.pi / 360) | (places.abs() > 2.4)).nonzero()
        stands.append(int(lost[0]) if len(lost) else 100)
    assert min(stands) < 100
    assert found == pytest.approx(1 - np.mean(stands) / 100)
    rows["noise"] = rows["noise"] + 1
    assert float(vmap(steering.valid_loss)(params, rows)) == found


@pytest.mark.parametrize(
    ("environment", "gradient", "rate", "share"),
    [
        ("cart_pole", "differentiable", 0.03, 0.75),
        ("cart_pole", "score_function", 0.03, 0.8),
        ("pendulum", "differentiable", 0.03, 0.95),
        ("reacher", "differentiable", 0.03, 0.9),
    ],
)
def test_adam_learns_to_steer(environment: str, gradient: str, rate: float, share: float) -> None:
    horizon = 30 if environment == "cart_pole" else 12
    options = {"environments": [environment], "gradient": gradient, "width": 8, "horizon": horizon}
    wanted = request("control", {**options, "batch_size": 16}, "meta_train", 1, 26, 0)
    trained, untrained = (
        evaluate([candidate], wanted, CPU).final_losses.mean()  # on the same episodes
        for candidate in (baseline_candidate("adam", rate, {}), baseline_candidate("sgd", 1e-5, {}))
    )
    assert trained < share * untrained


def test_the_splits_have_starts_of_their_own_and_bodies_in_their_ranges() -> None:
    starts: list[set[bytes]] = []
    for split in SPLITS:
        batches = Control(**{**SMALL}).sample(split, 30, torch_generator(0))  # type: ignore[arg-type]
        assert [batch.n_tasks for batch in batches] == [10, 10, 10]
        starts.append({row.numpy().tobytes() for batch in batches for row in batch.rows["start"]})
        assert len(starts[-1]) == 3 * 24
        for batch in batches:
            (body,) = [b for b in ENVIRONMENTS.values() if batch.description.startswith(b.title)]
            for name, (low, high) in body.ranges[split].items():
                values = batch.constants[name].double()
                assert low - 1e-6 <= float(values.min()) <= float(values.max()) <= high + 1e-6
    assert not starts[0] & starts[1]
    assert not starts[0] & starts[2]
    assert not starts[1] & starts[2]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"environments": ("acrobot",)}, r"'environments' is \('acrobot',\); allowed: .*'cart_pole'"),
        ({"gradient": "exact"}, r"'gradient' is 'exact'; allowed: one of 'differentiable', 'score_function'"),
        ({"noise": 0.0}, r"'noise' is 0.0; allowed: a finite number above 0"),
        ({"batch_size": 300}, r"'batch_size' is 300; allowed: an integer from 1 to 256"),
        ({"horizon": 0}, r"'horizon' is 0"),
    ],
)
def test_refuses_options_with_what_is_allowed(options: dict[str, object], text: str) -> None:
    with pytest.raises(TaskError, match=text):
        Control(**options)  # type: ignore[arg-type]
