"""Estimators for controllers: REINFORCE against an enumeration, PPO against REINFORCE, DQN by hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from evometa.environments.process import OptimizationProcess
from evometa.errors import GenomeError
from evometa.genome.genes import Value
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.evaluate import evaluate
from evometa.inner.task_set import request
from evometa.meta import ESTIMATORS, MetaProblem, Session, TaskStream, meta_genes, refine, rollouts
from evometa.meta.dqn import epsilon, greedily, td_targets
from evometa.meta.episodes import draw_episode
from evometa.meta.genes import per_candidate
from evometa.meta.policy_gradient import advantages, draw, log_probability
from evometa.meta.ppo import clipped_loss
from evometa.meta.reward import MOST_ABOVE, Level, rewards
from evometa.meta.rollouts import Experience, Rollouts
from evometa.rng import torch_generator
from evometa.rules import Learner
from evometa.rules.controller import MOVES, ControllerRule
from evometa.trees import Tree, stack, under_prefix

CPU = torch.device("cpu")
#: Four inner steps, of which the controller decides before the first and the third.
STREAM = TaskStream("quadratic", '{"dim": 2}', n_tasks=2, horizon=4, seed=3)
GENES: dict[str, Value] = {"base": "sgd", "lr": 0.02, "hidden": 4, "schedule": "constant", "interval": 1}
N_DECISIONS = 2


class Case:
    """A controller that has opinions, and the problem of training it."""

    def __init__(self, estimator: str, family: str = "discrete_controller", **genes: Value) -> None:
        meta = {f"meta.{name}": value for name, value in genes.items() if f"meta.{name}" in _META}
        own = {**GENES, **{name: value for name, value in genes.items() if f"meta.{name}" not in _META}}
        self.genes = meta_genes(
            {"meta.estimator": estimator, "meta.unroll_length": 10, "meta.truncation": 10, **meta}
        )
        self.learner = Learner.of(family, own)
        generator = torch_generator(0, "weights")
        fresh = self.learner.init_weights(generator)
        self.weights: Tree = {
            name: value.double() + 0.5 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
            for name, value in fresh.items()
        }
        candidate = Candidate("0", family, {**own, **self.genes}, self.weights)
        self.cohort = Cohort.of([candidate], CPU, torch.float64)
        self.estimator = estimator

    def problem(self, stream: TaskStream = STREAM) -> MetaProblem:
        return MetaProblem(self.cohort, (self.genes,), (stream,), CPU, torch.float64)

    def session(self, stream: TaskStream = STREAM) -> Session:
        return ESTIMATORS[self.estimator].begin(self.problem(stream))

    @property
    def rule(self) -> ControllerRule:
        assert isinstance(self.learner.rule, ControllerRule)
        return self.learner.rule


_META = {gene.name for _, estimator in ESTIMATORS for gene in estimator.space} | {
    "meta.unroll_length",
    "meta.truncation",
    "meta.steps",
}


def exact_gradient(case: Case, stream: TaskStream, number: int) -> Tree:
    """Minus the derivative of the expected return, over every sequence of actions on every task."""
    parts = draw_episode(stream, number, case.genes, CPU, torch.float64).parts
    scale = torch.tensor(float(case.genes["meta.exploration"]), dtype=torch.float64)  # type: ignore[arg-type]
    leaves = {name: value.clone().requires_grad_() for name, value in case.weights.items()}
    own, n_tasks = under_prefix("rule", leaves), stream.n_tasks
    expected = torch.zeros((), dtype=torch.float64)
    for actions in itertools.product(range(len(MOVES)), repeat=N_DECISIONS):
        process = OptimizationProcess(case.learner, parts, stream.horizon)
        log_p = torch.zeros(n_tasks, dtype=torch.float64)
        total = torch.zeros(n_tasks, dtype=torch.float64)
        for action in actions:
            seen = process.observe()
            outputs, _ = case.rule.policy.outputs(own, {}, seen.T)
            log_p = log_p + torch.log_softmax(outputs / scale, dim=0)[action]
            total = total + process.step(torch.full((n_tasks, 1), float(MOVES[action]), dtype=torch.float64))
        assert process.is_over
        expected = expected + (log_p.exp() * total).mean()
    return dict(zip(leaves, torch.autograd.grad(-expected, list(leaves.values())), strict=True))


def flat(tree: Tree, index: int | None = None) -> Tensor:
    return torch.cat([(value if index is None else value[index]).flatten() for value in tree.values()])


def test_the_mean_of_reinforce_is_the_exact_policy_gradient() -> None:
    """Two decisions of three actions, enumerated; no component is four standard errors off, few are two."""
    stream = replace(STREAM, horizon=N_DECISIONS)
    case = Case("reinforce", rollouts=256)
    session = case.session(stream)
    errors, exact = [], []
    for number in range(25):
        exact.append(flat(exact_gradient(case, stream, number)))
        errors.append(flat(session.estimate(case.cohort.weights).grads, 0) - exact[-1])
    error = torch.stack(errors)
    z = error.mean(dim=0) / (error.std(dim=0) / math.sqrt(len(error))).clamp(min=1e-15)
    assert float(z.abs().max()) < 4
    assert float((z.abs() < 2).double().mean()) > 0.8
    assert float(error.mean(dim=0).norm()) < 0.1 * float(torch.stack(exact).mean(dim=0).norm())


@pytest.mark.parametrize("family", ["controller", "discrete_controller"])
@pytest.mark.parametrize("policy", ["mlp", "gru"])
def test_at_the_weights_that_explored_ppo_is_reinforce(family: str, policy: str) -> None:
    options: dict[str, Value] = {"policy": policy, "rollouts": 4}
    one, other = Case("reinforce", family, **options), Case("ppo", family, **options)
    plain, clipped = (case.session().estimate(case.cohort.weights) for case in (one, other))
    for name, value in plain.grads.items():
        torch.testing.assert_close(clipped.grads[name], value, rtol=1e-9, atol=1e-12)
    assert any(bool((value != 0).any()) for value in plain.grads.values())
    assert plain.n_inner_steps == clipped.n_inner_steps == 4 * 2 * STREAM.horizon


def test_ppo_explores_once_for_all_its_epochs() -> None:
    case = Case("ppo", rollouts=2, epochs=3)
    session = case.session()
    steps = [session.estimate(case.cohort.weights).n_inner_steps for _ in range(7)]
    assert steps == [16, 0, 0, 16, 0, 0, 16]


def test_the_clipped_objective_by_hand() -> None:
    """Of four decisions in a row: within the range, clipped above, not clipped where that would flatter."""
    log_ratio = torch.tensor([0.1, 0.5, 0.5, -1.0]).reshape(4, 1, 1)
    advantage = torch.tensor([2.0, 3.0, -1.0, -2.0]).reshape(4, 1, 1)
    loss = clipped_loss(log_ratio, advantage, torch.tensor([[0.2]]))
    expected = -(2.0 * math.exp(0.1) + 3.0 * 1.2 - math.exp(0.5) - 2.0 * 0.8)
    assert math.isclose(float(loss), expected, rel_tol=1e-6)


def experience(
    rewards: Tensor, *, n_rollouts: int = 1, ended: bool = True, lost_from: int = 99
) -> Experience:
    """Of one candidate, decisions × trainings; from decision ``lost_from`` on nothing is alive."""
    n_decisions, n_trainings = rewards.shape
    alive = torch.ones(n_decisions + 1, 1, n_trainings)
    alive[lost_from:] = 0
    return Experience(
        seen=torch.zeros(n_decisions + 1, 1, n_trainings, 1),
        acted=torch.zeros(n_decisions, 1, n_trainings, 1),
        rewards=rewards.unsqueeze(1),
        alive=alive,
        hidden={},
        ended=ended,
        n_rollouts=n_rollouts,
        losses=torch.zeros(1),
        n_inner_steps=0,
    )


def test_an_advantage_is_over_the_other_rollouts_of_the_same_task() -> None:
    """Three rollouts of two tasks, side by side; what is to come after the first decision, and after it."""
    rewards = torch.tensor([[1.0, 10.0, 2.0, 20.0, 6.0, 30.0], [1.0, 0.0, 1.0, 0.0, 4.0, 0.0]])
    found = advantages(experience(rewards, n_rollouts=3))[:, 0]
    to_go = torch.tensor([[2.0, 3.0, 10.0], [1.0, 1.0, 4.0]])
    expected = torch.stack([one - (to_go.sum(dim=1) - one) / 2 for one in to_go.T], dim=1)
    torch.testing.assert_close(found[:, ::2], expected)
    torch.testing.assert_close(found[0, 1::2], torch.tensor([10 - 25.0, 0.0, 30 - 15.0]))


def test_double_td_targets_on_a_chain_of_two_states() -> None:
    """In the first state −1 or go on, in the second 5 and the end; discount ½.

    What is best next the controller says, what it is worth the target network: of the second state 3, of the
    third 9, whichever the target network itself would prefer.
    """
    online = torch.tensor([[2.0, 1.0], [8.0, 4.0], [1.0, 2.0]]).reshape(3, 1, 1, 2)
    target = torch.tensor([[2.0, 1.0], [3.0, 4.0], [7.0, 9.0]]).reshape(3, 1, 1, 2)
    rewards = torch.tensor([[-1.0], [5.0]])
    half = torch.tensor([[0.5]])
    ended = td_targets(online, target, experience(rewards), half).flatten().tolist()
    assert ended == [-1.0 + 0.5 * 3.0, 5.0]
    going_on = td_targets(online, target, experience(rewards, ended=False), half).flatten().tolist()
    assert going_on == [-1.0 + 0.5 * 3.0, 5.0 + 0.5 * 9.0]
    lost = td_targets(online, target, experience(rewards, ended=False, lost_from=1), half).flatten().tolist()
    assert lost == [-1.0, 5.0]


def test_exploration_falls_from_blind_to_its_floor_over_the_first_half() -> None:
    floors = torch.tensor([0.2, 1.0])
    found = torch.stack([epsilon(progress, floors) for progress in (0.0, 0.25, 0.5, 0.9)])
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0], [0.6, 1.0], [0.2, 1.0], [0.2, 1.0]]))


def test_dqn_explores_with_the_share_of_its_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    case, told = Case("dqn", epochs=2, epsilon=0.2, steps=8), []
    explore = Rollouts.explore

    def noted(self: Rollouts, weights: Tree, scale: Tensor) -> Experience:
        told.append(float(scale))
        return explore(self, weights, scale)

    monkeypatch.setattr(Rollouts, "explore", noted)
    session = case.session()
    for _ in range(8):
        session.estimate(case.cohort.weights)
    assert told == pytest.approx([1.0, 0.6, 0.2, 0.2])


def test_dqn_explores_between_its_epochs_and_learns_from_what_it_remembers() -> None:
    case = Case("dqn", epochs=2, replay=4)
    session = case.session()
    found = [session.estimate(case.cohort.weights) for _ in range(4)]
    assert [one.n_inner_steps for one in found] == [8, 0, 8, 0]
    first, again, *_ = (flat(one.grads) for one in found)
    torch.testing.assert_close(first, again)  # one segment is remembered, and the weights are the same


def test_dqns_gradient_is_that_of_the_error_to_targets_that_stand_still() -> None:
    """One segment, seen again with other weights: targets by hand from the rewards of the environment.

    The target network has the first weights still.
    """
    case = Case("dqn", epsilon=1.0, one_minus_discount=0.1, epochs=2)
    like = case.cohort.weights["rule.output.bias"]
    blindly = per_candidate((case.genes,), "meta.epsilon", like)
    seen = Rollouts(case.problem(), greedily, 1).explore(case.cohort.weights, blindly)
    session = case.session()
    session.estimate(case.cohort.weights)
    own = {name: (-2.0 * value).requires_grad_() for name, value in case.weights.items()}

    def values(weights: Tree, d: int, b: int) -> Tensor:
        return case.rule.policy.outputs(under_prefix("rule", weights), {}, seen.seen[d, 0, b].unsqueeze(1))[0]

    total = torch.zeros((), dtype=torch.float64)
    n_decisions, _, n_trainings, _ = seen.acted.shape
    for b, d in itertools.product(range(n_trainings), range(n_decisions)):
        best, theirs = values(own, d + 1, b).argmax(), values(case.weights, d + 1, b)
        to_come = 0.9 * theirs[best] if d + 1 < n_decisions else 0.0
        found = values(own, d, b)[int(seen.acted[d, 0, b, 0]), 0]
        total = total + 0.5 * (found - (seen.rewards[d, 0, b] + to_come)) ** 2
    expected = torch.autograd.grad(total / (n_trainings * n_decisions), list(own.values()))
    grads = session.estimate({name: value.detach().unsqueeze(0) for name, value in own.items()}).grads
    for value, wanted in zip(grads.values(), expected, strict=True):
        torch.testing.assert_close(value[0], wanted, rtol=1e-9, atol=1e-12)


def test_actions_are_drawn_as_often_as_the_policy_says() -> None:
    rule = Case("reinforce").rule
    outputs = torch.tensor([[0.2], [-0.3], [0.6]], dtype=torch.float64).expand(3, 20_000)
    noise = torch.rand((4, 20_000), generator=torch_generator(0), dtype=torch.float64)
    scale = torch.tensor(0.5, dtype=torch.float64)
    acted, moves = draw(rule, outputs, noise, scale)
    share = torch.bincount(acted[0].long(), minlength=3) / 20_000
    expected = torch.softmax(outputs[:, 0] / scale, dim=0)
    torch.testing.assert_close(share.double(), expected, rtol=0, atol=0.01)
    assert torch.equal(moves[0], torch.tensor(MOVES, dtype=torch.float64)[acted[0].long()])
    log_p = log_probability(rule.actions, outputs.T, acted.T, scale)
    torch.testing.assert_close(log_p, expected.log()[acted[0].long()])


def test_continuous_actions_are_normal_around_the_policys_mean() -> None:
    rule = Case("reinforce", "controller").rule
    noise = torch.rand((2, 20_000), generator=torch_generator(0), dtype=torch.float64)
    scale = torch.tensor(0.5, dtype=torch.float64)
    outputs = torch.full((1, 20_000), 0.3, dtype=torch.float64)
    acted, moves = draw(rule, outputs, noise, scale)
    assert math.isclose(float(acted.mean()), 0.3, abs_tol=0.015)
    assert math.isclose(float(acted.std()), 0.5, abs_tol=0.015)
    torch.testing.assert_close(moves, torch.tanh(acted))
    density = torch.distributions.Normal(outputs, scale).log_prob(acted)
    found = log_probability(rule.actions, outputs.T, acted.T, scale)
    torch.testing.assert_close(found - found[0], (density - density[:, :1])[0])


@pytest.mark.parametrize(("share", "expected"), [(0.0, [2, 2, 2]), (1.0, [0, 1, 2])])
def test_epsilon_greedy_takes_the_best_or_any(share: float, expected: list[int]) -> None:
    noise = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.5, 0.5, 0.5]])
    outputs = torch.tensor([[0.0], [0.1], [0.2]]).expand(3, 3)
    acted, _ = greedily(Case("dqn").rule, outputs, noise, torch.tensor(share))
    assert acted[0].tolist() == expected


def test_rewards_add_up_to_the_fall_of_the_log_loss_and_a_lost_training_to_the_worst() -> None:
    first = Level.at_first(torch.tensor([8.0, 8.0, 8.0, 1e-9]), noise_floor=1e-6)
    losses = torch.tensor([[4.0, 1e9, 4.0, 1e-12], [2.0, 4.0, math.nan, 1.0], [1.0, 8.0, 1.0, 1e-7]])
    found, last = rewards(first, losses, noise_floor=1e-6)
    total = found.sum(dim=0).tolist()
    assert total == pytest.approx([math.log(8.0), 0.0, -MOST_ABOVE, 0.0], abs=1e-5)
    assert float(found[0, 1]) == pytest.approx(-MOST_ABOVE)
    assert last.lost.tolist() == [False, False, True, False]


@pytest.mark.parametrize("name", ["reinforce", "ppo", "dqn"])
def test_a_rollout_that_is_lost_counts_and_leaves_a_gradient(name: str) -> None:
    case = Case(name, base="sgd", lr=10.0, rollouts=4, epsilon=1.0)
    found = case.session(replace(STREAM, horizon=60)).estimate(case.cohort.weights)
    assert all(bool(torch.isfinite(value).all()) for value in found.grads.values())
    assert any(bool((value != 0).any()) for value in found.grads.values())


def test_segments_between_decisions_have_no_gradient() -> None:
    case = Case("reinforce", interval=10, truncation=5, rollouts=2)
    session = case.session(replace(STREAM, horizon=10))
    first, second = (flat(session.estimate(case.cohort.weights).grads) for _ in range(2))
    assert bool((first != 0).any())
    assert not bool((second != 0).any())


def test_an_estimator_refuses_rules_that_it_does_not_serve() -> None:
    learner = Learner.of("mlp", {"schedule": "constant"})
    genes = {**dict(learner.genes), **meta_genes({"meta.estimator": "dqn"})}
    candidate = Candidate("0", "mlp", genes, learner.init_weights(torch_generator(0)))
    with pytest.raises(GenomeError, match=r"'dqn' does not serve rule 'mlp' .*tbptt, es, pes"):
        refine([candidate], [STREAM], CPU)


@pytest.mark.parametrize("n_pieces", [1, 5])
def test_candidates_learn_as_each_alone_does_however_many_rollouts_train_at_once(
    n_pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(problem: MetaProblem, parts: object, n_particles: int, n_kept: int) -> list[Tensor]:
        return list(torch.arange(problem.cohort.n_candidates * n_particles).tensor_split(n_pieces))

    monkeypatch.setattr(rollouts, "pieces", cut)
    case = Case("reinforce", rollouts=8)
    weights = stack([case.weights, {name: 0.5 * value for name, value in case.weights.items()}])
    cohort = replace(
        case.cohort,
        weights=weights,
        hyper={name: value.repeat(2) for name, value in case.cohort.hyper.items()},
        n_candidates=2,
    )
    problem = replace(case.problem(), cohort=cohort, genes=(case.genes, case.genes))
    whole = ESTIMATORS["reinforce"].begin(problem).estimate(weights)
    alone = case.session().estimate(case.cohort.weights)
    for name, value in alone.grads.items():
        torch.testing.assert_close(whole.grads[name][:1], value, rtol=1e-9, atol=1e-12)


def test_a_controller_that_was_trained_beats_the_constant_rate_it_began_with() -> None:
    """Held-out quadratics, a learning rate that is far too small; told by the losses of real trainings."""
    stream = TaskStream("quadratic", '{"dim": 3}', n_tasks=16, horizon=30, seed=1)
    genes: dict[str, Value] = {
        **{"base": "sgd", "lr": 1e-3, "interval": 5, "hidden": 8, "schedule": "constant"},
        **meta_genes({"meta.estimator": "ppo", "meta.steps": 40, "meta.unroll_length": 50, "meta.lr": 2e-2}),
    }
    learner = Learner.of("controller", genes)
    before = Candidate("0", "controller", genes, learner.init_weights(torch_generator(0)))
    after = replace(before, weights=refine([before], [stream], CPU).weights[0])
    unseen = request("quadratic", {"dim": 3}, "meta_valid", 64, 31, seed=5)
    constant, controlled = (evaluate([one], unseen, CPU).losses[0, :, -1] for one in (before, after))
    assert (controlled < constant).mean() > 0.9
