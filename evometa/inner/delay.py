"""Delayed gradients: a rule is given the gradient of some steps before, as in asynchronous training.

The gradients under way are a queue in the state of a training, ``(P, d, T, N)``, that starts full of zeros:
the first d steps are made without any gradient. All that steps or copies a state takes the queue along.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evometa.trees import Tree

#: The queue's name in a state; the learner's own tensors have the prefix of a part of it.
_QUEUE = "delayed.grads"


def empty_queue(params: Tensor, delay: int) -> Tree:
    """The part of the state at params ``(P, T, N)`` before the first step; {} without a delay."""
    if not delay:
        return {}
    n_candidates, *rest = params.shape
    return {_QUEUE: params.new_zeros((n_candidates, delay, *rest))}


def through_queue(state: Tree, grads: Tensor) -> tuple[Tensor, Tree, Tree]:
    """The gradients ``(P, T, N)`` that the rule is given when ``grads`` are new, and two parts of the state.

    The one is the learner's, as it was; the other the queue as it is after the step. Without a queue they are
    ``grads`` themselves, the whole ``state`` and {}.
    """
    queue = state.get(_QUEUE)
    if queue is None:
        return grads, state, {}
    own = {name: value for name, value in state.items() if name != _QUEUE}
    # A copy, or a graph that keeps it would keep the queue of every step.
    return queue[:, 0].clone(), own, {_QUEUE: torch.cat([queue[:, 1:], grads.unsqueeze(1)], dim=1)}
