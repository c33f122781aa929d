"""A recurrent cell that runs once for each tensor of a model, or once for all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from evometa.rules.cells import CELLS
from evometa.trees import Tree


class TensorCell:
    """A recurrent cell of H units for each of many columns; its state goes by the name of its level."""

    def __init__(self, level: str, cell: str, n_hidden: int) -> None:
        self.cell = CELLS[cell]
        self.n_hidden = n_hidden
        self.level = level
        self.carried = [f"{level}_hidden", f"{level}_memory"][: 2 if self.cell.has_memory else 1]

    def init_state(self, params: Tensor, n_columns: int) -> Tree:
        """Zeros, ``(H, T, n_columns)`` each."""
        return {name: params.new_zeros(self.n_hidden, len(params), n_columns) for name in self.carried}

    def step(self, weights: Tree, rows: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        """The next hidden state ``(H, T, n_columns)`` for inputs ``(F, T, n_columns)``, and the state."""
        before = [state[name].flatten(1) for name in self.carried]
        hidden, memory = self.cell(
            weights, rows.flatten(1), before[0], before[1] if len(before) > 1 else None
        )
        after = [hidden] if memory is None else [hidden, memory]
        shape = rows.shape[1:]
        new = {name: torch.unflatten(own, 1, shape) for name, own in zip(self.carried, after, strict=True)}
        return new[self.carried[0]], new
