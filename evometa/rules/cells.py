"""Recurrent cells on feature-major data: channels first, coordinates last and contiguous.

A layer is one matrix product on a buffer that holds inputs, a row of ones and the hidden state, so that the
bias costs nothing extra. tanh(x) is computed as 2σ(2x) − 1, several times quicker on a CPU; inside a cell the
inner factor two is folded into the weights.

Equations and the order of gates are those of ``torch.nn.RNNCell``, ``GRUCell``, ``LSTMCell``, with one bias
where PyTorch keeps two that are only ever added.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from evometa.trees import Tree


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent as 2σ(2x) − 1: absolute error of one rounding, exactly 0 at 0."""
    return _tanh_of_half(torch.sigmoid(x + x))


def uniform(generator: torch.Generator, shape: tuple[int, ...], bound: float) -> Tensor:
    """A draw from U(−bound, bound), float32 on the CPU."""
    return torch.rand(shape, generator=generator, dtype=torch.float32).mul_(2 * bound).sub_(bound)


@dataclass(frozen=True)
class Cell:
    """One kind of recurrent cell with H hidden units.

    Attributes:
        title: its name in words, with an article.
        n_gates: G; the rows of its weights are G blocks of H.
        step: (weights, input rows, hidden, memory) → (hidden, memory), see :meth:`__call__`.
        formula: its equations, with {x} for the input and {n} for the layer's index.
        has_memory: whether it carries a second state, the c of an LSTM; its second gate forgets.
        has_recurrent_bias: whether the hidden state has a bias of its own, as in a GRU's candidate.
    """

    title: str
    n_gates: int
    step: Callable[[Tree, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
    formula: tuple[str, ...]
    has_memory: bool = False
    has_recurrent_bias: bool = False

    def __call__(
        self, weights: Tree, rows: Tensor, hidden: Tensor, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The next hidden state and memory, ``(H, R)`` each, for R coordinates.

        ``rows`` are the inputs ``(F, R)``; ``weights`` are ``input (G·H, F)``, ``recurrent (G·H, H)``,
        ``bias (G·H)`` and, where there is one, ``recurrent_bias (H)``. Raises TypeError for a missing memory.
        """
        return self.step(weights, rows, hidden, memory)

    def init(self, generator: torch.Generator, n_hidden: int) -> Tree:
        """Weights without ``input``: U(−1/√H, 1/√H) as PyTorch draws them, biases zero, forget bias one."""
        weights = {
            "recurrent": self.init_input(generator, n_hidden, n_hidden),
            "bias": torch.zeros(self.n_gates * n_hidden),
        }
        if self.has_recurrent_bias:
            weights["recurrent_bias"] = torch.zeros(n_hidden)
        if self.has_memory:
            weights["bias"][n_hidden : 2 * n_hidden] = 1.0
        return weights

    def init_input(self, generator: torch.Generator, n_hidden: int, n_inputs: int) -> Tensor:
        """Fresh weights from ``n_inputs`` rows, ``(G·H, n_inputs)``."""
        return uniform(generator, (self.n_gates * n_hidden, n_inputs), 1 / math.sqrt(n_hidden))


def _tanh_of_half(half: Tensor) -> Tensor:
    """2s − 1 in one pass, for s = σ(2x)."""
    return torch.rsub(half, -1.0, alpha=-2.0)


def _buffer(rows: Tensor, hidden: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones_like(hidden[:1]), hidden])


def _layer(weights: Tree) -> Tensor:
    """The weights of a whole buffer: inputs, ones, hidden state."""
    return torch.cat([weights["input"], weights["bias"].unsqueeze(1), weights["recurrent"]], dim=1)


def _vanilla(
    weights: Tree, rows: Tensor, hidden: Tensor, memory: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    half = torch.mm(2.0 * _layer(weights), _buffer(rows, hidden)).sigmoid_()
    return _tanh_of_half(half), None


def _lstm(weights: Tree, rows: Tensor, hidden: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if memory is None:
        raise TypeError("an LSTM cell needs its memory")
    n_hidden = hidden.shape[0]
    input_forget, candidate, output = torch.split(_layer(weights), [2 * n_hidden, n_hidden, n_hidden])
    layer = torch.cat([input_forget, 2.0 * candidate, output])
    gates = torch.mm(layer, _buffer(rows, hidden)).sigmoid_()
    i, f, half, o = torch.unflatten(gates, 0, (4, n_hidden)).unbind(0)
    memory = torch.addcmul((f * memory).sub_(i), i, half, value=2.0)  # f·c + i·(2·half − 1)
    return o * tanh(memory), memory


def _gru(weights: Tree, rows: Tensor, hidden: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
    n_hidden = hidden.shape[0]
    buffer = _buffer(rows, hidden)
    n_inputs = buffer.shape[0] - n_hidden - 1
    gate_rows, candidate_rows = torch.split(_layer(weights), [2 * n_hidden, n_hidden])
    from_input, from_hidden = torch.split(2.0 * candidate_rows, [n_inputs + 1, n_hidden], dim=1)
    from_hidden = torch.cat([2.0 * weights["recurrent_bias"].unsqueeze(1), from_hidden], dim=1)
    gates = torch.mm(gate_rows, buffer).sigmoid_()
    reset, update = torch.unflatten(gates, 0, (2, n_hidden)).unbind(0)
    candidate = torch.addcmul(
        torch.mm(from_input, buffer[: n_inputs + 1]), reset, torch.mm(from_hidden, buffer[n_inputs:])
    )
    return torch.lerp(_tanh_of_half(candidate.sigmoid_()), hidden, update), None


VANILLA = Cell("a plain recurrent network", 1, _vanilla, ("h{n} ← tanh(W{n}·[{x}, h{n}, 1])",))
GRU = Cell(
    "a GRU",
    3,
    _gru,
    (
        "r, z = σ(W{n}·[{x}, h{n}, 1])",
        "a = tanh(V{n}·[{x}, 1] + r∘(U{n}·[h{n}, 1]))",
        "h{n} ← (1 − z)∘a + z∘h{n}",
    ),
    has_recurrent_bias=True,
)
LSTM = Cell(
    "an LSTM",
    4,
    _lstm,
    (
        "i, f, o = σ(W{n}·[{x}, h{n}, 1]),  a = tanh(V{n}·[{x}, h{n}, 1])",
        "c{n} ← f∘c{n} + i∘a,  h{n} ← o∘tanh(c{n})",
    ),
    has_memory=True,
)
CELLS: dict[str, Cell] = {"vanilla": VANILLA, "gru": GRU, "lstm": LSTM}
