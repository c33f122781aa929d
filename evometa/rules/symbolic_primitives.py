"""What symbolic rules are made of: DEAP's strongly typed primitives, and what each of them computes.

A tree is DEAP's prefix list of primitives. Its types say what may stand where: a ``Vector`` has a value for
every coordinate, a ``Scalar`` one for a whole step and serves wherever a vector does, a ``Decay`` is the β of
a running average and stands nowhere else. Operators are protected: finite for every finite input, and so are
their derivatives, since meta-gradients pass through them.

DEAP's own operators on trees draw from the global ``random``, and its reader of trees evaluates what it reads
as Python; neither is used here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from deap import gp
from torch import Tensor

#: DEAP's nodes with arguments, leaves, and list of nodes in prefix order.
Primitive: TypeAlias = gp.Primitive
Terminal: TypeAlias = gp.Terminal
PrimitiveTree: TypeAlias = gp.PrimitiveTree

#: what a divisor, or the argument of a logarithm, at least is in size
SMALLEST = 1e-12
#: exponentials stop growing here, at 4.9·10⁸
LARGEST_EXPONENT = 20.0


class Vector:
    """Type of a value of every coordinate."""


class Scalar(Vector):
    """Type of a value of a whole step."""


class Decay:
    """Type of the β of a running average, in (0, 1)."""


def divided(a: Tensor, b: Tensor) -> Tensor:
    """a/b, where a b nearer to zero than 10⁻¹² counts as 10⁻¹²."""
    return a / torch.where(b.abs() < SMALLEST, SMALLEST, b)


def root(x: Tensor) -> Tensor:
    """√|x|, with a finite derivative at zero."""
    return x.abs().clamp(min=torch.finfo(x.dtype).tiny).sqrt()


def logarithm(x: Tensor) -> Tensor:
    """log|x|, of 10⁻¹² where x is nearer to zero."""
    return x.abs().clamp(min=SMALLEST).log()


def exponential(x: Tensor) -> Tensor:
    """exp x, of at most 20."""
    return x.clamp(max=LARGEST_EXPONENT).exp()


def power(x: Tensor, exponent: Tensor) -> Tensor:
    """|x|ᵖ with the sign of x."""
    return x.sign() * exponential(exponent * logarithm(x))


@dataclass(frozen=True)
class Average:
    """A running statistic x ← β·x + w·observed of every coordinate.

    Attributes:
        kind: its name in the state, before the number of its decay.
        squares: whether squared gradients are observed instead of gradients.
        is_sum: whether w is 1, as in PyTorch's momentum, instead of 1 − β.
    """

    kind: str
    squares: bool = False
    is_sum: bool = False


MEAN = Average("mean")
MEAN_SQUARE = Average("mean_square", squares=True)
SUM = Average("sum", is_sum=True)


@dataclass(frozen=True)
class View:
    """How a statistic is read: after this step's observation, before it, or freed of its start at zero."""

    average: Average
    previous: bool = False
    corrected: bool = False


#: Operators by name: what they compute of which types.
OPERATORS: dict[str, tuple[Callable[..., Tensor], tuple[type, ...]]] = {
    "add": (lambda a, b: a + b, (Vector, Vector)),
    "sub": (lambda a, b: a - b, (Vector, Vector)),
    "mul": (lambda a, b: a * b, (Vector, Vector)),
    "div": (divided, (Vector, Vector)),
    "neg": (lambda x: -x, (Vector,)),
    "sqrt": (root, (Vector,)),
    "square": (lambda x: x.square(), (Vector,)),
    "pow": (power, (Vector, Scalar)),
    "log": (logarithm, (Vector,)),
    "exp": (exponential, (Vector,)),
    "sign": (lambda x: x.sign(), (Vector,)),
    "abs": (lambda x: x.abs(), (Vector,)),
    "tanh": (lambda x: x.tanh(), (Vector,)),
    "max": (torch.maximum, (Vector, Vector)),
    "min": (torch.minimum, (Vector, Vector)),
}
#: Running statistics by name; each takes its decay.
VIEWS: dict[str, View] = {
    "m": View(MEAN),
    "mhat": View(MEAN, corrected=True),
    "mprev": View(MEAN, previous=True),
    "v": View(MEAN_SQUARE),
    "vhat": View(MEAN_SQUARE, corrected=True),
    "sum": View(SUM),
}
#: Inputs by name: gradient, parameter, noise; share of the horizon done, number of the update from 1.
INPUTS: dict[str, type] = {"g": Vector, "p": Vector, "noise": Vector, "progress": Scalar, "count": Scalar}


def _primitives() -> gp.PrimitiveSetTyped:
    made = gp.PrimitiveSetTyped("rule", [], Vector)
    for name, (function, types) in OPERATORS.items():
        made.addPrimitive(function, types, Vector, name)
    for name, view in VIEWS.items():
        made.addPrimitive(view, (Decay,), Vector, name)
    for name, kind in INPUTS.items():
        made.addTerminal(name, kind, name)
    return made


#: All of them, by DEAP's types.
PRIMITIVES = _primitives()


def number(value: float, kind: type) -> Terminal:
    """A constant (Scalar) or a decay (Decay) as a leaf."""
    return Terminal(value, False, kind)
