"""A rule whose meta-gradient can be written down, on quadratics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from compute_device import DEVICE
from torch import Tensor

from evometa.genome.genes import Value
from evometa.genome.space import Space
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.task_set import PreparedTasks, prepare, request
from evometa.meta import ESTIMATORS, MetaProblem, TaskStream, meta_genes
from evometa.rng import derive_seed
from evometa.rules import RULES
from evometa.rules.base import RuleFamily, UpdateRule
from evometa.trees import Tree

CPU = torch.device("cpu")
DIM, N_TASKS = 4, 3
#: What other genes depend on.
SWITCHES = ("meta.estimator", "meta.horizon", "meta.reparametrisation", "meta.loss_scaling")
LENGTHS = {"unroll_length": 20, "truncation": 5}


class ShrinkingDescent(UpdateRule):
    """θ ← θ − φ₀·∇L − φ₁·θ with learned φ."""

    def init_weights(self, generator: torch.Generator) -> Tree:
        return {"rate": torch.tensor(0.01), "shrinkage": torch.tensor(0.02)}

    def init_state(self, weights: Tree, params: Tensor, layout: Any) -> Tree:
        return {}

    def update(
        self, weights: Tree, hyper: Any, state: Tree, grads: Tensor, params: Tensor, context: Any
    ) -> tuple[Tensor, Tree]:
        return -weights["rate"] * grads - weights["shrinkage"] * params, state


class ShrinkingDescentFamily(RuleFamily):
    name = "shrinking_descent"
    summary = "gradient descent at a learned rate with a learned decay"
    learned = True

    @property
    def space(self) -> Space:
        return Space()

    def build(self, genes: Any) -> UpdateRule:
        return ShrinkingDescent()

    def describe(self, genes: Any) -> str:
        return self.summary

    def formula(self, genes: Any) -> str:
        return "θ ← θ − φ₀·∇L − φ₁·θ"


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule in the registry, for the tests of this folder alone."""
    monkeypatch.setitem(RULES._members, ShrinkingDescentFamily.name, ShrinkingDescentFamily())


@dataclass(frozen=True)
class Setting:
    """Two candidates (rows of ``points``: φ₀, φ₁) on random quadratics, in float64.

    An episode has 12 steps, cut into segments of 5, 5 and 2.
    """

    points: Tensor
    stream: TaskStream

    def candidates(self, **genes: Value) -> list[Candidate]:
        """Without the prefix ``meta.``; a tuple holds each candidate's own value."""
        trees = [{"rule.rate": row[0], "rule.shrinkage": row[1]} for row in self.points]
        found = []
        for i, tree in enumerate(trees):
            own = {f"meta.{k}": v[i] if isinstance(v, tuple) else v for k, v in (LENGTHS | genes).items()}
            switches = {name: own[name] for name in SWITCHES if name in own}
            # Set, not completed: a test may go beyond what the genes offer.
            complete = {"schedule": "constant", **meta_genes(switches), **own}
            found.append(Candidate(f"{i}", "shrinking_descent", complete, tree))
        return found

    def problem(self, **genes: Value) -> MetaProblem:
        candidates = self.candidates(**genes)
        cohort = Cohort.of(candidates, DEVICE, torch.float64)
        own = tuple(candidate.genes for candidate in candidates)
        return MetaProblem(cohort, own, (self.stream,), DEVICE, torch.float64)

    def estimates(self, name: str, **genes: Value) -> Tensor:
        """The meta-gradients of one episode's segments at fixed weights, ``(3, P, 2)`` on the CPU."""
        problem = self.problem(estimator=name, **genes)
        session = ESTIMATORS[name].begin(problem)
        found = [session.estimate(problem.cohort.weights).grads for _ in range(3)]
        return torch.stack([torch.stack([g["rule.rate"], g["rule.shrinkage"]], dim=1) for g in found]).cpu()

    def exact(self, *, through_gradient: bool = True, truncated: bool = True) -> Tensor:
        """What :meth:`estimates` estimates, by hand: d/dφ of each segment's mean loss, ``(3, P, 2)``.

        With gradient 2Wᵀ(Wθ − y) and Hessian H = 2WᵀW of ‖Wθ − y‖², the sensitivity S = dθ/dφ ``(N, 2)``
        follows S ← S − φ₀HS − φ₁S − [∇L, θ], without the term in H where the inner gradient is held fixed.
        Truncated, S is 0 again where a segment starts.
        """
        part = self._tasks()
        batch = part.tasks.batch(None)
        found = torch.zeros((3, *self.points.shape), dtype=torch.float64)
        for i, (rate, shrinkage) in enumerate(self.points.tolist()):
            for matrix, target, params in zip(batch["W"], batch["y"], part.params, strict=True):
                hessian = 2 * matrix.T @ matrix
                sensitivity = torch.zeros(DIM, 2, dtype=torch.float64)
                for k in range(12):
                    if truncated and k % 5 == 0:
                        sensitivity = torch.zeros_like(sensitivity)
                    grad = 2 * matrix.T @ (matrix @ params - target)
                    curved = rate * hessian @ sensitivity if through_gradient else 0
                    direct = torch.stack([grad, params], dim=1)
                    sensitivity = sensitivity - curved - shrinkage * sensitivity - direct
                    params = params - rate * grad - shrinkage * params
                    slope = 2 * matrix.T @ (matrix @ params - target) @ sensitivity
                    found[k // 5, i] += slope / ((5, 5, 2)[k // 5] * N_TASKS)
        return found

    def with_seed(self, seed: int) -> Setting:
        """The same candidates on other tasks, under other perturbations."""
        return replace(self, stream=replace(self.stream, seed=seed))

    def _tasks(self) -> PreparedTasks:
        seed = derive_seed(self.stream.seed, "episode", 0)
        wanted = request("quadratic", {"dim": DIM}, "meta_train", N_TASKS, 13, seed)
        (part,) = prepare(wanted, CPU, torch.float64)
        return part


@pytest.fixture
def setting() -> Setting:
    points = torch.tensor([[0.01, 0.02], [0.03, 0.05]], dtype=torch.float64)
    return Setting(points, TaskStream("quadratic", f'{{"dim": {DIM}}}', N_TASKS, horizon=12, seed=3))
