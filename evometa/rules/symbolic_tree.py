"""Trees of symbolic rules as text and back, what bounds them, and the numbers in them.

The text is a nested call such as ``div(mhat(0.9), add(sqrt(vhat(0.999)), 1e-08))``; it is read by
:func:`parse` and never evaluated. Numbers have seven digits (decays in 1 − β), so that a formula can be read
and typed in again as the very same rule.

A tree's *skeleton* is the tree with its numbers replaced by placeholders: trees of one skeleton run in one
cohort. Every constant has a placeholder of its own; averages with equal decays share one, and one tensor of
the state.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from evometa.errors import GenomeError, clipped, quoted, unknown
from evometa.rules.symbolic_primitives import (
    PRIMITIVES,
    VIEWS,
    Decay,
    PrimitiveTree,
    Scalar,
    Terminal,
    Vector,
    number,
)

#: Bounds of constants and of 1 − β.
CONSTANTS = (1e-12, 1e6)
ONE_MINUS_DECAYS = (1e-6, 0.999)

#: Significant digits of constants and of 1 − β.
DIGITS = 7

_TOKEN = re.compile(r"\s*([A-Za-z_]\w*|[0-9.][0-9.]*(?:[eE][+-]?[0-9]+)?|[(),])")
_N_TEXT = 4096
_TYPES: dict[type, str] = {Vector: "a value", Scalar: "a constant, progress or count", Decay: "a decay β"}


@dataclass(frozen=True)
class Bounds:
    """How large a tree may be: nodes, nodes from root to leaf, and numbers kept for each parameter."""

    size: int = 40
    depth: int = 10
    averages: int = 4

    def excess(self, tree: PrimitiveTree) -> str | None:
        """What is too large, in words; None where nothing is."""
        if len(tree) > self.size:
            return f"has {len(tree)} nodes, at most {self.size} are allowed"
        if tree.height + 1 > self.depth:
            return f"is {tree.height + 1} nodes deep, at most {self.depth} are allowed"
        kept = len(averages(tree))
        if kept > self.averages:
            return f"keeps {kept} running averages, at most {self.averages} are allowed"
        return None


@lru_cache(maxsize=4096)
def parse(text: str) -> tuple[object, ...]:
    """The nodes of a tree in prefix order, numbers rounded. Raises GenomeError for any other text."""
    if len(text) > _N_TEXT:
        raise GenomeError(f"the expression has {len(text)} characters, at most {_N_TEXT} are allowed")
    tokens: list[str] = []
    end = 0
    while text[end:].strip():
        found = _TOKEN.match(text, end)
        if found is None:
            wrong = quoted(text[end:].strip()[0])
            raise GenomeError(f"the expression has {wrong}, which means nothing there")
        tokens.append(found[1])
        end = found.end()
    reader = _Reader(tokens)
    reader.read(Vector, "the expression", 0)
    if reader.left:
        raise GenomeError(f"the expression goes on with {quoted(reader.left[0])} after its end")
    return tuple(reader.nodes)


def tree_of(text: str) -> PrimitiveTree:
    """As :func:`parse`, a tree that may be edited."""
    return PrimitiveTree(parse(text))


class _Reader:
    """Reads tokens into nodes."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.left = list(tokens)
        self.nodes: list[object] = []

    def read(self, expected: type, where: str, depth: int) -> None:
        """One value of the type ``expected``."""
        token = self._next(where)
        if depth > 200:  # far beyond any bound, and within Python's own
            raise GenomeError("the expression is nested too deeply")
        if token[0] in "0123456789.":
            self.nodes.append(_number(token, expected, where))
            return
        node = PRIMITIVES.mapping.get(token)
        if node is None:
            if not token[0].isalpha():
                raise GenomeError(f"{where} has {quoted(token)} where {_TYPES[expected]} is expected")
            raise GenomeError(unknown("symbol", token, PRIMITIVES.mapping))
        if not issubclass(node.ret, expected):
            raise GenomeError(f"{where} is {quoted(token)}, expected {_TYPES[expected]}")
        self.nodes.append(node)
        for index in range(node.arity):
            self._take("(" if index == 0 else ",", token, node.arity)
            self.read(node.args[index], f"argument {index + 1} of {token}", depth + 1)
        if node.arity:
            self._take(")", token, node.arity)

    def _next(self, where: str) -> str:
        if not self.left:
            raise GenomeError(f"the expression ends where {where} is expected")
        return self.left.pop(0)

    def _take(self, wanted: str, of: str, arity: int) -> None:
        if not self.left or self.left.pop(0) != wanted:
            arguments = "one argument" if arity == 1 else f"{arity} arguments"
            raise GenomeError(f"{of} takes {arguments} in parentheses; {quoted(wanted)} is missing")


