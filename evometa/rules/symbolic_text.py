"""Symbolic rules for people: in words, and as formulas in Unicode text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from evometa.rules.symbolic_primitives import VIEWS, Primitive, Terminal
from evometa.rules.symbolic_tree import averages, is_number, numbers, parse

#: How tightly what is written holds together: sums, signs in front, products, all else.
_SUM, _SIGNED, _PRODUCT, _WHOLE = range(4)

_LEAVES = {"g": "g", "p": "θ", "noise": "ε", "progress": "p", "count": "n"}
_VIEWS = {"m": "m", "mhat": "m̂", "mprev": "m⁻", "v": "v", "vhat": "v̂", "sum": "b"}
#: What is behind the names of averages, for those that occur.
_DEFINITIONS = {
    "mean": "m(β) ← β·m(β) + (1 − β)·g",
    "mean_square": "v(β) ← β·v(β) + (1 − β)·g²",
    "sum": "b(β) ← β·b(β) + g",
}
_VIEW_DEFINITIONS = {"mhat": "m̂ = m/(1 − βⁿ)", "vhat": "v̂ = v/(1 − βⁿ)", "mprev": "m⁻ is m before this step"}
_LEAF_DEFINITIONS = {
    "count": "n = k + 1, the number of this update",
    "progress": "p = min(k/H, 1)",
    "noise": "ε is noise of variance 1",
}
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_WORDS = {
    "g": "the gradient",
    "p": "the parameter",
    "mean": "running averages of the gradient",
    "mean_square": "running averages of its square",
    "sum": "running sums of the gradient",
    "progress": "the progress of training",
    "count": "the number of the update",
    "noise": "noise",
}


def described(text: str, lr: float) -> str:
    """The rule in a sentence."""
    nodes = parse(text)
    names = {getattr(node, "name", "") for node in nodes} | {kind for kind, _ in averages(nodes)}
    read = [words for name, words in _WORDS.items() if name in names] or ["nothing but numbers"]
    listed = read[0] if len(read) == 1 else f"{', '.join(read[:-1])} and {read[-1]}"
    n_numbers = 1 + len(numbers(text).constants) + len(numbers(text).one_minus_decays)
    trained = "its learning rate is" if n_numbers == 1 else f"its {n_numbers} numbers are"
    return f"A formula of {listed}, with learning rate {lr:.3g}; {trained} meta-trained."


def equations(text: str, lr: float) -> list[str]:
    """The update, a line for each average and one for the step."""
    nodes = parse(text)
    names = [getattr(node, "name", "") for node in nodes]
    lines = [_DEFINITIONS[kind] for kind in dict.fromkeys(kind for kind, _ in averages(nodes))]
    lines += [line for name, line in _VIEW_DEFINITIONS.items() if name in names]
    if "count" not in names and any(name in names for name in ("mhat", "vhat")):
        lines.append(_LEAF_DEFINITIONS["count"])
    lines += [line for name, line in _LEAF_DEFINITIONS.items() if name in names]
    direction, holds, _ = _written(nodes, 0)
    return [*lines, f"Δ = −{_number(lr)}·{_inside(direction, holds, _PRODUCT)}"]


def _written(nodes: Sequence[object], at: int) -> tuple[str, int, int]:
    """The subtree at ``at`` in text, how tightly that holds together, and where the subtree ends."""
    node = cast(Primitive, nodes[at])
    if is_number(node):
        shown = _number(cast(Terminal, node).value)
        return shown, _PRODUCT if "·" in shown else _WHOLE, at + 1
    if node.name in VIEWS:
        beta = cast(Terminal, nodes[at + 1]).value
        return f"{_VIEWS[node.name]}({_decay(beta)})", _WHOLE, at + 2
    if not node.arity:
        return _LEAVES[node.name], _WHOLE, at + 1
    parts: list[tuple[str, int]] = []
    at += 1
    for _ in range(node.arity):
        shown, holds, at = _written(nodes, at)
        parts.append((shown, holds))
    return *_operation(node.name, parts), at


def _operation(name: str, parts: Sequence[tuple[str, int]]) -> tuple[str, int]:
    first, last = parts[0], parts[-1]
    match name:
        case "add":
            return f"{_inside(*first, _SUM)} + {_inside(*last, _PRODUCT)}", _SUM
        case "sub":
            return f"{_inside(*first, _SUM)} − {_inside(*last, _PRODUCT)}", _SUM
        case "mul":
            return f"{_inside(*first, _PRODUCT)}·{_inside(*last, _PRODUCT)}", _PRODUCT
        case "div":
            return f"{_inside(*first, _PRODUCT)}/{_inside(*last, _WHOLE)}", _PRODUCT
        case "neg":
            return f"−{_inside(*first, _PRODUCT)}", _SIGNED
        case "sqrt":
            inner = first[0] if first[1] == _WHOLE and not first[0].startswith("√") else f"({first[0]})"
            return f"√{inner}", _WHOLE
        case "square":
            inner = f"({first[0]})" if first[0].startswith("√") else _inside(*first, _WHOLE)
            return f"{inner}²", _WHOLE
        case "pow":
            return f"sign({first[0]})·|{first[0]}|^{_inside(*last, _WHOLE)}", _PRODUCT
        case "abs":
            return f"|{first[0]}|", _WHOLE
        case "log":
            return f"log|{first[0]}|", _WHOLE
    return f"{name}({', '.join(shown for shown, _ in parts)})", _WHOLE


def _inside(shown: str, holds: int, needed: int) -> str:
    """In parentheses, where the text holds together less tightly than its place needs."""
    return f"({shown})" if holds < needed else shown


def _number(value: float) -> str:
    """A number with four digits, powers of ten as people write them."""
    if 1e-3 <= value < 1e5:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.3e}".split("e")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    factor = mantissa.rstrip("0").rstrip(".")
    return power if factor == "1" else f"{factor}·{power}"


def _decay(beta: float) -> str:
    """β with three digits of 1 − β."""
    return f"{round(beta, 2 - math.floor(math.log10(1.0 - beta) + 1e-9)):.8g}"
