"""Random quadratics f(x) = ‖Wx − y‖², the standard first test of a learned optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from evometa.layout import Layout
from evometa.tasks.base import Batch, Split, TaskBatch, TaskFamily
from evometa.tasks.options import check_choice, check_integer, check_range, check_request, refuse
from evometa.tasks.sampling import log_uniform

KINDS = ("l2l", "open_l2o", "conditioned")

#: Condition numbers of the Hessian in each split of kind "conditioned".
CONDITIONS: dict[Split, tuple[float, float]] = {
    "meta_train": (10.0, 1e3),
    "meta_valid": (30.0, 3e3),
    "meta_test": (1e2, 1e4),
}

#: Ten orders of magnitude below the starts (≈106 and ≈3.35) float32 is still exact to ~1e-12; a first-order
#: method that gets below a millionth within some hundred steps has solved the task.
NOISE_FLOOR = 1e-6


@dataclass(frozen=True)
class Quadratic(TaskFamily):
    """f(x) = ‖Wx − y‖² of ``dim`` coordinates, without minibatch noise; the minimum is 0.

    The splits share one distribution, but for the condition numbers of kind "conditioned".

    Attributes:
        kind: "l2l": W, y, x₀ ~ N(0, 1) (Andrychowicz et al. 2016); "open_l2o": W, y ~ U(0, 1) and
            x₀ ~ N(0, 0.01²) (Chen et al. 2022); "conditioned": the Hessian 2WᵀW has a condition number drawn
            log-uniformly, eigenvalues spread evenly in the logarithm from 1 down, and random axes; the
            minimum and x₀ ~ N(0, 1).
        dim: number of coordinates.
        condition: range of the condition numbers, for all splits; None: each split's own. For kind
            "conditioned" alone.
    """

    kind: Literal["l2l", "open_l2o", "conditioned"] = "l2l"
    dim: int = 10
    condition: tuple[float, float] | None = None

    name = "quadratic"
    summary = "random quadratics ‖Wx − y‖²: exact losses, closed-form gradients"

    def __post_init__(self) -> None:
        check_choice(self.name, "kind", self.kind, KINDS)
        check_integer(self.name, "dim", self.dim, 1)
        if self.condition is not None:
            if self.kind != "conditioned":
                raise refuse(self.name, "condition", self.condition, 'left out unless kind = "conditioned"')
            check_range(self.name, "condition", self.condition)
            if self.condition[0] < 1:
                raise refuse(self.name, "condition", self.condition, "numbers of at least 1")

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """One batch of ``n_tasks`` quadratics."""
        check_request(self.name, split, n_tasks)
        if self.kind == "conditioned":
            condition = log_uniform((n_tasks,), self.condition or CONDITIONS[split], generator)
            constants = _conditioned(self.dim, condition, generator)
        else:
            draw = torch.randn if self.kind == "l2l" else torch.rand
            constants = {
                "W": draw((n_tasks, self.dim, self.dim), generator=generator),
                "y": draw((n_tasks, self.dim), generator=generator),
            }
        batch = TaskBatch(
            family=self.name,
            description=f"quadratic {self.kind}, {self.dim} coordinates",
            n_tasks=n_tasks,
            layout=Layout.of({"x": (self.dim,)}),
            loss=quadratic_loss,
            init_params=partial(self._init_params, n_tasks),
            constants=constants,
            noise_floor=NOISE_FLOOR,
            loss_and_grad=quadratic_loss_and_grad,
        )
        return [batch]

    def _init_params(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        scale = 0.01 if self.kind == "open_l2o" else 1.0
        return scale * torch.randn((n_tasks, self.dim), generator=generator)


def _conditioned(dim: int, condition: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """W and y where 2WᵀW has eigenvalues from 1 down to 1/``condition`` (T,), and Wx = y for x ~ N(0, 1)."""
    n_tasks = len(condition)
    axes = torch.linalg.qr(torch.randn((n_tasks, dim, dim), generator=generator)).Q
    spread = torch.linspace(0.0, 1.0, dim)
    weight = (condition.unsqueeze(-1) ** -spread / 2).sqrt().unsqueeze(-1) * axes
    minimum = torch.randn((n_tasks, dim), generator=generator)
    return {"W": weight, "y": (weight @ minimum.unsqueeze(-1)).squeeze(-1)}


def quadratic_loss(params: Tensor, batch: Batch) -> Tensor:
    """‖Wx − y‖² at x = ``params`` (N,); W is (N, N), y (N,)."""
    return (batch["W"] @ params - batch["y"]).square().sum()


def quadratic_loss_and_grad(params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Losses (P, T) and gradients 2 Wᵀ(Wx − y) (P, T, N) at ``params`` (P, T, N).

    Each run's sums are its own: a matrix product of all candidates would round by how many there are.
    """
    weight, target = batch["W"], batch["y"]
    residual = (weight * params.unsqueeze(-2)).sum(-1) - target
    grads = 2 * (weight * residual.unsqueeze(-1)).sum(-2)
    return residual.square().sum(-1), grads
