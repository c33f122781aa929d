"""Sparse recovery: a sparse vector from few linear measurements, by the LASSO (the setting of LISTA)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from evometa.layout import Layout
from evometa.tasks.base import Batch, Split, TaskBatch, TaskFamily
from evometa.tasks.options import check_choice, check_integer, check_number, check_request, flaw

MEASURES = ("excess", "nmse")

#: Starts lie at 0.1 to 10. In float32 the LASSO's objective is exact to about 1e-7 near its minimum, and so
#: is the excess: a hundred times that is solved.
NOISE_FLOOR = 1e-5

#: Where the iterations that find the optimum stop: the gap to a lower bound, in float64.
_GAP, _MOST_ITERATIONS = 1e-7, 20_000


@dataclass(frozen=True)
class SparseRecovery(TaskFamily):
    """b = Ax*: find the sparse x* from b and A; the splits share one distribution, and training starts at 0.

    A is normal with columns of norm 1; an entry of x* is N(0, 1) with probability ``density`` and 0 otherwise
    (the setting of LISTA in Open-L2O, Chen et al. 2022, has 250 measurements of 500 entries). A draw too
    faint for the penalty to leave anything of it is scaled up until something is left.

    Attributes:
        n_measurements: rows of A.
        dim: entries of x.
        density: expected share of entries that are not 0.
        penalty: λ of F(x) = ½‖Ax − b‖² + λ‖x‖₁.
        measure: "excess": the loss is F − min F + NOISE_FLOOR, its gradient the subgradient of F with
            sign(0) = 0. "nmse": the loss is ‖x − x*‖²/‖x*‖², while the gradient is Aᵀ(Ax − b): what a rule
            knows of λ it knows by itself. Meta-gradients by backpropagation lower ½‖Ax − b‖² then, those of
            evolution strategies the NMSE.
    """

    n_measurements: int = 32
    dim: int = 64
    density: float = 0.1
    penalty: float = 0.1
    measure: Literal["excess", "nmse"] = "excess"

    name = "sparse_recovery"
    summary = "a sparse vector from few linear measurements (LASSO), exact optimum known"

    def __post_init__(self) -> None:
        check_integer(self.name, "n_measurements", self.n_measurements, 1)
        check_integer(self.name, "dim", self.dim, 2)
        check_number(self.name, "density", self.density, 0.0, 1.0)
        check_number(self.name, "penalty", self.penalty, 0.0, 1e3)
        check_choice(self.name, "measure", self.measure, MEASURES)

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """One batch of ``n_tasks`` tasks, each with its own A and x*."""
        check_request(self.name, split, n_tasks)
        matrix = torch.randn((n_tasks, self.n_measurements, self.dim), generator=generator)
        matrix = matrix / torch.linalg.vector_norm(matrix, dim=1, keepdim=True)
        values = torch.randn((n_tasks, self.dim), generator=generator)
        chance = torch.rand((n_tasks, self.dim), generator=generator)
        kept = (chance < self.density) | (chance == chance.amin(1, keepdim=True))  # never none
        truth = torch.where(kept, values, 0.0)
        seen = (matrix.mT @ (matrix @ truth.unsqueeze(-1))).abs().amax((1, 2))
        truth = truth * (2 * self.penalty / seen).clamp(min=1.0).unsqueeze(-1)
        constants = {"A": matrix, "b": (matrix @ truth.unsqueeze(-1)).squeeze(-1)}
        if self.measure == "excess":
            constants["optimum"] = lasso_minimum(matrix, constants["b"], self.penalty)[1].float()
        else:
            constants["truth"] = truth
        batch = TaskBatch(
            family=self.name,
            description=f"{self.dim} entries from {self.n_measurements} measurements, {self.measure}",
            n_tasks=n_tasks,
            layout=Layout.of({"x": (self.dim,)}),
            loss=partial(lasso_excess, self.penalty) if self.measure == "excess" else recovery_error,
            init_params=partial(_init_params, n_tasks, self.dim),
            constants=constants,
            noise_floor=NOISE_FLOOR,
            loss_and_grad=(
                partial(lasso_excess_and_grad, self.penalty)
                if self.measure == "excess"
                else recovery_error_and_grad
            ),
        )
        return [batch]


def lasso_excess(penalty: float, params: Tensor, batch: Batch) -> Tensor:
    """½‖Ax − b‖² + λ‖x‖₁ − its minimum + NOISE_FLOOR at x = ``params`` (N,)."""
    squares = 0.5 * (batch["A"] @ params - batch["b"]).square().sum()
    return squares + penalty * params.abs().sum() - batch["optimum"] + NOISE_FLOOR


def lasso_excess_and_grad(penalty: float, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """As :func:`lasso_excess` for ``params`` (P, T, N), with subgradients."""
    squares, grads = _squares_and_grad(params, batch)
    losses = squares + penalty * params.abs().sum(-1) - batch["optimum"] + NOISE_FLOOR
    return losses, grads + penalty * params.sign()


def recovery_error(params: Tensor, batch: Batch) -> Tensor:
    """‖x − x*‖²/‖x*‖² at x = ``params`` (N,), with the gradient of ½‖Ax − b‖² in place of its own."""
    squares = 0.5 * (batch["A"] @ params - batch["b"]).square().sum()
    return _nmse(params, batch).detach() + (squares - squares.detach())


def recovery_error_and_grad(params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """As :func:`recovery_error` for ``params`` (P, T, N), with what it has for gradients."""
    squares, grads = _squares_and_grad(params, batch)
    return _nmse(params, batch).detach() + (squares - squares.detach()), grads


def lasso_minimum(matrix: Tensor, measured: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Minimisers (T, N) and minima (T,) of ½‖Ax − b‖² + λ‖x‖₁ in float64, A (T, M, N) and b (T, M).

    FISTA (Beck & Teboulle 2009) that begins anew wherever its momentum points uphill (O'Donoghue & Candès
    2015), until a feasible point of the dual problem is within 1e-7. Raises TaskError should that not be.
    """
    matrix, measured = matrix.double(), measured.double()
    rate = 1 / torch.linalg.matrix_norm(matrix, 2).square().reshape(-1, 1)
    point = ahead = matrix.new_zeros((len(matrix), matrix.shape[2]))
    momentum = matrix.new_ones((len(matrix), 1))
    for iteration in range(_MOST_ITERATIONS):
        residual = (matrix @ ahead.unsqueeze(-1)).squeeze(-1) - measured
        moved = ahead - rate * (matrix.mT @ residual.unsqueeze(-1)).squeeze(-1)
        following = moved - moved.clamp(-penalty * rate, penalty * rate)
        uphill = ((ahead - following) * (following - point)).sum(-1, keepdim=True) > 0
        next_momentum = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        ahead = following + torch.where(uphill, 0.0, (momentum - 1) / next_momentum) * (following - point)
        momentum = torch.where(uphill, 1.0, next_momentum)
        point = following
        if iteration % 10 == 9:
            upper, lower = _bounds(matrix, measured, penalty, point)
            if bool((upper - lower <= _GAP * (1 + upper)).all()):
                return point, upper
    raise flaw("sparse_recovery", f"the optimum was not found within {_MOST_ITERATIONS} iterations")


