"""Bandits, tabular processes, strategies for the former, and a policy that learns to learn on them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from evometa.environments.bandits import BernoulliBandits
from evometa.environments.process import OptimizationProcess
from evometa.environments.rl2 import RL2, Training
from evometa.environments.strategies import (
    UCB1,
    EpsilonGreedy,
    Values,
    blind_rewards,
    random,
    rewards,
    thompson,
)
from evometa.environments.tabular_mdps import TabularMDPs, TabularTrials
from evometa.environments.training_trials import TrainingTrials
from evometa.environments.trials import TrialFamily
from evometa.errors import EvometaError
from evometa.inner.task_set import TaskRequest, prepare
from evometa.meta.rollouts import policy_outputs
from evometa.rng import torch_generator
from evometa.rules import Learner
from evometa.rules.controller import MOVES
from evometa.trees import tree_map

FAMILIES = [
    BernoulliBandits(arms=3, pulls=4),
    TabularMDPs(states=4, actions=3, episodes=2, length=3),
    TrainingTrials(
        options={"dim": 2}, genes={"base": "sgd", "interval": 5}, horizon=13, episodes=2
    ),  # of 5, 5 and 3 inner steps
]
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@pytest.mark.parametrize(
    ("pulls", "strategy", "published", "tolerance"),
    [
        (10, random, 5.0, 0.1),
        (10, thompson, 5.7, 0.2),
        (10, EpsilonGreedy(0.0), 6.6, 0.1),
        (10, UCB1(0.05), 6.7, 0.2),
        (100, random, 49.9, 1.0),
        (100, thompson, 74.7, 1.0),
        (100, EpsilonGreedy(0.0), 74.8, 1.5),
        (100, UCB1(0.1), 78.0, 1.0),
    ],
)
def test_strategies_earn_what_is_published(
    pulls: int, strategy: Values, published: float, tolerance: float
) -> None:
    """Duan et al. 2016, table 1, five arms; the standard error is 0.035 and 0.3."""
    earned = rewards(BernoulliBandits(5, pulls), strategy, 4000, torch_generator(1)).sum(dim=0)
    assert float(earned.mean()) == pytest.approx(published, abs=tolerance)


@every_family
def test_a_trial_of_a_family_has_its_shapes_and_its_seed(family: TrialFamily) -> None:
    def played(seed: int) -> list[torch.Tensor]:
        trials = family.begin(3, 2, torch_generator(seed))
        found = []
        for step in range(family.n_steps):
            seen = trials.observe()
            rewards, ended = trials.step(torch.arange(6) % family.n_actions)
            assert seen.shape == (6, family.n_observations)
            assert (rewards.shape, ended.shape, ended.dtype) == ((6,), (6,), torch.bool)
            assert bool(ended.any()) == ((step + 1) % (1 if family.name == "bandits" else 3) == 0)
            found += [seen, rewards]
        return found

    first, again, other = played(0), played(0), played(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_arms_pay_as_often_as_they_should_and_are_the_same_in_all_rollouts() -> None:
    trials = BernoulliBandits(arms=2, pulls=1).begin(2, 5000, torch_generator(0))
    chances = torch.rand((2, 2), generator=torch_generator(0))  # the first draw is that of the processes
    for arm in range(2):
        paid, _ = trials.step(torch.full((10_000,), arm))
        share = paid.reshape(5000, 2).mean(dim=0)
        torch.testing.assert_close(share, chances[:, arm], rtol=0, atol=0.03)


def test_a_tabular_process_moves_and_pays_as_its_tables_say() -> None:
    transitions = torch.tensor([[[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]]] * 3).unsqueeze(0)
    means = torch.arange(6.0).reshape(1, 3, 2)
    trials = TabularTrials(transitions, means, 20_000, 2, torch_generator(0))
    assert torch.equal(trials.observe()[0], torch.tensor([1.0, 0.0, 0.0]))
    rewards, ended = trials.step(torch.zeros(20_000, dtype=torch.long))
    assert not bool(ended.any())
    torch.testing.assert_close(trials.observe().mean(dim=0), transitions[0, 0, 0], rtol=0, atol=0.015)
    assert float(rewards.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(rewards.std()) == pytest.approx(1.0, abs=0.03)
    state = trials.observe().argmax(dim=1)
    rewards, ended = trials.step(torch.ones(20_000, dtype=torch.long))
    assert bool(ended.all())
    for at in range(3):
        assert float(rewards[state == at].mean()) == pytest.approx(float(means[0, at, 1]), abs=0.06)
    assert torch.equal(trials.observe().argmax(dim=1), torch.zeros(20_000, dtype=torch.long))


def test_random_actions_earn_one_a_step_of_a_tabular_process() -> None:
    earned = blind_rewards(TabularMDPs(episodes=2), 2000, torch_generator(0)).sum(dim=0)
    assert float(earned.mean()) == pytest.approx(20.0, abs=0.5)


@every_family
def test_the_policy_sees_what_it_did_and_got_and_remembers_over_episodes(family: TrialFamily) -> None:
    learner = RL2(family, hidden=5)
    fresh = learner.policy.init_weights(torch_generator(0))
    weights = {n: v + 0.5 * torch.randn(v.shape, generator=torch_generator(1, n)) for n, v in fresh.items()}
    seen = learner.explore(weights, 3, 2, seed=4)
    n_seen, n_actions = family.n_observations, family.n_actions
    assert not bool(seen.seen[0, 0, :, n_seen:].any())
    action, reward, ended = seen.seen[1:, 0, :, n_seen:].split([n_actions, 1, 1], dim=-1)
    assert torch.equal(action.argmax(dim=-1), seen.acted[:, 0, :, 0].long())
    assert torch.equal(reward.squeeze(-1), seen.rewards[:, 0])
    every = 1 if family.name == "bandits" else 3
    assert torch.equal(
        ended[:, 0, 0], torch.tensor([float((k + 1) % every == 0) for k in range(family.n_steps)])
    )

    state, log_p = learner.policy.init_state(torch.zeros(6, 1)), []
    for rows, acted in zip(seen.seen[:-1, 0], seen.acted[:, 0, :, 0], strict=True):  # one state, never reset
        outputs, state = learner.policy.outputs(weights, state, rows.T)
        log_p.append(torch.log_softmax(outputs, dim=0).gather(0, acted.long().unsqueeze(0))[0])
    found = learner.log_probability(tree_map(lambda value: value.unsqueeze(0), weights), seen)
    torch.testing.assert_close(found[:, 0], torch.stack(log_p))


def test_episodes_of_a_trial_train_other_models_on_the_same_task() -> None:
    """Followed beside trainings of each repetition of the tasks alone, by whatever the actions are."""
    family = TrainingTrials(
        options={"dim": 3}, genes={"base": "sgd", "lr": 0.02, "interval": 1}, horizon=2, episodes=2
    )
    trials = family.begin(4, 2, torch_generator(0))
    seed = int(torch.randint(2**63 - 1, (), generator=torch_generator(0)))
    learner = Learner.of("discrete_controller", {**family.genes, "schedule": "constant"})
    first: list[torch.Tensor] = []
    for repetition in range(2):
        wanted = TaskRequest("quadratic", '{"dim": 3}', "meta_train", 4, 3, seed, repetition=repetition)
        (part,) = prepare(wanted, torch.device("cpu"))
        alone = OptimizationProcess(learner, (part,), 2)
        first.append(part.params)
        for actions in (torch.tensor([0, 1, 2, 0]), torch.tensor([2, 2, 0, 1])):
            torch.testing.assert_close(trials.observe(), alone.observe().repeat(2, 1))
            earned, ended = trials.step(actions.repeat(2))
            moves = torch.tensor(MOVES)[actions].unsqueeze(1).float()
            torch.testing.assert_close(earned, alone.step(moves).repeat(2))
            assert bool(ended.all()) == alone.is_over
    assert not torch.equal(*first), "the task is the same, the model another"


def test_trials_are_tested_on_tasks_of_another_split() -> None:
    family = TrainingTrials("digits", {"widths": [4], "depths": [1], "batch_size": 8}, horizon=1)
    seen, unseen = (
        one.begin(4, 1, torch_generator(0)).step(torch.zeros(4, dtype=torch.long))[0]
        for one in (family, family.unseen())
    )
    assert not torch.equal(seen, unseen)
    assert BernoulliBandits().unseen() == BernoulliBandits()


def test_a_policy_remembers_over_episodes_and_forgets_between_trials() -> None:
    """What happened in an episode changes what it would do when the next begins, and in no other trial."""
    learner = RL2(TrainingTrials(options={"dim": 2}, genes={"interval": 1}, horizon=2, episodes=2), hidden=5)
    fresh = learner.policy.init_weights(torch_generator(0))
    weights = {n: v + 0.5 * torch.randn(v.shape, generator=torch_generator(1, n)) for n, v in fresh.items()}
    seen = learner.explore(weights, 3, 8, seed=4)
    stacked = tree_map(lambda value: value.unsqueeze(0), weights)
    outputs = policy_outputs(learner.policy, stacked, seen.seen[:-1], seen.hidden)[:, 0]
    by_rollout = outputs.unflatten(1, (8, 3))
    assert torch.equal(by_rollout[0, 0], by_rollout[0, 7]), "every trial of a task begins alike"
    assert not bool(seen.hidden["hidden"].any())
    without = policy_outputs(learner.policy, stacked, seen.seen[2:3], seen.hidden)[0, 0]
    assert bool((outputs[2] - without).abs().max() > 0.01)


def test_trials_grow_from_short_ones_to_whole_ones() -> None:
    how = Training(updates=8, first_steps=10)
    assert [how.n_steps(update, 160) for update in range(8)] == [10, 20, 40, 80, 160, 160, 160, 160]
    assert [how.n_steps(update, 6) for update in range(8)] == [6] * 8


def test_it_learns_to_stay_with_what_pays() -> None:
    """Two arms, six pulls: any arms earn 3; always the better one, if it were known, 4."""
    family = BernoulliBandits(arms=2, pulls=6)
    learner, told = RL2(family, hidden=8), []
    how = Training(hidden=8, updates=60, tasks=32, rollouts=8, lr=3e-2)
    weights = learner.train(how, 0, lambda update, earned: told.append((update, earned)))
    earned = learner.rewards(weights, 4000, seed=9).sum(dim=0)
    greedy = rewards(family, EpsilonGreedy(0.0), 4000, torch_generator(9)).sum(dim=0)
    assert [update for update, _ in told] == list(range(60))
    assert float(earned.mean()) > 3.4
    assert float(earned.mean()) == pytest.approx(float(greedy.mean()), abs=0.15)


@pytest.mark.parametrize("family", [BernoulliBandits, TabularMDPs])
@pytest.mark.parametrize("value", [0, 2.0, True])
def test_options_that_make_no_process_get_one_line(family: type[TrialFamily], value: object) -> None:
    option = next(iter(family.__dataclass_fields__))  # type: ignore[attr-defined]
    with pytest.raises(EvometaError, match=rf"{family.name}: {option} is .*expected a whole number") as error:
        family(**{option: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"episodes": 0}, "episodes is 0, expected a whole number from 1 on"),
        ({"task": 3}, "task is 3, expected the name of a task family"),
        ({"genes": 3}, "genes is 3, expected a table"),
        ({"options": {"dim": -1}}, "option 'dim' is -1"),
        ({"genes": {"base": "newton"}}, "gene 'base': got 'newton'"),
    ],
)
def test_trainings_that_cannot_be_get_one_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(EvometaError, match=says) as error:
        TrainingTrials(**options)
    assert "\n" not in str(error.value)


def test_a_policy_is_the_same_for_the_same_seed() -> None:
    family = BernoulliBandits(arms=2, pulls=2)
    how = Training(hidden=4, updates=2, tasks=4, rollouts=2)
    one, again, other = (RL2(family, 4).train(how, seed, lambda *_: None) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert math.isfinite(float(RL2(family, 4).rewards(one, 10, 0).mean()))
