from __future__ import annotations

import math
from collections.abc import Mapping

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from evometa.rng import numpy_generator, torch_generator
from evometa.tasks import SPLITS
from evometa.tasks.dynamics import ENVIRONMENTS, CartPole, Environment, Pendulum, Reacher, State


def physics_of(body: Environment, parameters: Mapping[str, float] | None = None) -> dict[str, Tensor]:
    return {
        name: torch.tensor([value], dtype=torch.float64)
        for name, value in (parameters or body.standard).items()
    }


def state_of(values: np.ndarray) -> State:
    return tuple(torch.from_numpy(np.array(values, dtype=np.float64)).unsqueeze(-1))


def numbers(state: State) -> np.ndarray:
    return torch.cat(state).numpy()


def test_the_cart_pole_is_gymnasiums_step_by_step() -> None:
    """States, and the reward of an episode: 1 for each step until it has fallen, that one included."""
    real, body, rng = gymnasium.make("CartPole-v1").unwrapped, CartPole(), numpy_generator(0, "cart-pole")
    physics = physics_of(body)
    for seed in range(5):
        real.reset(seed=seed)
        state, rewards, states, fallen = state_of(real.state), [], [], False
        while not fallen:
            action = int(rng.integers(2))
            states.append(state)
            _, reward, fallen, _, _ = real.step(action)
            rewards.append(reward)
            force = torch.tensor([[10.0 if action else -10.0]], dtype=torch.float64)
            state = body.step(state, force, physics)
            np.testing.assert_allclose(numbers(state), real.state, rtol=0, atol=1e-12)
        assert len(rewards) > 8
        penalties = body.penalties([*states, state, state_of(np.zeros(4))], [], physics)
        np.testing.assert_array_equal(penalties[0], [*(1 - np.array(rewards)), 1, 1])


def test_the_pendulum_is_gymnasiums_step_by_step() -> None:
    """Torques beyond the limit and speeds up to theirs included; the reward is the negative cost."""
    real, body, rng = gymnasium.make("Pendulum-v1").unwrapped, Pendulum(), numpy_generator(0, "pendulum")
    physics = physics_of(body)
    fastest = 0.0
    for seed in range(5):
        real.reset(seed=seed)
        real.state = real.state * np.array([1.0, 7.0])
        state = state_of(real.state)
        for _ in range(60):
            torque = rng.uniform(-2.5, 2.5, size=1)
            action = torch.from_numpy(torque).unsqueeze(0)
            expected = real._get_obs()
            np.testing.assert_allclose(body.observe(state)[0], expected, rtol=0, atol=1e-6)  # float32
            cost = body.cost(state, action, physics)
            _, reward, *_ = real.step(torque)
            state = body.step(state, action, physics)
            assert float(cost) == pytest.approx(-float(reward), abs=1e-10)
            np.testing.assert_allclose(numbers(state), real.state, rtol=0, atol=1e-10)
            fastest = max(fastest, abs(float(state[1])))
    assert fastest == 8.0


ARM = {"mass_1": 1.3, "mass_2": 0.7, "length_1": 0.45, "length_2": 0.6, "damping": 0.0}


def energy(q: Tensor, v: Tensor) -> Tensor:
    """Of both links, from where their middles go and how fast they turn; nothing of the mass matrix in it."""

    def middles(q: Tensor) -> Tensor:
        one = torch.stack([q[0].cos(), q[0].sin()])
        two = torch.stack([(q[0] + q[1]).cos(), (q[0] + q[1]).sin()])
        return torch.stack([ARM["length_1"] / 2 * one, ARM["length_1"] * one + ARM["length_2"] / 2 * two])

    speeds = torch.einsum("kij,j->ki", jacrev(middles)(q), v)
    turns = torch.stack([v[0], v[0] + v[1]])
    masses = torch.tensor([ARM["mass_1"], ARM["mass_2"]], dtype=torch.float64)
    lengths = torch.tensor([ARM["length_1"], ARM["length_2"]], dtype=torch.float64)
    return (masses * (speeds.square().sum(1) + lengths.square() / 12 * turns.square())).sum() / 2


