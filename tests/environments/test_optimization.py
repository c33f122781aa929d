"""The environment: nothing for its checkers to complain about, and one process with controllers."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils import seeding
from gymnasium.utils.env_checker import check_env

from evometa.environments import OPTIMIZATION
from evometa.errors import EvometaError
from evometa.genome.genes import Value
from evometa.inner.cohort import Candidate
from evometa.inner.evaluate import evaluate
from evometa.inner.task_set import request
from evometa.meta.reward import MOST_ABOVE
from evometa.rng import torch_generator
from evometa.rules import Learner
from evometa.trees import under_prefix

CPU = torch.device("cpu")
HORIZON = 12
KEEP, RAISE = 0, 2
GENES: dict[str, Value] = {"base": "momentum", "lr": 2e-3, "interval": 5}
QUADRATIC: dict[str, Any] = {"task": "quadratic", "options": {"dim": 3}, "horizon": HORIZON, "genes": GENES}
#: Minibatches, and two architectures in one batch.
DIGITS: dict[str, Any] = {
    "task": "digits",
    "options": {"tasks_per_architecture": 2, "batch_size": 4},
    "horizon": HORIZON,
    "genes": GENES,
}
every_kind_of_actions = pytest.mark.parametrize("actions", ["discrete", "continuous"])
every_task = pytest.mark.parametrize("about", [QUADRATIC, DIGITS], ids=lambda about: about["task"])


def make(actions: str = "discrete", **about: Any) -> Any:
    return gymnasium.make(OPTIMIZATION, actions=actions, **{**QUADRATIC, **about})


def make_vec(n: int, actions: str = "discrete", **about: Any) -> Any:
    return gymnasium.make_vec(OPTIMIZATION, num_envs=n, actions=actions, **{**QUADRATIC, **about})


def drawn_by(seed: int, about: dict[str, Any], n_tasks: int) -> Any:
    """The tasks that a first episode after ``reset(seed=seed)`` trains on."""
    own = int(seeding.np_random(seed)[0].integers(2**63 - 1))
    return request(about["task"], about["options"], "meta_train", n_tasks, HORIZON + 1, own)


def episode(env: Any, action: Any, seed: int = 0) -> tuple[list[Any], list[float], dict[str, Any]]:
    """Observations and rewards until the end, and the last info."""
    seen, info = env.reset(seed=seed)
    observations, rewards, over = [seen], [], False
    while not over:
        seen, reward, over, truncated, info = env.step(action)
        assert truncated is False
        observations.append(seen)
        rewards.append(reward)
    return observations, rewards, info


@every_kind_of_actions
@every_task
def test_gymnasium_finds_nothing_to_complain_about(actions: str, about: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(actions, **about).unwrapped)


@every_kind_of_actions
def test_nor_does_stable_baselines3(actions: str) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker", reason="pip install evometa[rl]")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(make(actions), warn=True)


@every_task
def test_an_agent_that_keeps_the_settings_trains_as_the_rule_below_does(about: dict[str, Any]) -> None:
    observations, rewards, info = episode(make(**about), KEEP, seed=7)
    plain = Candidate("0", "momentum", {"lr": 2e-3, "schedule": "constant"}, {})
    losses = evaluate([plain], drawn_by(7, about, 1), CPU).losses[0, 0]
    assert len(rewards) == 3  # decisions at steps 0, 5 and 10
    assert info == {"loss": losses[-1], "step": HORIZON, "lost": False}
    assert math.isclose(sum(rewards), math.log(losses[0] / losses[-1]), rel_tol=1e-5)
    assert all(seen.shape == (17,) and seen.dtype == np.float32 for seen in observations)


@every_kind_of_actions
@pytest.mark.parametrize("policy", ["mlp", "gru"])
def test_a_controller_that_acts_through_it_trains_as_in_the_engine(actions: str, policy: str) -> None:
    family = {"discrete": "discrete_controller", "continuous": "controller"}[actions]
    genes = {**GENES, "schedule": "constant", "policy": policy}
    learner, generator = Learner.of(family, genes), torch_generator(0, "weights")
    weights = {
        n: v + torch.randn(v.shape, generator=generator) for n, v in learner.init_weights(generator).items()
    }
    env, rule = make(actions), learner.rule
    seen, info = env.reset(seed=3)
    own, state, over = under_prefix("rule", weights), rule.policy.init_state(torch.zeros(1, 1)), False
    while not over:
        outputs, state = rule.policy.outputs(own, state, torch.from_numpy(seen).unsqueeze(1))
        action = int(outputs.argmax()) if actions == "discrete" else rule.moves(outputs)[:, 0].numpy()
        seen, _, over, _, info = env.step(action)
    trained = evaluate([Candidate("0", family, genes, weights)], drawn_by(3, QUADRATIC, 1), CPU)
    assert math.isclose(info["loss"], trained.losses[0, 0, -1], rel_tol=1e-4)


def test_a_lost_training_costs_what_the_worst_may_and_stays_in_the_spaces() -> None:
    env = make(genes={**GENES, "base": "sgd", "lr": 10.0, "interval": 1}, horizon=60)
    observations, rewards, info = episode(env, RAISE)
    assert info["lost"]
    assert info["step"] == 60
    assert math.isclose(sum(rewards), -MOST_ABOVE, rel_tol=1e-5)
    assert rewards[-1] == 0
    assert all(seen in env.observation_space for seen in observations)


def test_a_seed_names_the_episodes_that_follow_it() -> None:
    env = make()
    first = [episode(env, KEEP, seed=5)[2]["loss"], float(env.reset()[1]["loss"])]
    again = [episode(env, KEEP, seed=5)[2]["loss"], float(env.reset()[1]["loss"])]
    assert first == again
    assert episode(env, KEEP, seed=6)[2]["loss"] != first[0]


def test_of_one_the_vector_form_is_the_environment() -> None:
    one, many = make("continuous"), make_vec(1, "continuous")
    for mine, theirs in zip(one.reset(seed=4), many.reset(seed=4), strict=True):
        np.testing.assert_equal(
            theirs, {k: np.array([v]) for k, v in mine.items()} if isinstance(mine, dict) else [mine]
        )
    action = np.array([0.4], dtype=np.float32)
    for _ in range(3):
        seen, reward, over, _, info = one.step(action)
        found = many.step(action[None])
        np.testing.assert_array_equal(found[0], [seen])
        assert (found[1].item(), found[2].item(), found[4]["loss"].item()) == (reward, over, info["loss"])


@every_task
def test_the_vector_form_trains_its_tasks_side_by_side(about: dict[str, Any]) -> None:
    envs = make_vec(4, **about)
    envs.reset(seed=2)
    actions = np.array([KEEP, KEEP, RAISE, KEEP])
    for _ in range(3):
        seen, _, over, truncated, info = envs.step(actions)
        assert seen in envs.observation_space
    assert over.all()
    assert not truncated.any()
    plain = Candidate("0", "momentum", {"lr": 2e-3, "schedule": "constant"}, {})
    losses = evaluate([plain], drawn_by(2, about, 4), CPU).losses[0, :, -1]
    kept = actions == KEEP
    np.testing.assert_allclose(info["loss"][kept], losses[kept], rtol=1e-6)
    assert (info["loss"][~kept] != losses[~kept]).all()


def test_the_vector_form_begins_anew_on_the_call_after_the_last() -> None:
    envs = make_vec(3)
    assert envs.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.NEXT_STEP
    first, _ = envs.reset(seed=1)
    for _ in range(3):
        *_, info = envs.step(np.full(3, KEEP))
    seen, rewards, over, _, after = envs.step(np.full(3, RAISE))
    assert not over.any()
    assert not rewards.any()
    assert (after["step"] == 0).all()
    assert (after["loss"] != info["loss"]).all()
    np.testing.assert_array_equal(seen, first)  # whatever the loss, it is relative to the first


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"task": "cubic"}, "unknown task family 'cubic'"),
        ({"options": {"dims": 3}}, "dims"),
        ({"actions": "both"}, "unknown kind of actions 'both'.*continuous, discrete"),
        ({"split": "train"}, "unknown split 'train'"),
        ({"horizon": 0}, "horizon is 0, expected a whole number from 1 on"),
        ({"genes": {"base": "lion"}}, "gene 'base': got 'lion'"),
        ({"genes": {"schedule": "recurrent"}}, "must not be learned"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_bad_arguments_get_one_line(about: dict[str, Any], says: str) -> None:
    with pytest.raises(EvometaError, match=says) as raised:
        make(**{"actions": "discrete", **about}).reset()
    assert "\n" not in str(raised.value)


def test_a_step_after_the_end_is_refused() -> None:
    env = make().unwrapped
    with pytest.raises(EvometaError, match="call reset"):
        env.step(KEEP)


@pytest.mark.parametrize("algorithm", ["DQN", "PPO"])
def test_stable_baselines3_trains_on_it_unmodified(algorithm: str) -> None:
    """A learning rate that is far too small: an agent that has learned anything raises it."""
    sb3 = pytest.importorskip("stable_baselines3", reason="pip install evometa[rl]")
    env = make(genes={"base": "sgd", "lr": 1e-4, "interval": 5}, horizon=30)
    options = {
        "DQN": {
            "learning_starts": 60,
            "exploration_fraction": 0.4,
            "target_update_interval": 60,
            "gamma": 1.0,
        },
        "PPO": {"n_steps": 96, "batch_size": 48, "gamma": 1.0},
    }[algorithm]
    agent = getattr(sb3, algorithm)(
        "MlpPolicy", env, learning_rate=3e-3, seed=0, device="cpu", policy_kwargs={"net_arch": [8]}, **options
    )
    agent.learn(288)
    seen, _ = env.reset(seed=100)
    total, over = 0.0, False
    while not over:
        action, _ = agent.predict(seen, deterministic=True)
        seen, reward, over, _, _ = env.step(action)
        total += reward
    assert total > 1.5 * sum(episode(env, KEEP, seed=100)[1])
