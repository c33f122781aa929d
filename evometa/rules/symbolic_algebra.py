"""Symbolic rules simplified: what cancels out is left out, by SymPy, and what comes back is tried out.

Protected operators are functions that SymPy knows nothing of, so that it does not reason as if they were the
bare ones (x/x is not 1 at 0); sums, products, squares, signs, sizes and extremes are its own, of real
numbers, which are exact fractions on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from evometa.rng import torch_generator
from evometa.rules.symbolic_primitives import (
    OPERATORS,
    PRIMITIVES,
    VIEWS,
    Primitive,
    PrimitiveTree,
    Scalar,
    Terminal,
)
from evometa.rules.symbolic_tree import CONSTANTS, constant, is_number, parse

#: Operators that SymPy shall not see through, with its names for them.
_OPAQUE = ("div", "sqrt", "pow", "log", "exp")
_SQUARES = {name for name, view in VIEWS.items() if view.average.squares}
_N_TRIED = 64
_TOLERANCE = 1e-6


@lru_cache(maxsize=1024)
def simplified(text: str) -> str:
    """An expression equal to ``text`` with fewer nodes, or ``text`` itself where none is found."""
    nodes = parse(text)
    best: Sequence[object] = nodes
    expected = _tried(nodes)
    for candidate in _candidates(nodes):
        if len(candidate) < len(best):
            found = _tried(candidate)
            scale = expected.abs().clamp(min=1e-30)
            if bool((((found - expected).abs() / scale) < _TOLERANCE).all()):
                best = candidate
    return str(PrimitiveTree(best))


def _candidates(nodes: Sequence[object]) -> Iterable[Sequence[object]]:
    """Equal trees, in forms that SymPy knows."""
    import sympy  # late, because nobody else needs it

    whole, _ = _to_sympy(nodes, 0)
    for form in (whole, sympy.factor_terms(whole), sympy.expand(whole)):
        try:
            yield tuple(_from_sympy(form))
        except _NoTree:
            continue


def _to_sympy(nodes: Sequence[object], at: int) -> tuple[Any, int]:
    """The subtree at ``at`` in SymPy's form, and where it ends."""
    import sympy

    node = cast(Primitive, nodes[at])
    if is_number(node):
        return sympy.Rational(repr(cast(Terminal, node).value)), at + 1
    if node.name in VIEWS or not node.arity:
        leaf = str(PrimitiveTree(nodes[at : at + 1 + node.arity]))
        known = {"real": True}
        if node.name in _SQUARES or issubclass(node.ret, Scalar):
            known["positive" if node.name == "count" else "nonnegative"] = True
        return sympy.Symbol(leaf, **known), at + 1 + node.arity
    at += 1
    arguments = []
    for _ in range(node.arity):
        argument, at = _to_sympy(nodes, at)
        arguments.append(argument)
    return _applied(node.name, arguments), at


def _applied(name: str, arguments: Sequence[Any]) -> Any:
    import sympy

    one = arguments[0]
    match name:
        case "add":
            return one + arguments[1]
        case "sub":
            return one - arguments[1]
        case "mul":
            return one * arguments[1]
        case "neg":
            return -one
        case "square":
            return one**2
        case "div" if one == 0 or (arguments[1].is_Rational and abs(arguments[1]) >= 1e-12):
            return one / arguments[1]
    if name in _OPAQUE:
        return sympy.Function(name, real=True)(*arguments)
    own = {"sign": sympy.sign, "abs": sympy.Abs, "tanh": sympy.tanh, "max": sympy.Max, "min": sympy.Min}
    return own[name](*arguments)


class _NoTree(Exception):
    """SymPy's form holds what no tree can, such as the constant 0."""


