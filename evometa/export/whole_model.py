"""What is otherwise in a bucket whose rule relates the tensors of a model to each other.

Such a rule is not tensorwise. It was evolved on models of which every tensor was stepped at every step; so
here all tensors are there at every step, those of all parameter groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evometa.export.shards import local

#: A parameter with the number of its group.
Numbered = tuple[int, Tensor]
#: The options of each parameter group.
Options = Sequence[Mapping[str, Any]]


class WholeModel:
    """Parameters of one or several groups, of which some may have no gradient.

    ``sizes`` are their numbers of coordinates.
    """

    def __init__(self, members: Sequence[Numbered], sizes: list[int], device: torch.device) -> None:
        self._groups = [group for group, _ in members]
        self._params = [parameter for _, parameter in members]
        numbers = torch.repeat_interleave(torch.tensor(self._groups), torch.tensor(sizes))
        #: the number of each coordinate's group
        self._group_of = numbers.to(device)

    def has_gradients(self) -> bool:
        """Whether there is a step to make."""
        return any(parameter.grad is not None for parameter in self._params)

    def maximize(self, options: Options) -> bool:
        """Whether all of them climb."""
        return all(options[group]["maximize"] for group in self._groups)

    def decays(self, options: Options) -> bool:
        """Whether any has weight decay."""
        return any(options[group]["weight_decay"] for group in sorted(set(self._groups)))

    def spread(self, of_groups: Sequence[Tensor]) -> Tensor:
        """A number () of each group for each coordinate, (N,)."""
        return torch.stack(list(of_groups))[self._group_of]

    def grads(self, options: Options) -> list[Tensor]:
        """The gradient of each, or zeros.

        Where some groups climb and others descend, those of the former are turned here.
        """
        mixed = not self.maximize(options)
        grads = []
        for group, parameter in zip(self._groups, self._params, strict=True):
            if parameter.grad is None:
                grads.append(torch.zeros_like(local(parameter)))
            else:
                grad = local(parameter.grad, parameter)
                grads.append(grad.neg() if mixed and options[group]["maximize"] else grad)
        return grads

    def write(self, after: Sequence[Tensor]) -> None:
        """Let those with a gradient be what ``after`` has for each; the others stay as they are."""
        places = [place for place, parameter in enumerate(self._params) if parameter.grad is not None]
        torch._foreach_copy_([local(self._params[i]) for i in places], [after[i] for i in places])