def _number(token: str, expected: type, where: str) -> Terminal:
    try:
        value = float(token)
    except ValueError as error:
        raise GenomeError(f"{where} is {quoted(token)}, which is no number") from error
    if expected is Decay:
        low, high = 1.0 - ONE_MINUS_DECAYS[1], 1.0 - ONE_MINUS_DECAYS[0]
        if not low * (1 - 1e-9) <= value <= high:
            raise GenomeError(f"{where} is {clipped(token)}, expected a decay β from {low:g} to {high:.6f}")
        return decay(1.0 - value)
    low, high = CONSTANTS
    if not low <= value <= high:
        raise GenomeError(f"{where} is {clipped(token)}, expected a constant from {low:g} to {high:g}")
    return constant(value)


def constant(value: float) -> Terminal:
    """A constant, brought into its bounds and rounded."""
    return number(float(f"{min(max(value, CONSTANTS[0]), CONSTANTS[1]):.{DIGITS}g}"), Scalar)


def decay(one_minus: float) -> Terminal:
    """The decay β = 1 − ``one_minus``, brought into its bounds, 1 − β rounded."""
    one_minus = min(max(one_minus, ONE_MINUS_DECAYS[0]), ONE_MINUS_DECAYS[1])
    digits = DIGITS - 1 - math.floor(math.log10(one_minus * (1 + 1e-9)))
    return number(round(1.0 - round(one_minus, digits), digits), Decay)


def is_number(node: object) -> bool:
    """Whether a node is a constant or a decay."""
    return isinstance(getattr(node, "value", None), float)


def averages(tree: Sequence[object]) -> dict[tuple[str, float], None]:
    """Kind and decay of the running statistics that a tree reads, each once, in their order."""
    views = [(VIEWS[node.name].average.kind, tree[index + 1].value)  # type: ignore[attr-defined]
             for index, node in enumerate(tree) if getattr(node, "name", "") in VIEWS]  # fmt: skip
    return dict.fromkeys(views)


@dataclass(frozen=True)
class Numbers:
    """The numbers of a tree: constants in their order, and 1 − β of its decays, each once."""

    constants: tuple[float, ...]
    one_minus_decays: tuple[float, ...]


@lru_cache(maxsize=4096)
def numbers(text: str) -> Numbers:
    """The numbers in an expression."""
    leaves = [node for node in parse(text) if is_number(node)]
    decays = dict.fromkeys(leaf.value for leaf in leaves if leaf.ret is Decay)  # type: ignore[attr-defined]
    constants = tuple(leaf.value for leaf in leaves if leaf.ret is Scalar)  # type: ignore[attr-defined]
    return Numbers(constants, tuple(_one_minus(beta) for beta in decays))


@lru_cache(maxsize=4096)
def skeleton(text: str) -> str:
    """The expression with placeholders for its numbers: 1 for constants, and a decay of its own for each."""
    found = numbers(text)
    places = [0.5**index * 0.5 for index in range(len(found.one_minus_decays))]
    return replaced(text, Numbers((1.0,) * len(found.constants), tuple(places)))


def replaced(text: str, values: Numbers) -> str:
    """The expression with other numbers, which are brought into their bounds and rounded."""
    old = numbers(text)
    decays = dict(zip(old.one_minus_decays, values.one_minus_decays, strict=True))
    constants = iter(values.constants)
    return str(PrimitiveTree(_renumbered(node, decays, constants) for node in parse(text)))


def _renumbered(node: object, decays: Mapping[float, float], constants: Iterator[float]) -> object:
    if not is_number(node):
        return node
    leaf = cast(Terminal, node)
    if leaf.ret is Decay:
        return decay(decays[_one_minus(leaf.value)])
    return constant(next(constants))


def _one_minus(beta: float) -> float:
    """1 − β without the digits that the subtraction brings in."""
    return float(f"{1.0 - beta:.{DIGITS}g}")