def _from_sympy(form: Any) -> list[object]:
    """The nodes of a tree for SymPy's form of it."""
    if form.is_Rational:
        return _number(form)
    if form.is_Symbol:
        return list(parse(form.name))
    if form.is_Add:
        return _sum(form)
    if form.is_Mul:
        coefficient, rest = form.as_coeff_Mul()
        if coefficient == 1:
            return _joined("mul", form.args)
        if coefficient == -1:
            return _call("neg", _from_sympy(rest))
        whole = _call("mul", _number(abs(coefficient)), _from_sympy(rest))
        return whole if coefficient > 0 else _call("neg", whole)
    if form.is_Pow:
        return _whole_power(form)
    name = {"Abs": "abs", "Max": "max", "Min": "min"}.get(form.func.__name__, form.func.__name__)
    if name not in OPERATORS:
        raise _NoTree(name)
    if name in ("max", "min"):
        return _joined(name, form.args)
    arguments = [_from_sympy(argument) for argument in form.args]
    if name == "pow" and not issubclass(cast(Primitive, arguments[1][0]).ret, Scalar):
        raise _NoTree("exponent")
    return _call(name, *arguments)


def _call(name: str, *arguments: Sequence[object]) -> list[object]:
    return [PRIMITIVES.mapping[name], *(node for argument in arguments for node in argument)]


def _joined(name: str, parts: Sequence[Any]) -> list[object]:
    """Two-armed operators in a row."""
    whole = _from_sympy(parts[0])
    for part in parts[1:]:
        whole = _call(name, whole, _from_sympy(part))
    return whole


def _sum(form: Any) -> list[object]:
    """A sum, what is added first."""
    parts = sorted(form.args, key=lambda part: bool(part.could_extract_minus_sign()))
    whole = _from_sympy(parts[0])
    for part in parts[1:]:
        if part.could_extract_minus_sign():
            whole = _call("sub", whole, _from_sympy(-part))
        else:
            whole = _call("add", whole, _from_sympy(part))
    return whole


def _whole_power(form: Any) -> list[object]:
    base, exponent = form.args
    if not exponent.is_Integer or not 2 <= exponent <= 4:
        raise _NoTree("power")
    square = _call("square", _from_sympy(base))
    if exponent == 2:
        return square
    return _call("mul", square, _from_sympy(base)) if exponent == 3 else _call("square", square)


def _number(value: Any) -> list[object]:
    size = abs(float(value))
    if not CONSTANTS[0] <= size <= CONSTANTS[1]:
        raise _NoTree("number")
    node = [constant(size)]
    return node if value > 0 else _call("neg", node)


def _tried(nodes: Sequence[object]) -> Tensor:
    """What a tree gives for values of its leaves that have nothing to do with one another, ``(64,)``."""
    value, _ = _evaluated(nodes, 0)
    return value.expand(_N_TRIED)


def _evaluated(nodes: Sequence[object], at: int) -> tuple[Tensor, int]:
    node = cast(Primitive, nodes[at])
    if is_number(node):
        return torch.tensor(cast(Terminal, node).value, dtype=torch.float64), at + 1
    if node.name in OPERATORS:
        function, types = OPERATORS[node.name]
        arguments, at = [], at + 1
        for _ in types:
            argument, at = _evaluated(nodes, at)
            arguments.append(argument)
        return function(*arguments), at
    leaf = str(PrimitiveTree(nodes[at : at + 1 + node.arity]))
    generator = torch_generator(0, "leaf", leaf)
    drawn = torch.randn(_N_TRIED, generator=generator, dtype=torch.float64)
    scale = 10.0 ** (torch.rand(_N_TRIED, generator=generator, dtype=torch.float64) * 5.0 - 3.0)
    if node.name == "progress":
        drawn, scale = drawn.sigmoid(), torch.ones(())
    elif node.name == "count":
        drawn, scale = (drawn.abs() * 100).ceil(), torch.ones(())
    elif node.name in _SQUARES:
        drawn = drawn.square()
    value = drawn * scale
    value[:: 7 + len(leaf) % 5] = 0 if node.name != "count" else 1  # zero is where protection shows
    return value, at + 1 + node.arity
