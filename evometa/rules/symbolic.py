"""Symbolic rules: an update that is a formula, written as a tree and evolved as one.

The step is −lr·f of the gradient, its running averages, the parameter, the progress of training and noise;
f is the gene ``expression`` (Bello et al. 2017, "Neural optimizer search with reinforcement learning"; Chen
et al. 2023, "Symbolic discovery of optimization algorithms"). What meta-training moves are the numbers in f
and the learning rate: weights multiply constants and shift the logits of decays, and start where they do
nothing. What they came to is written into the genes (:meth:`SymbolicFamily.absorbed`), so that the formula
tells all of the rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, cast

import torch
from torch import Tensor

from evometa.genome.genes import LogReal
from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.rules.base import Hyper, RuleFamily, StepContext, UpdateRule
from evometa.rules.hand_designed import bias_correction
from evometa.rules.symbolic_algebra import simplified
from evometa.rules.symbolic_gene import KNOWN, Expression, constant_name, decay_name
from evometa.rules.symbolic_noise import noise
from evometa.rules.symbolic_primitives import OPERATORS, VIEWS, Average, Primitive, Terminal, View
from evometa.rules.symbolic_text import described, equations
from evometa.rules.symbolic_tree import DIGITS, Numbers, is_number, numbers, parse, replaced, skeleton
from evometa.trees import Tree

#: The gene that holds the formula.
GENE = "expression"

#: What the values in a formula are computed from, in the order of the names below.
Inputs = tuple[Tensor, Tensor, Tree, Tree, Tree, Tree, Tree, StepContext]
GRADS: Final = 0
PARAMS: Final = 1
BEFORE: Final = 2
AFTER: Final = 3
CORRECTIONS: Final = 4
CONSTANTS: Final = 5
SHARED: Final = 6
CONTEXT: Final = 7
Compute = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Kept:
    """A running statistic with the number of its decay among those of the formula."""

    average: Average
    slot: int

    @property
    def name(self) -> str:
        """Its name in the state."""
        return f"{self.average.kind}{self.slot}"


class SymbolicRule(UpdateRule):
    """The rule of one skeleton.

    State: its running statistics ``(T, N)``. Weights: ``log_rate (1,)``, which multiplies the learning rate,
    ``log_factors (C,)`` of the C constants and ``logit_shifts (D,)`` of the D decays, where there are some.
    All start at zero.
    """

    def __init__(self, text: str) -> None:
        found, compiled = numbers(text), _Compiler(parse(text))
        self.constants = tuple(constant_name(GENE, index) for index in range(len(found.constants)))
        self.decays = tuple(decay_name(GENE, index) for index in range(len(found.one_minus_decays)))
        self.kept, self.corrected = tuple(compiled.kept), tuple(compiled.corrected)
        self.shared, self.direction = tuple(compiled.shared.items()), compiled.direction
        # The number of a coordinate, which noise comes from, is another in a part of a tensor.
        self.elementwise = "noise" not in compiled.symbols

    def init_weights(self, generator: torch.Generator) -> Tree:
        weights = {"log_rate": torch.zeros(1)}
        if self.constants:
            weights["log_factors"] = torch.zeros(len(self.constants))
        if self.decays:
            weights["logit_shifts"] = torch.zeros(len(self.decays))
        return weights

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        return {one.name: torch.zeros_like(params) for one in self.kept}

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        constants = {
            name: hyper[name] * weights["log_factors"][index].exp()
            for index, name in enumerate(self.constants)
        }
        newest = {
            name: _shifted(hyper[name], weights["logit_shifts"][slot])
            for slot, name in enumerate(self.decays)
        }
        new: Tree = {}
        for one in self.kept:
            if one.average.is_sum:
                new[one.name] = state[one.name] * (1 - newest[decay_name(GENE, one.slot)]) + grads
            elif one.average.squares:
                new[one.name] = state[one.name].lerp(grads.square(), newest[decay_name(GENE, one.slot)])
            else:
                new[one.name] = state[one.name].lerp(grads, newest[decay_name(GENE, one.slot)])
        count = (context.step + 1).to(grads.dtype)
        corrections = {
            one.name: bias_correction(newest[decay_name(GENE, one.slot)], count) for one in self.corrected
        }
        shared: Tree = {}
        for name, value in self.shared:
            shared[name] = value((grads, params, state, new, corrections, constants, shared, context))
        direction = self.direction((grads, params, state, new, corrections, constants, shared, context))
        return -(hyper["lr"] * weights["log_rate"][0].exp()) * direction.expand_as(params), new


def _shifted(one_minus_beta: Tensor, shift: Tensor) -> Tensor:
    """1 − β after a shift of logit β; the same where the shift is 0."""
    return one_minus_beta / (one_minus_beta + (1 - one_minus_beta) * shift.exp())


class _Compiler:
    """Turns a tree into functions; a part that stands in it more than once is computed once.

    Attributes:
        kept, corrected: the running statistics, and those that are read freed of their start at zero.
        shared: the parts that are computed first, by name.
        direction: the whole.
        symbols: the names of its nodes.
    """

    def __init__(self, nodes: Sequence[object]) -> None:
        self._nodes = nodes
        self._parts: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._n_uses: dict[str, int] = {}
        self._n_constants = 0
        self._slots: dict[float, int] = {}
        self.kept: dict[Kept, None] = {}
        self.corrected: dict[Kept, None] = {}
        self.shared: dict[str, Compute] = {}
        self._known: dict[str, Compute] = {}
        root, _ = self._part(0)
        self.symbols = {symbol for symbol, _ in self._parts.values()}
        self.direction = self._compute(root)

    def _part(self, at: int) -> tuple[str, int]:
        """A name for the subtree at ``at``, the same for equal ones, and where it ends."""
        node = cast(Primitive, self._nodes[at])
        arguments: tuple[str, ...] = ()
        if is_number(node):  # a constant, which has a weight of its own
            key, symbol, at = constant_name(GENE, self._n_constants), "", at + 1
            self._n_constants += 1
        elif node.name in VIEWS:
            beta = cast(Terminal, self._nodes[at + 1]).value
            slot = str(self._slots.setdefault(beta, len(self._slots)))
            key, symbol, arguments, at = f"{node.name}({slot})", node.name, (slot,), at + 2
        else:
            symbol, own, at = node.name, [], at + 1
            for _ in range(node.arity):
                argument, at = self._part(at)
                own.append(argument)
            arguments = tuple(own)
            key = f"{symbol}({', '.join(arguments)})"
        if key not in self._parts:
            self._parts[key] = symbol, arguments
            for argument in arguments:
                self._n_uses[argument] = self._n_uses.get(argument, 0) + 1
        return key, at

    def _compute(self, key: str) -> Compute:
        if key in self._known:
            return self._known[key]
        symbol, arguments = self._parts[key]
        if not symbol:
            compute = _entry(CONSTANTS, key)
        elif symbol in VIEWS:
            compute = self._statistic(VIEWS[symbol], int(arguments[0]))
        elif symbol in OPERATORS:
            function, _ = OPERATORS[symbol]
            own = [self._compute(argument) for argument in arguments]
            compute = _unary(function, own[0]) if len(own) == 1 else _binary(function, own[0], own[1])
        else:
            compute = _LEAVES[symbol]
        costs = symbol in OPERATORS or symbol == "noise" or (symbol in VIEWS and VIEWS[symbol].corrected)
        if costs and self._n_uses.get(key, 0) > 1:
            name = f"part{len(self.shared)}"
            self.shared[name] = compute
            compute = _entry(SHARED, name)
        self._known[key] = compute
        return compute

    def _statistic(self, view: View, slot: int) -> Compute:
        kept = Kept(view.average, slot)
        self.kept[kept] = None
        if view.corrected:
            self.corrected[kept] = None
            return _corrected(kept.name)
        return _entry(BEFORE if view.previous else AFTER, kept.name)


def _entry(place: int, name: str) -> Compute:
    return lambda inputs: cast(Tree, inputs[place])[name]


def _corrected(name: str) -> Compute:
    return lambda inputs: inputs[AFTER][name] / inputs[CORRECTIONS][name]


def _unary(function: Callable[..., Tensor], value: Compute) -> Compute:
    return lambda inputs: function(value(inputs))


def _binary(function: Callable[..., Tensor], left: Compute, right: Compute) -> Compute:
    return lambda inputs: function(left(inputs), right(inputs))


_LEAVES: dict[str, Compute] = {
    "g": lambda inputs: inputs[GRADS],
    "p": lambda inputs: inputs[PARAMS],
    "noise": lambda inputs: noise(inputs[CONTEXT].layout, inputs[CONTEXT].step, inputs[GRADS]),
    "progress": lambda inputs: inputs[CONTEXT].progress.to(inputs[GRADS].dtype),
    "count": lambda inputs: (inputs[CONTEXT].step + 1).to(inputs[GRADS].dtype),
}


class SymbolicFamily(RuleFamily):
    """The registry row of symbolic rules."""

    name = "symbolic"
    summary = "a formula of gradient, averages, parameter, progress and noise, evolved as a typed tree"
    learned: ClassVar[bool] = True
    is_formula: ClassVar[bool] = True

    @property
    def space(self) -> Space:
        return _SPACE

    def build(self, genes: Genes) -> SymbolicRule:
        return SymbolicRule(str(genes[GENE]))

    def describe(self, genes: Genes) -> str:
        return described(str(genes[GENE]), cast(float, genes["lr"]))

    def formula(self, genes: Genes) -> str:
        return "\n".join(equations(simplified(str(genes[GENE])), cast(float, genes["lr"])))

    def absorbed(self, genes: Genes, weights: Tree, space: Space) -> tuple[Genes, Tree]:
        """Numbers as the weights make them, within their bounds and rounded.

        Weights that are left do nothing, but for what a bound on the learning rate leaves to them.
        """
        text = str(genes[GENE])
        old, moves = numbers(text), {name: value.double().exp().tolist() for name, value in weights.items()}
        factors, shifts = moves.get("log_factors", ()), moves.get("logit_shifts", ())
        constants = tuple(c * factor for c, factor in zip(old.constants, factors, strict=True))
        pairs = zip(old.one_minus_decays, shifts, strict=True)
        decays = tuple(newest / (newest + (1 - newest) * shift) for newest, shift in pairs)
        moved = replaced(text, Numbers(constants, decays))
        if skeleton(moved) != skeleton(text):  # two decays have become one
            moved = text
        rate = float(f"{cast(float, genes['lr']) * moves['log_rate'][0]:.{DIGITS}g}")
        rate = _within(rate, cast(LogReal, _SPACE["lr"]))
        nearest = _within(rate, cast(LogReal, space["lr"]))
        left = self.build({**genes, GENE: moved}).init_weights(torch.Generator())
        left["log_rate"] = torch.tensor([math.log(rate / nearest)])
        return {**genes, "lr": nearest, GENE: moved}, left

    def simplified(self, genes: Genes) -> Genes:
        """The formula without what cancels out, where that makes it shorter."""
        return {**genes, GENE: simplified(str(genes[GENE]))}


def _within(value: float, gene: LogReal) -> float:
    return min(max(value, gene.low), gene.high)


_SPACE = Space(
    (
        LogReal("lr", 1e-5, 1.0, 1e-2, note="learning rate"),
        Expression(GENE, KNOWN["adam"], note="direction f of the step −lr·f"),
    )
)
