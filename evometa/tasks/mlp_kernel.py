"""Losses and gradients of small perceptrons of a whole cohort by a native kernel, where there is no graph."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from evometa import native
from evometa.native.tasks import Target

#: Weights of the largest layer up to which the kernel, whose blocks are laid out for the first-level cache,
#: took no more time than batched products of PyTorch: half with 64×32, as much with 512×512 (64 to 256 rows,
#: on one AMD Zen 3 core).
MOST_WEIGHTS = 2**18


def serves(sizes: Sequence[int], target: Target, params: Tensor, x: Tensor, y: Tensor) -> bool:
    """Whether the kernel takes these: no graph is wanted, and it is the faster way."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (params, x, y)):
        return False
    if max(n_inputs * n_outputs for n_inputs, n_outputs in pairwise(sizes)) > MOST_WEIGHTS:
        return False
    # Other labels are for PyTorch to take or to refuse.
    expected = torch.int64 if target == "class" else params.dtype
    return y.dtype == expected and native.serves("task_mlp", params, x)


def loss_and_grad(
    sizes: Sequence[int],
    activation: str,
    target: Target,
    params: Tensor,
    x: Tensor,
    y: Tensor,
) -> tuple[Tensor, Tensor]:
    """Losses (P, T) and gradients (P, T, N) at ``params`` (P, T, N); x is (T, B, inputs).

    y is (T, B), or (T, B, outputs) of several values; ``activation`` and ``target`` are as of
    :class:`evometa.native.tasks.PerceptronTasks`. Raises RuntimeError for a label that is no class.
    """
    losses, grads = torch.ops.evometa.mlp_loss_and_grad(
        params.contiguous(), x.contiguous(), y.contiguous(), sizes, activation, target
    )
    return losses, grads