def _bounds(matrix: Tensor, measured: Tensor, penalty: float, point: Tensor) -> tuple[Tensor, Tensor]:
    """The LASSO's objective (T,) at ``point``, and its dual's at the residual scaled until it is feasible."""
    residual = measured - (matrix @ point.unsqueeze(-1)).squeeze(-1)
    upper = 0.5 * residual.square().sum(-1) + penalty * point.abs().sum(-1)
    steepest = (matrix.mT @ residual.unsqueeze(-1)).abs().amax((1, 2))
    feasible = residual * (penalty / steepest.clamp(min=penalty)).unsqueeze(-1)
    return upper, 0.5 * (measured.square().sum(-1) - (measured - feasible).square().sum(-1))


def _squares_and_grad(params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """½‖Ax − b‖² (P, T) and Aᵀ(Ax − b) (P, T, N); each run's sums are its own."""
    matrix = batch["A"]
    residual = (matrix * params.unsqueeze(-2)).sum(-1) - batch["b"]
    return 0.5 * residual.square().sum(-1), (matrix * residual.unsqueeze(-1)).sum(-2)


def _nmse(params: Tensor, batch: Batch) -> Tensor:
    truth = batch["truth"]
    return (params - truth).square().sum(-1) / truth.square().sum(-1)


def _init_params(n_tasks: int, dim: int, generator: torch.Generator) -> Tensor:
    return torch.zeros((n_tasks, dim))
