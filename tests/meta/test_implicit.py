"""Implicit meta-gradients against closed forms: the decay constant of a formula, tuned on held-out rows."""

from __future__ import annotations

import pytest
import torch
from compute_device import DEVICE
from torch import Tensor

from evometa.genome.genes import Value
from evometa.inner.cohort import Candidate, Cohort
from evometa.meta import ESTIMATORS, MetaProblem, TaskStream, meta_genes, refine
from evometa.meta.augmentation import Part
from evometa.meta.episodes import draw_episode
from evometa.rng import torch_generator
from evometa.rules import Learner
from evometa.trees import Tree

RATE, DECAY = 0.25, 0.3
#: Gradient descent with the decay of a ridge regression: its steps end where that is solved.
RIDGE = f"add(g, mul({DECAY}, p))"
#: The same with momentum, which has a state to come to rest too.
RIDGE_WITH_MOMENTUM = f"add(sum(0.5), mul({DECAY}, p))"
N_TASKS, HORIZON = 2, 400


def candidate(expression: str = RIDGE, rate: float = RATE) -> Candidate:
    learner = Learner.of("symbolic", {"expression": expression, "lr": rate, "schedule": "constant"})
    return Candidate("x", "symbolic", dict(learner.genes), learner.init_weights(torch_generator(0, "w")))


def stream(horizon: int = HORIZON) -> TaskStream:
    return TaskStream("ridge_task:family", "{}", N_TASKS, horizon, seed=3)


def genes(**given: Value) -> dict[str, Value]:
    named = {f"meta.{name}": value for name, value in given.items()}
    common: dict[str, Value] = {
        "meta.judged_on": "valid",
        "meta.loss": "last",
        "meta.write_back": "lamarckian",
    }
    return meta_genes({"meta.estimator": "implicit", "meta.unroll_length": 500, **common, **named})


def estimates(n: int, members: list[Candidate], horizon: int = HORIZON, **given: Value) -> list[Tree]:
    """The first n meta-gradients, at the weights as they are, in float64."""
    cohort = Cohort.of(members, DEVICE, torch.float64)
    complete = genes(**given)
    problem = MetaProblem(cohort, (complete,) * len(members), (stream(horizon),), DEVICE, torch.float64)
    session = ESTIMATORS[str(complete["meta.estimator"])].begin(problem)
    return [session.estimate(cohort.weights).grads for _ in range(n)]


def of_decay(grads: Tree) -> Tensor:
    """By the logarithm of the decay constant, (P,)."""
    return grads["rule.log_factors"][:, 0].cpu()


class Ridge:
    """The task in closed form."""

    def __init__(self) -> None:
        part: Part
        (part,) = draw_episode(stream(), 0, genes(), torch.device("cpu"), torch.float64).parts
        self.start = part.params
        train = part.tasks.batch(part.tasks.train_rows)
        valid = part.tasks.valid_batch()
        assert valid is not None
        self.x, self.y = train["x"][0], train["y"][0, :, 0]
        self.x_valid, self.y_valid = valid["x"][0], valid["y"][0, :, 0]
        self.hessian = 2 * self.x.T @ self.x / len(self.x)

    def grad(self, params: Tensor) -> Tensor:
        return 2 * self.x.T @ (self.x @ params - self.y) / len(self.x)

    def valid_grad(self, params: Tensor) -> Tensor:
        return 2 * self.x_valid.T @ (self.x_valid @ params - self.y_valid) / len(self.x_valid)

    def by_log_decay(self, scale: float = 1.0) -> Tensor:
        """dL_valid/d log c at the solution of (H + s·c)θ = b, where ``scale`` s multiplies the penalty."""
        shrunk = self.hessian + scale * DECAY * torch.eye(len(self.hessian), dtype=torch.float64)
        solution = torch.linalg.solve(shrunk, 2 * self.x.T @ self.y / len(self.x))
        return -scale * DECAY * self.valid_grad(solution) @ torch.linalg.solve(shrunk, solution)


def test_at_a_fixed_point_many_terms_give_the_closed_form() -> None:
    (found,) = estimates(1, [candidate()], truncation=100, unroll_length=100, neumann_terms=100)
    torch.testing.assert_close(of_decay(found)[0], Ridge().by_log_decay(), rtol=1e-6, atol=0)


