"""The task in JAX: a ReLU perceptron with one hidden layer, cross-entropy, its parameters a tuple of tensors.

A model's parameters, gradients and whatever is kept for each coordinate are tuples of matrices ``(T, r, c)``,
one for each tensor: what a JAX user has, and what XLA turns into the fewest passes. Biases are ``(T, r, 1)``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array
#: W₁ (T, H, D), b₁ (T, H, 1), W₂ (T, C, H), b₂ (T, C, 1)
Tensors = tuple[Array, ...]


def unflatten(flat: Array, shapes: tuple[tuple[int, int], ...]) -> Tensors:
    """``(T, N)`` → a matrix for each tensor."""
    parts, start = [], 0
    for rows, columns in shapes:
        parts.append(flat[:, start : start + rows * columns].reshape(-1, rows, columns))
        start += rows * columns
    return tuple(parts)


def flatten(tensors: Tensors) -> Array:
    """The inverse of :func:`unflatten`."""
    return jnp.concatenate([tensor.reshape(tensor.shape[0], -1) for tensor in tensors], axis=1)


def loss(params: Tensors, x: Array, y: Array) -> Array:
    """Mean cross-entropy () of one task: params without the axis T, x ``(D, B)``, y ``(B,)``."""
    w1, b1, w2, b2 = params
    scores = w2 @ jax.nn.relu(w1 @ x + b1) + b2
    log_probabilities = jax.nn.log_softmax(scores, axis=0)
    return -jnp.mean(jnp.take_along_axis(log_probabilities, y[None], axis=0))


def losses_and_grads(params: Tensors, x: Array, y: Array) -> tuple[Array, Tensors]:
    """Losses ``(T,)`` and gradients of T tasks; x ``(T, D, B)``, y ``(T, B)``."""
    return jax.vmap(jax.value_and_grad(loss))(params, x, y)
