"""A step of any hand-designed rule for a whole cohort, in one pass over memory, by a native kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from evometa import native
from evometa.native.tasks import PerceptronTasks
from evometa.rules.hand_designed_table import Row
from evometa.trees import Tree, tree_map

#: The numbers of a step as the kernel takes them, beside the schedule's factor; the rule says what they mean.
COEFFICIENTS = ("first", "second", "of_gradient", "of_moment", "eps", "scale", "decay")


def serves(grads: Tensor, params: Tensor) -> bool:
    """Whether the kernel takes these; a graph of the gradients is second order and not for it."""
    return not grads.requires_grad and native.serves("moments", grads, params)


def step_cohort(
    row: Row, numbers: Tree, state: Tree, grads: Tensor, params: Tensor, factor: Tensor, *, overwrite: bool
) -> tuple[Tensor, Tree]:
    """The next params ``(P, T, N)`` and moments of P candidates; with ``overwrite`` in their own memory.

    ``numbers`` are ``(P, 1, 1)`` or ``(P, T, 1)``, ``factor`` is ``(P, 1)`` or ``(P, T)``. The next params
    can be differentiated in ``params`` and ``factor``.
    """
    moments: Tree = {name: state[name].contiguous() for name in ("first", "second") if name in state}
    next_moments = moments if overwrite else tree_map(torch.empty_like, moments)
    factor = factor.unsqueeze(-1)
    if torch.is_grad_enabled() and (params.requires_grad or factor.requires_grad):
        # What the step follows is told from constants; only the weight decay and the factor have derivatives.
        step = torch.zeros_like(params, memory_format=torch.contiguous_format)
        undecayed = {name: value for name, value in numbers.items() if name != "decay"}
        _run(row, undecayed, None, moments, grads, step, next_moments, step)
        if "decay" in numbers:
            step = step - numbers["decay"] * params
        return params + factor * step, next_moments
    params = params.contiguous()
    next_params = params if overwrite else torch.empty_like(params)
    _run(row, numbers, factor, moments, grads, params, next_moments, next_params)
    return next_params, next_moments


def train_cohort(
    row: Row, numbers: Tree, state: Tree, params: Tensor, factors: Tensor, tasks: PerceptronTasks
) -> tuple[Tensor, Tree]:
    """Losses ``(K, P, T)`` and the next moments of K steps; params and moments are edited in place.

    ``numbers`` broadcast to ``(K, P, T, 1)``, ``factors`` are ``(K, P, 1)``.
    """
    moments: Tree = {name: state[name].contiguous() for name in ("first", "second") if name in state}
    losses = params.new_empty((tasks.n_steps, *params.shape[:2]))
    torch.ops.evometa.moments_train(
        params,
        *_rule_arguments(row, moments),
        [*map(numbers.get, COEFFICIENTS), factors.unsqueeze(-1)],
        *tasks.arguments,
        losses,
    )
    return losses, moments


def _run(
    row: Row,
    numbers: Tree,
    factor: Tensor | None,
    moments: Tree,
    grads: Tensor,
    params: Tensor,
    next_moments: Tree,
    next_params: Tensor,
) -> None:
    torch.ops.evometa.moments_step(
        grads.contiguous(),
        params,
        *_rule_arguments(row, moments),
        [*map(numbers.get, COEFFICIENTS), factor],
        next_params,
        next_moments.get("first"),
        next_moments.get("second"),
    )


def _rule_arguments(row: Row, moments: Tree) -> tuple[Tensor | None, Tensor | None, str, str, str, bool]:
    """The moments, and what the row does with them, in the operators' order."""
    first, second = moments.get("first"), moments.get("second")
    # To the kernel a blend is a step ahead: both weigh the gradient and the new moment.
    direction = "lookahead" if row.direction == "blend" else row.direction
    return first, second, direction, row.first, row.second, row.sign
