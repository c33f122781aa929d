"""Physics-informed networks: a perceptron learns the solution of a differential equation from its residual.

Raissi, Perdikaris and Karniadakis 2019, "Physics-informed neural networks". The exact solution is known, so
that what is measured on held-out points is the error itself, which training never sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import torch
from torch import Tensor

from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.tasks.architectures import deal
from evometa.tasks.base import Batch, Split, TaskBatch, TaskFamily
from evometa.tasks.equations import EQUATIONS, Jet
from evometa.tasks.leading_axes import AllAtOnce
from evometa.tasks.mlp_model import MLP
from evometa.tasks.options import check_choices, check_integer, check_number, check_request
from evometa.tasks.pools import POOL_SEED
from evometa.tasks.sampling import balanced

#: Of squared residuals; the solutions are of order 1, so errors below a thousandth count as equal.
NOISE_FLOOR = 1e-6


@dataclass(frozen=True)
class PhysicsNetwork:
    """A tanh perceptron for one equation, its residual loss, and its error."""

    equation: str
    width: int
    depth: int
    edge_weight: float

    @cached_property
    def _perceptron(self) -> MLP:
        n_inputs = EQUATIONS[self.equation].n_coordinates
        return MLP((n_inputs, *[self.width] * self.depth, 1), "tanh", "xavier", "value")

    @property
    def layout(self) -> Layout:
        """Of the network's tensors."""
        return self._perceptron.layout

    @property
    def description(self) -> str:
        """Equation and network in a few words."""
        return f"{EQUATIONS[self.equation].title}, {self._perceptron.description}"

    def init_params(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """Initial parameters, ``(T, N)``."""
        return self._perceptron.init_params(n_tasks, generator)

    def jet(self, params: Tensor, points: Tensor) -> Jet:
        """The network ``params (…, N)`` at ``points (…, B, d)``, with its derivatives, in one pass.

        Value, slopes and curvatures go through a layer side by side: with h = tanh z, the slope of h is
        (1 − h²)·z′ and its curvature (1 − h²)·(z″ − 2h·z′²).
        """
        tensors, d = self.layout.views(params), points.shape[-1]
        slopes = torch.eye(d, dtype=points.dtype, device=points.device).unsqueeze(1)
        slopes = slopes.expand(*points.shape[:-2], d, points.shape[-2], d)
        rows = torch.cat([points.unsqueeze(-3), slopes, torch.zeros_like(slopes)], dim=-3)
        for layer in range(self.depth + 1):
            if layer:
                value, first, second = torch.split(rows, [1, d, d], dim=-3)
                h = torch.tanh(value)
                gain = 1 - h.square()
                rows = torch.cat([h, gain * first, gain * (second - 2 * h * first.square())], dim=-3)
            rows = torch.einsum("...kbi,...oi->...kbo", rows, tensors[f"{layer}.weight"])
            value, derivatives = torch.split(rows, [1, 2 * d], dim=-3)
            rows = torch.cat([value + tensors[f"{layer}.bias"][..., None, None, :], derivatives], dim=-3)
        value, first, second = torch.split(rows.squeeze(-1), [1, d, d], dim=-2)
        return Jet(value.squeeze(-2), first, second)

    def loss(self, params: Tensor, batch: Batch) -> Tensor:
        """Mean squared residual at the points ``x (…, B, d)``, and that of the conditions at the ``edge``."""
        equation, points, edge = EQUATIONS[self.equation], batch["x"], batch["edge"]
        both = self.jet(params, torch.cat([points, edge], dim=-2))
        cut = [torch.split(values, [points.shape[-2], edge.shape[-2]], dim=-1) for values in both]
        inside, outside = (Jet(*parts) for parts in zip(*cut, strict=True))
        residual = equation.residual(inside, points, batch)
        failed = equation.conditions(outside, edge, batch)
        return residual.square().mean(-1) + self.edge_weight * failed.square().mean(-1)

    def valid_loss(self, params: Tensor, batch: Batch) -> Tensor:
        """Relative L2 error () at the points ``x``: ‖u − u*‖/‖u*‖ with the exact solution u*."""
        exact = EQUATIONS[self.equation].exact(batch["x"], batch)
        error = self._perceptron.outputs(params, batch["x"]).squeeze(-1) - exact
        return (error.square().sum() / exact.square().sum()).sqrt()


@lru_cache(maxsize=64)
def _network(equation: str, width: int, depth: int, edge_weight: float) -> PhysicsNetwork:
    """One for each description: tasks that are drawn at another time have the very same functions."""
    return PhysicsNetwork(equation, width, depth, edge_weight)


@dataclass(frozen=True)
class PhysicsInformed(TaskFamily):
    """Solve an equation with parameters drawn for each task; the splits differ in the parameters' ranges.

    Attributes:
        equations: which to sample from: "oscillator" (damped; an ODE), "burgers" (1-D), "poisson" (2-D).
        width: hidden units a layer.
        depth: number of hidden layers.
        n_points: random points of a split's domain that its tasks are trained on.
        batch_size: of them, in an inner step.
        n_valid: random points at which the error is measured.
        edge_weight: weight of the conditions' mean square beside the residual's.
    """

    equations: tuple[str, ...] = tuple(EQUATIONS)
    width: int = 20
    depth: int = 2
    n_points: int = 512
    batch_size: int = 64
    n_valid: int = 256
    edge_weight: float = 10.0

    name = "physics_informed"
    summary = "networks that solve an oscillator's, Burgers' and Poisson's equation; held out: the true error"

    def __post_init__(self) -> None:
        check_choices(self.name, "equations", self.equations, tuple(EQUATIONS))
        for option in ("width", "depth", "n_points", "n_valid"):
            check_integer(self.name, option, getattr(self, option), 1)
        check_integer(self.name, "batch_size", self.batch_size, 1, self.n_points)
        check_number(self.name, "edge_weight", self.edge_weight, 0.0, math.inf)

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """``n_tasks`` tasks, one batch an equation, the tasks spread evenly over the equations."""
        check_request(self.name, split, n_tasks)
        drawn = balanced(self.equations, n_tasks, generator)
        return [self._batch(split, *entry, generator) for entry in deal(drawn, n_tasks).items()]

    def _batch(self, split: Split, equation: str, n_tasks: int, generator: torch.Generator) -> TaskBatch:
        network, known = _network(equation, self.width, self.depth, self.edge_weight), EQUATIONS[equation]
        edge = known.edge().float()
        parameters = {
            name: low + (high - low) * torch.rand(n_tasks, generator=generator)
            for name, (low, high) in known.ranges[split].items()
        }
        places = torch_generator(POOL_SEED, "physics", equation, split)
        shape = (self.n_points + self.n_valid, known.n_coordinates)
        rows = torch.arange(shape[0]).expand(n_tasks, -1)
        return TaskBatch(
            family=self.name,
            description=network.description,
            n_tasks=n_tasks,
            layout=network.layout,
            loss=network.loss,
            init_params=partial(network.init_params, n_tasks),
            constants={**parameters, "edge": edge.expand(n_tasks, *edge.shape)},
            rows={"x": 2 * torch.rand(shape, generator=places) - 1},
            train_rows=rows[:, : self.n_points],
            valid_rows=rows[:, self.n_points :],
            batch_size=self.batch_size,
            noise_floor=NOISE_FLOOR,
            final_window=10,
            loss_and_grad=AllAtOnce(network.loss),
            valid_loss=network.valid_loss,
        )
