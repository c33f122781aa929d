"""A learned schedule: a small GRU per task that reads statistics of the training loss and scales the step.

Inputs at every step, from ``l = log(loss/|first loss|)``: l, its change since the last step, its distance to
moving averages of it at several time scales, whether the loss was known, the progress, and the logarithm of
the horizon. The ratio is clamped to [1e-8, 1e8], so a negative loss reads as the smallest positive one.

Without a loss (``context.loss`` is None) or with a non-finite one, the statistics of that task keep their
last values (all 0 before the first known loss), the change is 0 and the last input says so.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from evometa.genome.genes import Integer
from evometa.genome.space import Genes, Space
from evometa.rules.base import Hyper, StepContext
from evometa.rules.cells import GRU
from evometa.rules.schedule_base import Schedule, ScheduleFamily
from evometa.trees import Tree, under_prefix, with_prefix

#: The factor lies in [exp(−LOG_BOUND), exp(LOG_BOUND)].
LOG_BOUND = 3.0
#: Decay rates of the moving averages of the log loss.
DECAYS = (0.5, 0.9, 0.99)
#: l, change, known, progress, log horizon, and a distance per decay.
N_INPUTS = 5 + len(DECAYS)

#: A loss is clamped to this multiple of the first loss, and its inverse, before the logarithm.
_MAX_RATIO = 1e8
#: Brings l (natural logarithm) and log₁₀ of the horizon to the order of 1.
_LOG_SCALE = 0.2


class RecurrentSchedule(Schedule):
    """GRU (Cho et al. 2014) of ``n_hidden`` units; its output layer starts at zero, so the factor at 1."""

    def __init__(self, n_hidden: int) -> None:
        self.n_hidden = n_hidden

    def init_weights(self, generator: torch.Generator) -> Tree:
        cell = GRU.init(generator, self.n_hidden)
        cell["input"] = GRU.init_input(generator, self.n_hidden, N_INPUTS)
        output = {"weight": torch.zeros(self.n_hidden), "bias": torch.zeros(())}
        return {**with_prefix("cell", cell), **with_prefix("output", output)}

    def init_state(self, weights: Tree, n_tasks: int, like: Tensor) -> Tree:
        """``first_loss`` is 0 until a loss is known."""
        return {
            "hidden": like.new_zeros((n_tasks, self.n_hidden)),
            "first_loss": like.new_zeros((n_tasks,)),
            "log_loss": like.new_zeros((n_tasks,)),
            "averages": like.new_zeros((n_tasks, len(DECAYS))),
        }

    def factor(self, weights: Tree, hyper: Hyper, state: Tree, context: StepContext) -> tuple[Tensor, Tree]:
        known, statistics = _read_loss(state, context.loss)
        log_loss = statistics["log_loss"]
        distances = log_loss.unsqueeze(-1) - statistics["averages"]
        rows = torch.stack(
            [
                log_loss * _LOG_SCALE,
                (log_loss - state["log_loss"]) * _LOG_SCALE,
                *(distances * _LOG_SCALE).unbind(-1),
                known,
                context.progress.expand_as(known),
                (context.horizon.log10() * _LOG_SCALE).expand_as(known),
            ]
        )
        hidden, _ = GRU(under_prefix("cell", weights), rows, state["hidden"].T, None)
        output = weights["output.weight"] @ hidden + weights["output.bias"]
        return torch.exp(LOG_BOUND * torch.tanh(output)), {**statistics, "hidden": hidden.T}


def _read_loss(state: Tree, loss: Tensor | None) -> tuple[Tensor, Tree]:
    """Which tasks' losses are known, (T,) of 0 and 1, and the statistics after this step."""
    if loss is None:
        kept = {name: state[name] for name in ("first_loss", "log_loss", "averages")}
        return torch.zeros_like(state["log_loss"]), kept
    loss = loss.to(state["log_loss"].dtype)
    finite = torch.isfinite(loss)
    # A value that is masked out afterwards must be finite before, or its derivative is NaN all the same.
    safe = torch.where(finite, loss, torch.ones_like(loss))
    tiny = torch.finfo(loss.dtype).tiny
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
    return finite.to(loss.dtype), {"first_loss": first_loss, "log_loss": log_loss, "averages": averages}


class RecurrentScheduleFamily(ScheduleFamily):
    """The registry row of the learned schedule."""

    name = "recurrent"
    summary = "a learned GRU that reads training-loss statistics"
    learned: ClassVar[bool] = True

    @property
    def space(self) -> Space:
        return Space((Integer("schedule.hidden", 4, 16, 8, note="hidden units of the learned schedule"),))

    def build(self, genes: Genes) -> RecurrentSchedule:
        return RecurrentSchedule(int(genes["schedule.hidden"]))  # type: ignore[arg-type]

    def formula(self, genes: Genes) -> str:
        n_hidden = genes["schedule.hidden"]
        return f"exp({LOG_BOUND:g}·tanh(w·hₖ + b)),  hₖ = GRU{n_hidden}(loss statistics, p; hₖ₋₁)"
