"""Statistics of a positive number in training, such as a task's loss: its logarithm relative to the first.

From ``l = log(value/|first value|)``: l, its change since the last step, its distance to moving averages of
it at several time scales, and whether the value was known. The ratio is clamped to [1e-8, 1e8], so a negative
loss reads as the smallest positive one.

Without a value (None) or with a non-finite one, the statistics of that task keep their last values (all 0
before the first known one), the change is 0, and the last input says so.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evometa.rules.base import StepContext
from evometa.trees import Tree

#: Decay rates of the moving averages of l.
DECAYS = (0.5, 0.9, 0.99)
#: l, change, a distance per decay, known.
N_ROWS = 3 + len(DECAYS)
#: Progress and the horizon's logarithm.
N_PROGRESS_ROWS = 2

#: A value is clamped to this multiple of the first, and its inverse, before the logarithm.
_MAX_RATIO = 1e8
#: Brings l (natural logarithm) and log₁₀ of the horizon to the order of 1.
_LOG_SCALE = 0.2
#: No row is larger: the distance of two clamped logarithms.
ROW_BOUND = 2 * _LOG_SCALE * math.log(_MAX_RATIO)


def init_statistics(n_tasks: int, like: Tensor) -> Tree:
    """The statistics of T tasks before a value is known; ``first_loss`` is 0 until then."""
    return {
        "first_loss": like.new_zeros((n_tasks,)),
        "log_loss": like.new_zeros((n_tasks,)),
        "averages": like.new_zeros((n_tasks, len(DECAYS))),
    }


def read_value(state: Tree, value: Tensor | None) -> tuple[Tensor, Tree]:
    """Which tasks' values ``(T,)`` are known, (T,) of 0 and 1, and the statistics after this step."""
    if value is None:
        kept = {name: state[name] for name in ("first_loss", "log_loss", "averages")}
        return torch.zeros_like(state["log_loss"]), kept
    value = value.to(state["log_loss"].dtype)
    finite = torch.isfinite(value)
    # A value that is masked out afterwards must be finite before, or its derivative is NaN all the same.
    safe = torch.where(finite, value, torch.ones_like(value))
    tiny = torch.finfo(value.dtype).tiny
    starts = finite & (state["first_loss"] == 0)
    first_loss = torch.where(starts, safe.abs().clamp(min=tiny), state["first_loss"])
    divisor = torch.where(first_loss > 0, first_loss, torch.ones_like(first_loss))
    ratio = (safe / divisor).clamp(1 / _MAX_RATIO, _MAX_RATIO)
    log_loss = torch.where(finite, ratio.log(), state["log_loss"])
    moved = [
        average + (1 - decay) * (log_loss - average)
        for decay, average in zip(DECAYS, state["averages"].unbind(-1), strict=True)
    ]
    averages = torch.where(finite.unsqueeze(-1), torch.stack(moved, dim=-1), state["averages"])
    return finite.to(value.dtype), {"first_loss": first_loss, "log_loss": log_loss, "averages": averages}


def value_rows(before: Tree, known: Tensor, statistics: Tree) -> list[Tensor]:
    """The inputs that the statistics give, N_ROWS of ``(T,)``; ``before`` are those of the last step."""
    log_loss = statistics["log_loss"]
    distances = log_loss.unsqueeze(-1) - statistics["averages"]
    return [
        log_loss * _LOG_SCALE,
        (log_loss - before["log_loss"]) * _LOG_SCALE,
        *(distances * _LOG_SCALE).unbind(-1),
        known,
    ]


def progress_rows(context: StepContext, like: Tensor) -> list[Tensor]:
    """The progress and the logarithm of the horizon, of the shape of ``like``."""
    return [context.progress.expand_as(like), (context.horizon.log10() * _LOG_SCALE).expand_as(like)]
