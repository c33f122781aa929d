"""Tasks whose minibatches, losses and gradients kernels make themselves, many steps in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

#: What a network is trained to do: name a class (softmax, mean cross-entropy in nats), give one number, or
#: give several (mean squared error).
Target = Literal["class", "value", "values"]


@dataclass(frozen=True)
class PerceptronTasks:
    """T tasks of one perceptron, as the operators ``*_train`` take them; see ``src/task_training.h``.

    Attributes:
        x, y: rows of data that the tasks share, ``(rows, inputs)`` and ``(rows,)``, or ``(rows, outputs)``
            where the target is "values".
        batches: ``(T, K, B)`` rows of each task's minibatch at each of K steps.
        sizes: inputs, hidden layers, outputs.
        activation: name of the nonlinearity; "sine(ω)" for sin(ω·z).
        target: what the loss is.
    """

    x: Tensor
    y: Tensor
    batches: Tensor
    sizes: tuple[int, ...]
    activation: str
    target: Target

    @property
    def n_steps(self) -> int:
        """K."""
        return self.batches.shape[1]

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...], str, str]:
        """In the operators' order."""
        return self.x, self.y, self.batches, self.sizes, self.activation, self.target
