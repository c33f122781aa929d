"""What is in an operation that computes several things for each of its numbers, or none.

:mod:`evometa.rules.cost` counts such an operation as one for each number, which is enough where rules are
compared; beside the rates of a machine it would be wrong by whole factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Parts:
    """Multiplications and additions in products, transcendental functions, and everything else."""

    products: int = 0
    transcendentals: int = 0
    others: int = 0


#: ``(arguments, result) → parts``
Rule = Callable[[tuple[Any, ...], Any], Parts]


def parts_of(name: str, args: tuple[Any, ...], result: Any) -> Parts | None:
    """Those of an operation of PyTorch's; None for one that the convention of the costs describes."""
    rule = _RULES.get(name)
    if rule is None and name.startswith("_fft_"):
        rule = _fft
    return None if rule is None else rule(args, result)


def _for_each(transcendentals: int, others: int) -> Rule:
    """For each number of the first argument."""

    def parts(args: tuple[Any, ...], result: Any) -> Parts:
        n = args[0].numel()
        return Parts(0, transcendentals * n, others * n)

    return parts


def _convolution(args: tuple[Any, ...], result: Tensor) -> Parts:
    """Every number of the result is a product with a filter, two operations for each number of it."""
    _, weight, bias = args[:3]
    return Parts(2 * result.numel() * weight[0].numel() + (0 if bias is None else result.numel()))


def _convolution_backward(args: tuple[Any, ...], result: Any) -> Parts:
    """The derivatives by input and by filters take as much as it each, that by the bias a sum."""
    grad, _, weight = args[:3]
    wants_input, wants_weight, wants_bias = args[-1]
    one = 2 * grad.numel() * weight[0].numel()
    return Parts((wants_input + wants_weight) * one, 0, grad.numel() if wants_bias else 0)


def _fft(args: tuple[Any, ...], result: Tensor) -> Parts:
    """5·n·log₂n for n complex numbers along the dimensions (Cooley and Tukey), half where some are real."""
    values: Tensor = args[0] if args[0].numel() >= result.numel() else result
    length = math.prod(values.shape[dim] for dim in args[1])
    share = 0.5 if not (args[0].is_complex() and result.is_complex()) else 1.0
    return Parts(others=round(share * 5 * values.numel() * math.log2(max(length, 2))))


def _sort(args: tuple[Any, ...], result: Any) -> Parts:
    """log₂n comparisons for each of n numbers that are put in order."""
    values: Tensor = args[0]
    dim = next((one for one in args[1:] if isinstance(one, int) and not isinstance(one, bool)), -1)
    length = values.shape[dim] if values.dim() else 1
    return Parts(others=round(values.numel() * math.log2(max(length, 2))))


def _power(args: tuple[Any, ...], result: Tensor) -> Parts:
    """A square, a root or a reciprocal is one operation, another power an exponential and a logarithm."""
    n, exponent = result.numel(), args[1]
    if isinstance(exponent, int | float) and abs(exponent) in (0.5, 1, 2, 3):
        return Parts(others=n)
    return Parts(transcendentals=2 * n)


def _moved(args: tuple[Any, ...], result: Any) -> Parts:
    """Nothing: numbers that are moved, beside zeros."""
    return Parts()


_RULES: Mapping[str, Rule] = {
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "sort": _sort,
    "argsort": _sort,
    "pow": _power,
    # mean, deviation, square and its mean; scaled, with weight and bias
    "native_layer_norm": _for_each(0, 8),
    # values normalised anew; two means and what is taken away by them; weight's and bias's sums
    "native_layer_norm_backward": _for_each(0, 13),
    "gelu": _for_each(1, 4),
    "gelu_backward": _for_each(2, 7),
    "silu": _for_each(1, 1),
    "silu_backward": _for_each(1, 4),
    "elu": _for_each(1, 2),
    "elu_backward": _for_each(1, 2),
    "sigmoid_backward": _for_each(0, 3),
    "tanh_backward": _for_each(0, 3),
    "_softmax_backward_data": _for_each(0, 4),
    "_log_softmax_backward_data": _for_each(1, 3),
    "slice_backward": _moved,
    "select_backward": _moved,
    "embedding": _moved,
    "scatter": _moved,
}
