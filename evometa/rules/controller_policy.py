"""What a controller sees of a training, and the small network that decides: observation and policy.

Both are of whole models, one a task, and feature-major: F inputs or A outputs first, the T tasks last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from evometa.rules.base import StepContext
from evometa.rules.cells import GRU, tanh, uniform
from evometa.rules.loss_statistics import (
    N_PROGRESS_ROWS,
    N_ROWS,
    ROW_BOUND,
    init_statistics,
    progress_rows,
    read_value,
    value_rows,
)
from evometa.trees import Tree, under_prefix, with_prefix

#: What a controller may look at, with its number of inputs; the settings that it controls are always seen.
STATISTICS = {"loss": N_ROWS, "gradient": N_ROWS, "alignment": 2, "progress": N_PROGRESS_ROWS}
IN_WORDS = {
    "loss": "the loss relative to the first",
    "gradient": "the norm of the gradient relative to the first",
    "alignment": "the cosine between successive gradients",
    "progress": "the progress",
}
#: A setting stays within this many octaves of its gene.
MOST_OCTAVES = 10.0
#: No input is larger than this.
OBSERVATION_BOUND = ROW_BOUND
#: Decay of the moving average of the cosine.
_ALIGNMENT_DECAY = 0.9


class Observation:
    """The chosen statistics of a training, and the settings under control.

    State: those of :mod:`evometa.rules.loss_statistics` under ``loss.`` and ``gradient.``; for the alignment
    ``previous (T, N)``, the last gradient, and ``alignment (T,)``, an average of the cosine.
    """

    def __init__(self, names: Sequence[str], n_controls: int) -> None:
        self.names = tuple(names)
        #: inputs by name, in their order
        self.n_rows = {**{name: STATISTICS[name] for name in self.names}, "controls": n_controls}

    @property
    def tensorwise(self) -> bool:
        """Whether no statistic is of all coordinates together."""
        return {"gradient", "alignment"}.isdisjoint(self.names)

    def init_state(self, params: Tensor) -> Tree:
        """The statistics before the first step for params ``(T, N)``."""
        n_tasks = params.shape[0]
        state: Tree = {}
        for name in ("loss", "gradient"):
            if name in self.names:
                state |= with_prefix(name, init_statistics(n_tasks, params))
        if "alignment" in self.names:
            state |= {"previous": torch.zeros_like(params), "alignment": params.new_zeros((n_tasks,))}
        return state

    def read(self, state: Tree, grads: Tensor, context: StepContext) -> tuple[Tree, Tree]:
        """The inputs ``(rows, T)`` of each statistic by name, and the statistics after this step.

        ``state`` has ``octaves``, too: where the settings stand.
        """
        rows: Tree = {}
        seen: Tree = {}
        if "loss" in self.names:
            before = under_prefix("loss", state)
            known, after = read_value(before, context.loss)
            rows["loss"] = torch.stack(value_rows(before, known, after))
            seen |= with_prefix("loss", after)
        if "gradient" in self.names:
            before = under_prefix("gradient", state)
            known, after = read_value(before, _norm(grads))
            rows["gradient"] = torch.stack(value_rows(before, known, after))
            seen |= with_prefix("gradient", after)
        if "alignment" in self.names:
            previous = state["previous"]
            cosine = (grads * previous).sum(-1) / (_norm(grads) * _norm(previous))
            average = state["alignment"] + (1 - _ALIGNMENT_DECAY) * (cosine - state["alignment"])
            rows["alignment"] = torch.stack([cosine, average])
            seen |= {"previous": grads, "alignment": average}
        if "progress" in self.names:
            rows["progress"] = torch.stack(progress_rows(context, state["octaves"][:, 0]))
        rows["controls"] = state["octaves"].T / MOST_OCTAVES
        return rows, seen

    def in_words(self) -> str:
        """The statistics for reading."""
        return ", ".join([*(IN_WORDS[name] for name in self.names), "and what it controls"])


class Policy:
    """One hidden layer, of tanh units or a GRU's, and a linear one that starts at zero: no output is larger.

    Weights: ``input.<statistic>`` for every one, so that a genome that gains or loses one keeps the others;
    ``hidden.…``, the cell's as in :class:`evometa.rules.cells.Cell`, or the layer's ``bias``;
    ``output.weight (A, H)`` and ``output.bias (A,)``. State: of a GRU ``hidden (T, H)``.
    """

    def __init__(self, kind: str, n_hidden: int, n_outputs: int, n_rows: dict[str, int]) -> None:
        self.kind = kind
        self.n_hidden = n_hidden
        self.n_outputs = n_outputs
        self.n_rows = n_rows

    def init_weights(self, generator: torch.Generator) -> Tree:
        """Fresh weights; the network then decides nothing, whatever it sees."""
        weights: Tree = {}
        bound = 1 / math.sqrt(sum(self.n_rows.values()))
        for name, n_rows in self.n_rows.items():
            if self.kind == "gru":
                weights[f"input.{name}"] = GRU.init_input(generator, self.n_hidden, n_rows)
            else:
                weights[f"input.{name}"] = uniform(generator, (self.n_hidden, n_rows), bound)
        hidden = {"bias": torch.zeros(self.n_hidden)}
        weights |= with_prefix("hidden", GRU.init(generator, self.n_hidden) if self.kind == "gru" else hidden)
        weights["output.weight"] = torch.zeros(self.n_outputs, self.n_hidden)
        weights["output.bias"] = torch.zeros(self.n_outputs)
        return weights

    def init_state(self, params: Tensor) -> Tree:
        """The state before the first decision, for params ``(T, N)``."""
        return {"hidden": params.new_zeros((params.shape[0], self.n_hidden))} if self.kind == "gru" else {}

    def input_weights(self, weights: Tree) -> Tensor:
        """The weights of all inputs, ``(H or 3·H, F)``."""
        return torch.cat([weights[f"input.{name}"] for name in self.n_rows], dim=1)

    def outputs(self, weights: Tree, state: Tree, rows: Tensor) -> tuple[Tensor, Tree]:
        """Outputs ``(A, T)`` for inputs ``(F, T)``, and the next state."""
        hidden_weights = under_prefix("hidden", weights)
        if self.kind == "gru":
            cell = {"input": self.input_weights(weights), **hidden_weights}
            hidden, _ = GRU(cell, rows, state["hidden"].T, None)
            after = {"hidden": hidden.T}
        else:
            bias = hidden_weights["bias"].unsqueeze(1)
            hidden, after = tanh(torch.addmm(bias, self.input_weights(weights), rows)), {}
        return torch.addmm(weights["output.bias"].unsqueeze(1), weights["output.weight"], hidden), after


def _norm(grads: Tensor) -> Tensor:
    """Of each task's whole gradient, ``(T,)``; never zero, where derivative and inverse are infinite."""
    return grads.square().sum(-1).clamp(min=torch.finfo(grads.dtype).tiny).sqrt()
