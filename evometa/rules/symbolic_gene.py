"""The gene of symbolic rules: its value is an expression, drawn, mutated and crossed as a typed tree.

Variation is that of genetic programming (Koza 1992; strongly typed, Montana 1995), driven by the generator
that is passed in. What would leave the gene's bounds is drawn again, a few times at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from evometa.errors import GenomeError, unknown
from evometa.genome.genes import Composite, Value
from evometa.rules.symbolic_primitives import (
    OPERATORS,
    PRIMITIVES,
    VIEWS,
    Decay,
    Primitive,
    PrimitiveTree,
    Scalar,
    Terminal,
    Vector,
)
from evometa.rules.symbolic_tree import Bounds, constant, decay, is_number, numbers, skeleton, tree_of

#: Directions of rules that people found. QHAdam: Ma & Yarats 2019. Lion: Chen et al. 2023. PowerSign, with
#: base e: Bello et al. 2017.
KNOWN = {
    "sgd": "g",
    "momentum": "sum(0.9)",
    "rmsprop": "div(g, add(sqrt(v(0.99)), 1e-08))",
    "adam": "div(mhat(0.9), add(sqrt(vhat(0.999)), 1e-08))",
    "qhadam": "div(add(mul(0.7, mhat(0.995)), mul(0.3, g)), add(sqrt(vhat(0.999)), 1e-08))",
    "lion": "sign(add(mul(0.9, mprev(0.99)), mul(0.1, g)))",
    "power_sign": "mul(g, exp(mul(sign(g), sign(m(0.9)))))",
}
#: What tells a direction which way is down.
_GRADIENTS = {"g", *VIEWS}
#: Constants that are drawn lie between, and 1 − β, on a logarithmic scale.
_DRAWN_CONSTANTS, _DRAWN_ONE_MINUS_DECAYS = (1e-2, 1e1), (1e-3, 0.5)
#: A mutation of strength 1 multiplies constants and the odds of decays by e to this, times a normal draw.
_LOG_RANGE = math.log(1e3)
_TRIES = 16

_OPERATORS = [PRIMITIVES.mapping[name] for name in OPERATORS]
_VIEWS = [PRIMITIVES.mapping[name] for name in VIEWS]
_LEAVES: dict[type, list[object]] = {kind: list(PRIMITIVES.terminals[kind]) for kind in (Vector, Scalar)}
_BOUNDS = Bounds()

Nodes = list[object]
_Change = Callable[[PrimitiveTree, np.random.Generator, float], "Nodes | None"]


@dataclass(frozen=True)
class Expression(Composite):
    """An expression within ``bounds``; ``fixed`` holds it at ``initial``, but not the numbers in it."""

    initial: str
    bounds: Bounds = _BOUNDS
    fixed: bool = False

    def __post_init__(self) -> None:
        self.check(self.initial)

    @property
    def allowed(self) -> str:
        if self.fixed:
            return f"{self.initial!r}, with any numbers"
        return f"an expression of at most {self.bounds.size} nodes such as {KNOWN['lion']!r}"

    @property
    def default(self) -> Value:
        return str(tree_of(self.initial))

    @property
    def is_fixed(self) -> bool:
        return self.fixed

    def check(self, value: object) -> Value:
        if not isinstance(value, str):
            raise self.refuse(value)
        try:
            tree = tree_of(value)
        except GenomeError as error:
            raise GenomeError(f"gene {self.name!r}: {error}") from error
        excess = self.bounds.excess(tree)
        if excess is not None:
            raise GenomeError(f"gene {self.name!r}: the expression {excess}")
        text = str(tree)
        if self.fixed and skeleton(text) != skeleton(self.initial):
            raise self.refuse(value)
        return text

    def held(self, value: Value) -> Expression:
        return replace(self, initial=cast(str, value), fixed=True)

    def narrowed(self, limit: Mapping[str, object]) -> Expression:
        own = {"size": self.bounds.size, "depth": self.bounds.depth, "averages": self.bounds.averages}
        for key, bound in limit.items():
            if key not in own:
                raise GenomeError(f"gene {self.name!r}: {unknown('limit', key, own)}")
            lowest = 0 if key == "averages" else 1
            if isinstance(bound, bool) or not isinstance(bound, int) or not lowest <= bound <= own[key]:
                allowed = f"a whole number from {lowest} to {own[key]}"
                raise GenomeError(f"gene {self.name!r}: {key} is {bound!r}, expected {allowed}")
            own[key] = bound
        bounds = Bounds(**own)
        others = () if self.fixed else KNOWN.values()
        fitting = [text for text in (self.initial, *others) if bounds.excess(tree_of(text)) is None]
        if not fitting:
            raise GenomeError(f"gene {self.name!r} is held at {self.initial!r}, which is larger than {limit}")
        return replace(self, bounds=bounds, initial=fitting[0])

    def numbers(self, value: Value) -> dict[str, float]:
        found = numbers(str(value))
        constants = {constant_name(self.name, i): number for i, number in enumerate(found.constants)}
        return constants | {decay_name(self.name, i): one for i, one in enumerate(found.one_minus_decays)}

    def number_note(self, name: str) -> str:
        if name.startswith(constant_name(self.name, "")):
            return "a constant of the formula, in their order"
        return "1 − β of averages of the formula, in their order"

    def skeleton(self, value: Value) -> Value:
        return skeleton(str(value))

    def sample(self, generator: np.random.Generator) -> Value:
        """A known rule, mutated a few times, or a tree grown from nothing that looks at the gradient."""
        own = np.random.default_rng(_seed(generator))
        if self.fixed:
            return self.default
        if own.random() < 0.5:
            fitting = [text for text in KNOWN.values() if self._admits(tree_of(text))]
            text = fitting[int(own.integers(len(fitting)))]
            for _ in range(int(own.integers(1, 4))):
                text = str(self.mutate(text, own, 0.1))
            return text
        for _ in range(_TRIES):
            grown = PrimitiveTree(_grown(Vector, int(own.integers(2, min(6, self.bounds.depth) + 1)), own))
            if self._admits(grown) and any(getattr(node, "name", "") in _GRADIENTS for node in grown):
                return str(grown)
        return self.default

    def skip(self, generator: np.random.Generator) -> None:
        _seed(generator)

    def mutate(self, value: Value, generator: np.random.Generator, strength: float) -> Value:
        tree = tree_of(str(value))
        for _ in range(_TRIES):
            change = _CHANGES[int(generator.choice(len(_CHANGES), p=_CHANCES))]
            nodes = change(tree, generator, strength)
            if nodes is not None and self._admits(changed := PrimitiveTree(nodes)):
                text = str(changed)
                if text != value:
                    return text
        return value

    def cross(self, a: Value, b: Value, generator: np.random.Generator) -> tuple[Value, Value]:
        """One subtree of each exchanged, of types that fit."""
        one, other = tree_of(str(a)), tree_of(str(b))
        if a == b:
            return a, b
        expected_in_one, expected_in_other = _expected(one), _expected(other)
        for _ in range(_TRIES):
            at = int(generator.integers(len(one)))
            fitting = [
                i
                for i, node in enumerate(other)
                if issubclass(node.ret, expected_in_one[at]) and issubclass(one[at].ret, expected_in_other[i])
            ]
            if not fitting or (at == 0 and len(one) > 1):  # the whole tree of the first is no crossover
                continue
            there = fitting[int(generator.integers(len(fitting)))]
            first = _with(one, at, other[other.searchSubtree(there)])
            second = _with(other, there, one[one.searchSubtree(at)])
            if self._admits(first) and self._admits(second):
                return str(first), str(second)
        return a, b

    def _admits(self, tree: PrimitiveTree) -> bool:
        return self.bounds.excess(tree) is None


def constant_name(gene: str, index: int | str) -> str:
    """The name of a constant among a rule's continuous genes."""
    return f"{gene}.constant{index}"


