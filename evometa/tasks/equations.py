"""Differential equations with an exact solution: what physics-informed networks are trained on.

Each is written in coordinates that run over [−1, 1], in which a network sees them. Everything may have
leading axes, those of ``parameters``, which are one task's without them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from evometa.tasks.base import Split

Parameters = Mapping[str, Tensor]
Ranges = Mapping[str, tuple[float, float]]


class Jet(NamedTuple):
    """A function of d coordinates at B points, with what an equation of second order asks of it.

    Attributes:
        value: u ``(…, B)``.
        slope: ∂u/∂x_k ``(…, d, B)``.
        curvature: ∂²u/∂x_k² ``(…, d, B)``.
    """

    value: Tensor
    slope: Tensor
    curvature: Tensor


class Equation(ABC):
    """An equation with initial or boundary conditions, and the solution that they determine.

    Attributes:
        title: one line a person reads.
        n_coordinates: d.
        ranges: of each parameter, in each split; drawn uniformly.
    """

    title: ClassVar[str]
    n_coordinates: ClassVar[int]
    ranges: ClassVar[Mapping[Split, Ranges]]

    @abstractmethod
    def exact(self, points: Tensor, parameters: Parameters) -> Tensor:
        """The solution ``(…, B)`` at ``points (…, B, d)``."""

    @abstractmethod
    def residual(self, u: Jet, points: Tensor, parameters: Parameters) -> Tensor:
        """By how much ``u`` fails the equation at ``points (…, B, d)``: ``(…, B)``, of the order of u."""

    @abstractmethod
    def edge(self) -> Tensor:
        """The points ``(E, d)`` at which the conditions are asked for, in float64."""

    def conditions(self, u: Jet, points: Tensor, parameters: Parameters) -> Tensor:
        """By how much ``u`` at the points of the edge fails the conditions: unless overridden, values."""
        return u.value - self.exact(points, parameters)


class Oscillator(Equation):
    """u″ + 2ζω·u′ + ω²·u = 0 for t in [0, 1], u(0) = 1, u′(0) = 0, damped below the critical ζ = 1.

    The solution is e^(−ζωt)·(cos ω_d t + ζω/ω_d·sin ω_d t), ω_d = ω·√(1 − ζ²). The coordinate is 2t − 1.
    """

    title = "damped oscillator"
    n_coordinates = 1
    ranges: ClassVar[Mapping[Split, Ranges]] = {
        "meta_train": {"omega": (3.0, 8.0), "zeta": (0.1, 0.5)},
        "meta_valid": {"omega": (4.0, 9.0), "zeta": (0.1, 0.5)},
        "meta_test": {"omega": (5.0, 10.0), "zeta": (0.05, 0.6)},
    }

    def exact(self, points: Tensor, parameters: Parameters) -> Tensor:
        """See the class."""
        omega, zeta = _along_points(parameters, "omega", "zeta")
        t = (points[..., 0] + 1) / 2
        decay, turn = zeta * omega, omega * (1 - zeta.square()).sqrt()
        return torch.exp(-decay * t) * (torch.cos(turn * t) + decay / turn * torch.sin(turn * t))

    def residual(self, u: Jet, points: Tensor, parameters: Parameters) -> Tensor:
        """The equation divided by ω²."""
        omega, zeta = _along_points(parameters, "omega", "zeta")
        first, second = 2 * u.slope[..., 0, :], 4 * u.curvature[..., 0, :]
        return second / omega.square() + 2 * zeta / omega * first + u.value

    def edge(self) -> Tensor:
        """t = 0."""
        return torch.tensor([[-1.0]], dtype=torch.float64)

    def conditions(self, u: Jet, points: Tensor, parameters: Parameters) -> Tensor:
        """u(0) − 1 and u′(0)/ω."""
        (omega,) = _along_points(parameters, "omega")
        return torch.cat([u.value - 1, 2 * u.slope[..., 0, :] / omega], dim=-1)


class Burgers(Equation):
    """u_t + u·u_x = ν·u_xx for x in [−1, 1], t in [0, 1], u(x, 0) = −a·sin πx, u(±1, t) = 0.

    The solution is that of Cole and Hopf (Basdevant et al. 1986, "Spectral and finite difference solutions of
    the Burgers equation"): u = −a·∫ sin(πy)·w dη / ∫ w dη, y = x − η, w = exp(−a·cos(πy)/2πν − η²/4νt), here
    by Gauss–Hermite quadrature. The coordinates are x and 2t − 1.
    """

    title = "Burgers"
    n_coordinates = 2
    ranges: ClassVar[Mapping[Split, Ranges]] = {
        "meta_train": {"nu": (0.05, 0.2), "a": (0.5, 1.0)},
        "meta_valid": {"nu": (0.05, 0.2), "a": (0.6, 1.1)},
        "meta_test": {"nu": (0.03, 0.2), "a": (0.7, 1.2)},
    }
    #: Enough for a residual below 1e-9 wherever the ranges reach.
    n_nodes: ClassVar[int] = 160

    def exact(self, points: Tensor, parameters: Parameters) -> Tensor:
        """See the class."""
        roots, weights = np.polynomial.hermite.hermgauss(self.n_nodes)
        nodes, log_weights = (torch.from_numpy(values).to(points) for values in (roots, np.log(weights)))
        nu, a = _along_points(parameters, "nu", "a")
        width = 2 * (nu * (points[..., 1] + 1) / 2).sqrt()
        y = points[..., :1] - width.unsqueeze(-1) * nodes
        steep = (a / (2 * math.pi * nu)).unsqueeze(-1)
        shares = torch.softmax(log_weights - steep * torch.cos(math.pi * y), dim=-1)
        return -a * (shares * torch.sin(math.pi * y)).sum(-1)

    def residual(self, u: Jet, points: Tensor, parameters: Parameters) -> Tensor:
        """The equation as it stands."""
        (nu,) = _along_points(parameters, "nu")
        u_x, u_t = u.slope[..., 0, :], 2 * u.slope[..., 1, :]
        return u_t + u.value * u_x - nu * u.curvature[..., 0, :]

    def edge(self) -> Tensor:
        """32 places at t = 0, and 16 moments at each end."""
        places, moments = (2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n - 1 for n in (32, 16))
        start = torch.stack([places, -torch.ones_like(places)], dim=1)
        ends = torch.cartesian_prod(torch.tensor([-1.0, 1.0], dtype=torch.float64), moments)
        return torch.cat([start, ends])

    def conditions(self, u: Jet, points: Tensor, parameters: Parameters) -> Tensor:
        """u + a·sin πx, which is u at the ends."""
        (a,) = _along_points(parameters, "a")
        return u.value + a * torch.sin(math.pi * points[..., 0])


_ANY_PHASES = {"phi": (0.0, 2 * math.pi), "psi": (0.0, 2 * math.pi)}


class Poisson(Equation):
    """−Δu = f on [−1, 1]², with f and the values on the edge made for u = sin(px + φ)·sin(qy + ψ)."""

    title = "Poisson"
    n_coordinates = 2
    ranges: ClassVar[Mapping[Split, Ranges]] = {
        "meta_train": {"p": (1.0, 3.5), "q": (1.0, 3.5), **_ANY_PHASES},
        "meta_valid": {"p": (1.5, 4.0), "q": (1.5, 4.0), **_ANY_PHASES},
        "meta_test": {"p": (2.0, 4.5), "q": (2.0, 4.5), **_ANY_PHASES},
    }

    def exact(self, points: Tensor, parameters: Parameters) -> Tensor:
        """See the class."""
        p, q, phi, psi = _along_points(parameters, "p", "q", "phi", "psi")
        return torch.sin(p * points[..., 0] + phi) * torch.sin(q * points[..., 1] + psi)

    def residual(self, u: Jet, points: Tensor, parameters: Parameters) -> Tensor:
        """The equation divided by −(p² + q²), so that f becomes the solution."""
        p, q = _along_points(parameters, "p", "q")
        return u.curvature.sum(-2) / (p.square() + q.square()) + self.exact(points, parameters)

    def edge(self) -> Tensor:
        """16 points on each side."""
        along = 2 * (torch.arange(16, dtype=torch.float64) + 0.5) / 16 - 1
        sides = torch.tensor([-1.0, 1.0], dtype=torch.float64)
        return torch.cat([torch.cartesian_prod(sides, along), torch.cartesian_prod(along, sides)])


def _along_points(parameters: Parameters, *names: str) -> list[Tensor]:
    """Those parameters ``(…, 1)``, to go with values at points."""
    return [parameters[name].unsqueeze(-1) for name in names]


EQUATIONS: dict[str, Equation] = {"oscillator": Oscillator(), "burgers": Burgers(), "poisson": Poisson()}
