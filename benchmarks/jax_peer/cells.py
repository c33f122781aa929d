"""Recurrent cells in JAX, feature-major as in evometa: channels first, coordinates last."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Array = jax.Array
Weights = Mapping[str, Array]


#: Up to so many input rows are added elementwise where a program is unrolled.
_FEW_ROWS = 4


def _from_input(weights: Weights, rows: Array, unrolled: bool) -> Array:
    layer, bias = weights["input"], weights["bias"][:, None]
    if unrolled and rows.shape[0] <= _FEW_ROWS:
        return sum((layer[:, f][:, None] * rows[f] for f in range(rows.shape[0])), start=bias)
    return layer @ rows + bias


def _affine(weights: Weights, rows: Array, hidden: Array, unrolled: bool) -> Array:
    """One product for inputs and hidden state together; XLA's is quicker than two."""
    if unrolled and rows.shape[0] <= _FEW_ROWS:
        return weights["recurrent"] @ hidden + _from_input(weights, rows, unrolled)
    layer = jnp.concatenate([weights["input"], weights["recurrent"]], axis=1)
    return layer @ jnp.concatenate([rows, hidden]) + weights["bias"][:, None]


def vanilla(
    weights: Weights, rows: Array, hidden: Array, memory: Array | None, unrolled: bool
) -> tuple[Array, Array | None]:
    """h ← tanh(W·[x, h, 1])."""
    return jnp.tanh(_affine(weights, rows, hidden, unrolled)), None


def lstm(
    weights: Weights, rows: Array, hidden: Array, memory: Array | None, unrolled: bool
) -> tuple[Array, Array | None]:
    """Gates in the order of PyTorch: input, forget, candidate, output."""
    if memory is None:
        raise TypeError("an LSTM cell needs its memory")
    i, f, a, o = jnp.split(_affine(weights, rows, hidden, unrolled), 4)
    memory = jax.nn.sigmoid(f) * memory + jax.nn.sigmoid(i) * jnp.tanh(a)
    return jax.nn.sigmoid(o) * jnp.tanh(memory), memory


def gru(
    weights: Weights, rows: Array, hidden: Array, memory: Array | None, unrolled: bool
) -> tuple[Array, Array | None]:
    """Gates in the order of PyTorch: reset, update, candidate, whose hidden part has its own bias."""
    n_hidden = hidden.shape[0]
    from_input = _from_input(weights, rows, unrolled)
    from_hidden = weights["recurrent"] @ hidden
    reset = jax.nn.sigmoid(from_input[:n_hidden] + from_hidden[:n_hidden])
    update = jax.nn.sigmoid(from_input[n_hidden : 2 * n_hidden] + from_hidden[n_hidden : 2 * n_hidden])
    inner = from_hidden[2 * n_hidden :] + weights["recurrent_bias"][:, None]
    candidate = jnp.tanh(from_input[2 * n_hidden :] + reset * inner)
    return candidate + update * (hidden - candidate), None


CELLS = {"vanilla": vanilla, "lstm": lstm, "gru": gru}