def decay_name(gene: str, index: int) -> str:
    """The name of 1 − β of a decay among a rule's continuous genes."""
    return f"{gene}.one_minus_beta{index}"


def _seed(generator: np.random.Generator) -> int:
    return int(generator.integers(2**63))


def _grown(kind: type, depth: int, generator: np.random.Generator) -> Nodes:
    """A random subtree of a type, of at most ``depth`` levels."""
    if kind is Decay:
        return [decay(_log_uniform(_DRAWN_ONE_MINUS_DECAYS, generator))]
    if kind is Vector and depth > 1 and generator.random() < 0.75:
        return _applied(_OPERATORS[int(generator.integers(len(_OPERATORS)))], depth, generator)
    if kind is Vector and generator.random() < 0.5:  # the gradient or an average
        place = int(generator.integers(len(_VIEWS) + 2))
        if place < len(_VIEWS):
            return _applied(_VIEWS[place], depth, generator)
        return [PRIMITIVES.mapping["g"]]
    leaves = _LEAVES[kind]
    place = int(generator.integers(len(leaves) + 2))
    return [leaves[place] if place < len(leaves) else constant(_log_uniform(_DRAWN_CONSTANTS, generator))]


def _applied(operator: Primitive, depth: int, generator: np.random.Generator) -> Nodes:
    arguments = [_grown(kind, depth - 1, generator) for kind in operator.args]
    return [operator, *(node for argument in arguments for node in argument)]


