"""Bandits, tabular processes, strategies for the former, and a policy that learns to learn on them."""

from __future__ import annotations

import math

import pytest
import torch

from evometa.environments.bandits import BernoulliBandits
from evometa.environments.rl2 import RL2, Training
from evometa.environments.strategies import (
    UCB1,
    EpsilonGreedy,
    Values,
    random,
    random_rewards,
    thompson,
    total_rewards,
)
from evometa.environments.tabular_mdps import TabularMDPs, TabularTrials
from evometa.environments.trials import TrialFamily
from evometa.errors import EvometaError
from evometa.rng import torch_generator
from evometa.trees import tree_map

FAMILIES = [BernoulliBandits(arms=3, pulls=4), TabularMDPs(states=4, actions=3, episodes=2, length=3)]
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
    earned = total_rewards(BernoulliBandits(5, pulls), strategy, 4000, torch_generator(1))
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
    earned = random_rewards(TabularMDPs(episodes=2), 2000, torch_generator(0))
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
    earned = learner.total_rewards(weights, 4000, seed=9)
    greedy = total_rewards(family, EpsilonGreedy(0.0), 4000, torch_generator(9))
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


def test_a_policy_is_the_same_for_the_same_seed() -> None:
    family = BernoulliBandits(arms=2, pulls=2)
    how = Training(hidden=4, updates=2, tasks=4, rollouts=2)
    one, again, other = (RL2(family, 4).train(how, seed, lambda *_: None) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert math.isfinite(float(RL2(family, 4).total_rewards(one, 10, 0).mean()))
