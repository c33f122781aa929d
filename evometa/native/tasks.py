"""Tasks whose minibatches, losses and gradients kernels make themselves, many steps in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class PerceptronTasks:
    """T tasks of one perceptron, as the operators ``*_train`` take them; see ``src/task_training.h``.

    Attributes:
        x, y: rows of data that the tasks share, ``(rows, inputs)`` and ``(rows,)``.
        batches: ``(T, K, B)`` rows of each task's minibatch at each of K steps.
        sizes: inputs, hidden layers, outputs.
        activation: name of the nonlinearity.
        target: "class" for mean cross-entropy, "value" for mean squared error.
    """

    x: Tensor
    y: Tensor
    batches: Tensor
    sizes: tuple[int, ...]
    activation: str
    target: Literal["class", "value"]

    @property
    def n_steps(self) -> int:
        """K."""
        return self.batches.shape[1]

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...], str, str]:
        """In the operators' order."""
        return self.x, self.y, self.batches, self.sizes, self.activation, self.target