def accelerations(q: Tensor, v: Tensor, torque: Tensor) -> Tensor:
    physics = physics_of(Reacher(), ARM)
    moving = tuple(value.unsqueeze(-1) for value in (*q, *v))
    return torch.cat(Reacher().acceleration(moving, torque.unsqueeze(0), physics))


def drawn(n: int, *names: str) -> list[Tensor]:
    return [
        2 * torch.randn((n, 2), generator=torch_generator(0, name), dtype=torch.float64) for name in names
    ]


def test_the_arm_obeys_the_equations_of_euler_and_lagrange() -> None:
    """d/dt ∂L/∂q̇ − ∂L/∂q = τ with L the kinetic energy, by autograd."""

    def torque_needed(q: Tensor, v: Tensor, a: Tensor) -> Tensor:
        by_speed = jacrev(energy, argnums=1)
        along = jacrev(by_speed, argnums=0)(q, v) @ v + jacrev(by_speed, argnums=1)(q, v) @ a
        return along - grad(energy)(q, v)

    q, v, torque = drawn(20, "q", "v", "torque")
    found = vmap(torque_needed)(q, v, vmap(accelerations)(q, v, torque))
    torch.testing.assert_close(found, torque, rtol=1e-9, atol=1e-9)


def test_the_arm_keeps_its_energy_without_torque_and_damping_and_loses_it_to_damping() -> None:
    q, v = drawn(20, "q", "v")

    def power(q: Tensor, v: Tensor) -> Tensor:
        by_place, by_speed = grad(energy, argnums=(0, 1))(q, v)
        return by_place @ v + by_speed @ accelerations(q, v, torch.zeros_like(v))

    torch.testing.assert_close(vmap(power)(q, v), torch.zeros(20).double(), rtol=0, atol=1e-10)
    body, states = Reacher(), {}
    for damping in (0.0, 0.1):
        state, physics = (*q.mT, *v.mT, *q.mT), physics_of(body, {**ARM, "damping": damping})
        for _ in range(20):
            state = body.step(state, torch.zeros_like(q), physics)
        states[damping] = vmap(energy)(torch.stack(state[:2], dim=1), torch.stack(state[2:4], dim=1))
    before = vmap(energy)(q, v)
    assert float((states[0.0] / before - 1).abs().median()) < 0.2  # a long time step's error
    assert (states[0.1] < 0.8 * before).all()


def test_the_mass_matrix_of_the_arm_is_positive_definite() -> None:
    m11, m12, m22 = Reacher().mass_matrix(torch.linspace(-4, 4, 60).double(), physics_of(Reacher(), ARM))
    assert (m11 > 0).all()
    assert (m11 * m22 - m12.square() > 1e-3).all()


def test_the_cost_of_the_arm_is_zero_at_the_target_at_rest() -> None:
    body = Reacher()
    q1, q2 = 0.3, 1.1
    tip = np.array([math.cos(q1), math.sin(q1)]) + np.array([math.cos(q1 + q2), math.sin(q1 + q2)])
    state = state_of(np.array([q1, q2, 0.0, 0.0, *(0.5 * tip)]))
    rest = torch.zeros((1, 2), dtype=torch.float64)
    assert float(body.cost(state, rest, physics_of(body))) < 1e-30
    assert float(body.cost(state, rest + 1, physics_of(body))) == pytest.approx(0.02)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_textbooks_parameters_lie_in_the_ranges_and_starts_vary(name: str) -> None:
    body = ENVIRONMENTS[name]
    for split in SPLITS:
        for parameter, (low, high) in body.ranges[split].items():
            assert low <= body.standard[parameter] <= high
    drawn = 2 * torch.rand((500, body.n_drawn), generator=torch_generator(0)) - 1
    state = body.start(drawn)
    assert body.observe(state).shape == (500, body.n_observed)
    assert all(float(value.std()) > 0.02 for value in state)
    if name == "reacher":
        reach = torch.hypot(*state[4:])
        assert 0.2 <= float(reach.min()) < 0.25 < 0.65 < float(reach.max()) <= 0.7 + 1e-6