def _log_uniform(bounds: tuple[float, float], generator: np.random.Generator) -> float:
    low, high = map(math.log, bounds)
    return math.exp(low + float(generator.random()) * (high - low))


def _expected(tree: PrimitiveTree) -> list[type]:
    """The type that stands before each node: what may replace it."""
    found: list[type] = []
    waiting: list[type] = [Vector]
    for node in tree:
        found.append(waiting.pop())
        waiting.extend(reversed(node.args if node.arity else ()))
    return found


def _with(tree: PrimitiveTree, at: int, nodes: Sequence[object]) -> PrimitiveTree:
    """The tree with other nodes in place of the subtree ``at``."""
    place = tree.searchSubtree(at)
    return PrimitiveTree([*tree[: place.start], *nodes, *tree[place.stop :]])


def _moved_number(tree: PrimitiveTree, generator: np.random.Generator, strength: float) -> Nodes | None:
    """One number moved on its scale; equal decays of several averages stay equal."""
    places = [at for at, node in enumerate(tree) if is_number(node)]
    if not places:
        return None
    at = places[int(generator.integers(len(places)))]
    old, factor = tree[at], math.exp(strength * _LOG_RANGE * float(generator.standard_normal()))
    if old.ret is not Decay:
        return list(_with(tree, at, [constant(old.value * factor)]))
    odds = old.value / (1.0 - old.value) * factor
    moved = decay(1.0 / (1.0 + odds))
    return [moved if _is_decay(node, old.value) else node for node in tree]


def _is_decay(node: Terminal, beta: float) -> bool:
    return is_number(node) and node.ret is Decay and node.value == beta


def _new_subtree(tree: PrimitiveTree, generator: np.random.Generator, strength: float) -> Nodes:
    at = int(generator.integers(len(tree)))
    return list(_with(tree, at, _grown(_expected(tree)[at], int(generator.integers(1, 4)), generator)))


def _other_symbol(tree: PrimitiveTree, generator: np.random.Generator, strength: float) -> Nodes | None:
    """A symbol in place of another with arguments of the same types."""
    at = int(generator.integers(len(tree)))
    node, expected = tree[at], _expected(tree)[at]
    if node.arity == 0:
        return list(_with(tree, at, _grown(expected, 1, generator)))
    alike = [one for one in _OPERATORS + _VIEWS if one.args == node.args and one is not node]
    if not alike:
        return None
    return [*tree[:at], alike[int(generator.integers(len(alike)))], *tree[at + 1 :]]


def _inserted(tree: PrimitiveTree, generator: np.random.Generator, strength: float) -> Nodes | None:
    """A subtree becomes an argument of a new operator, whose other argument is a leaf."""
    at = int(generator.integers(len(tree)))
    if _expected(tree)[at] is not Vector:
        return None
    operator = _OPERATORS[int(generator.integers(len(_OPERATORS)))]
    places = [index for index, kind in enumerate(operator.args) if kind is Vector]
    chosen = places[int(generator.integers(len(places)))]
    nodes: Nodes = [operator]
    for index, kind in enumerate(operator.args):
        nodes += tree[tree.searchSubtree(at)] if index == chosen else _grown(kind, 1, generator)
    return list(_with(tree, at, nodes))


def _hoisted(tree: PrimitiveTree, generator: np.random.Generator, strength: float) -> Nodes | None:
    """An operator gives way to one of its arguments."""
    at = int(generator.integers(len(tree)))
    if tree[at].name not in OPERATORS:
        return None
    arguments, place = [], at + 1
    for _ in range(tree[at].arity):
        inside = tree.searchSubtree(place)
        arguments.append(tree[inside])
        place = inside.stop
    return list(_with(tree, at, arguments[int(generator.integers(len(arguments)))]))


#: Ways to mutate, and how often each is tried.
_CHANGES: tuple[_Change, ...] = (_moved_number, _new_subtree, _other_symbol, _inserted, _hoisted)
_CHANCES = (0.3, 0.15, 0.2, 0.15, 0.2)