def test_the_state_of_a_rule_comes_to_rest_with_its_params() -> None:
    """Sums of gradients with decay ½ are twice the gradient at rest, so the penalty counts half."""
    (found,) = estimates(
        1, [candidate(RIDGE_WITH_MOMENTUM, 0.1)], truncation=200, unroll_length=200, neumann_terms=200
    )
    torch.testing.assert_close(of_decay(found)[0], Ridge().by_log_decay(0.5), rtol=1e-6, atol=0)


def test_one_term_is_the_one_step_gradient_of_t1_t2() -> None:
    """Luketina et al. 2016, equation 3: −η·∇L₂(θ′)·∂∇L₁(θ)/∂λ, here at the last of five steps."""
    ridge, expected = Ridge(), torch.zeros((), dtype=torch.float64)
    for after in ridge.start:
        for _ in range(5):
            before = after
            after = before - RATE * (ridge.grad(before) + DECAY * before)
        expected = expected - RATE * DECAY * ridge.valid_grad(after) @ before / N_TASKS
    (found,) = estimates(1, [candidate()], truncation=5, neumann_terms=1)
    torch.testing.assert_close(of_decay(found)[0], expected, rtol=1e-10, atol=0)


def test_training_goes_on_between_the_estimates() -> None:
    """A second segment continues where the first ended."""
    by_ones = estimates(2, [candidate()], truncation=10, unroll_length=20)[1]
    whole = estimates(1, [candidate()], truncation=20, unroll_length=20)[0]
    torch.testing.assert_close(of_decay(by_ones), of_decay(whole), rtol=1e-10, atol=0)


def test_it_nears_backpropagation_through_all_of_training_without_its_memory() -> None:
    common: dict[str, Value] = {"truncation": 100, "unroll_length": 100}
    (implicit,) = estimates(1, [candidate()], neumann_terms=100, **common)
    (unrolled,) = estimates(1, [candidate()], estimator="tbptt", second_order=True, **common)
    torch.testing.assert_close(of_decay(implicit), of_decay(unrolled), rtol=1e-6, atol=0)


def test_a_learning_rate_has_no_gradient_at_rest() -> None:
    (found,) = estimates(1, [candidate()], truncation=100, unroll_length=100, neumann_terms=100)
    assert abs(float(found["rule.log_rate"][0, 0])) < 1e-9 * abs(float(of_decay(found)[0]))


@pytest.mark.parametrize("n_terms", [1, 5])
def test_candidates_together_equal_each_alone(n_terms: int) -> None:
    members = [candidate(f"add(g, mul({decay}, p))") for decay in (0.1, 0.7)]
    (together,) = estimates(1, members, truncation=5, neumann_terms=n_terms)
    for place, one in enumerate(members):
        (alone,) = estimates(1, [one], truncation=5, neumann_terms=n_terms)
        torch.testing.assert_close(of_decay(together)[place], of_decay(alone)[0], rtol=1e-12, atol=0)


def test_meta_training_moves_the_decay_to_where_held_out_rows_ask_for_it() -> None:
    """Most of the way to the best of a search over decays, by the closed form."""
    ridge, eye = Ridge(), torch.eye(3, dtype=torch.float64)

    def valid_loss(decay: float) -> float:
        params = torch.linalg.solve(ridge.hessian + decay * eye, 2 * ridge.x.T @ ridge.y / len(ridge.x))
        return float((ridge.x_valid @ params - ridge.y_valid).square().mean())

    start = candidate()
    own = {**start.genes, **genes(steps=40, lr=0.03, lr_decay="none", truncation=10, neumann_terms=5)}
    refined = refine([Candidate("x", "symbolic", own, start.weights)], [stream()], DEVICE, torch.float64)
    learned = DECAY * float(refined.weights[0]["rule.log_factors"][0].exp())
    best = min(valid_loss(10 ** (k / 50)) for k in range(-150, 100))
    assert valid_loss(learned) - best < 0.4 * (valid_loss(DECAY) - best)
