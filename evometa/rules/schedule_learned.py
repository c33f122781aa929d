"""A learned schedule: a small GRU per task that reads statistics of the training loss and scales the step.

Inputs at every step: the statistics of :mod:`evometa.rules.loss_statistics`, the progress, and the logarithm
of the horizon.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from evometa.genome.genes import Integer
from evometa.genome.space import Genes, Space
from evometa.rules.base import Hyper, StepContext
from evometa.rules.cells import GRU
from evometa.rules.loss_statistics import (
    N_PROGRESS_ROWS,
    N_ROWS,
    init_statistics,
    progress_rows,
    read_value,
    value_rows,
)
from evometa.rules.schedule_base import Schedule, ScheduleFamily
from evometa.trees import Tree, under_prefix, with_prefix

#: The factor lies in [exp(−LOG_BOUND), exp(LOG_BOUND)].
LOG_BOUND = 3.0
#: Of the loss, then the progress and the horizon.
N_INPUTS = N_ROWS + N_PROGRESS_ROWS


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
        return {"hidden": like.new_zeros((n_tasks, self.n_hidden)), **init_statistics(n_tasks, like)}

    def factor(self, weights: Tree, hyper: Hyper, state: Tree, context: StepContext) -> tuple[Tensor, Tree]:
        known, statistics = read_value(state, context.loss)
        rows = torch.stack([*value_rows(state, known, statistics), *progress_rows(context, known)])
        hidden, _ = GRU(under_prefix("cell", weights), rows, state["hidden"].T, None)
        output = weights["output.weight"] @ hidden + weights["output.bias"]
        return torch.exp(LOG_BOUND * torch.tanh(output)), {**statistics, "hidden": hidden.T}


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
