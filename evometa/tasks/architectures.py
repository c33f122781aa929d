"""Distributions over perceptron architectures, and how tasks are dealt to the architectures drawn."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch

from evometa.native.tasks import Target
from evometa.tasks.mlp_model import ACTIVATIONS, INIT_PATTERN, INITS, MLP
from evometa.tasks.options import check_choices, check_integers, refuse
from evometa.tasks.sampling import balanced

Label = TypeVar("Label", bound=Hashable)


@lru_cache(maxsize=256)
def _model(sizes: tuple[int, ...], activation: str, init: str, target: Target) -> MLP:
    """One for each description: tasks that are drawn at another time have the very same functions."""
    return MLP(sizes, activation, init, target)


@dataclass(frozen=True)
class Architecture:
    """A perceptron without its inputs and outputs: ``depth`` hidden layers of ``width`` units."""

    width: int
    depth: int
    activation: str
    init: str

    def model(self, n_inputs: int, n_outputs: int, target: Target) -> MLP:
        """The network between ``n_inputs`` and ``n_outputs``."""
        sizes = (n_inputs, *[self.width] * self.depth, n_outputs)
        return _model(sizes, self.activation, self.init, target)


@dataclass(frozen=True)
class Architectures:
    """Options to combine; each is drawn equally often."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    activations: tuple[str, ...]
    inits: tuple[str, ...]

    def narrowed(
        self,
        widths: tuple[int, ...] | None,
        depths: tuple[int, ...] | None,
        activations: tuple[str, ...] | None,
        inits: tuple[str, ...] | None,
    ) -> Architectures:
        """The distribution with the options that are given in place of its own."""
        return Architectures(
            widths or self.widths, depths or self.depths, activations or self.activations, inits or self.inits
        )

    def sample(self, n_draws: int, generator: torch.Generator) -> list[Architecture]:
        """``n_draws`` architectures, not necessarily different ones."""
        fields = (self.widths, self.depths, self.activations, self.inits)
        columns = [balanced(options, n_draws, generator) for options in fields]
        return [Architecture(*row) for row in zip(*columns, strict=True)]


def check_architectures(
    family: str, widths: object, depths: object, activations: object, inits: object
) -> None:
    """Raise TaskError for an option that names no architecture; None leaves a field to the split."""
    if widths is not None:
        check_integers(family, "widths", widths, 1)
    if depths is not None:
        check_integers(family, "depths", depths, 0)
    if activations is not None:
        check_choices(family, "activations", activations, tuple(ACTIVATIONS))
    if inits is not None:
        named = isinstance(inits, tuple) and all(INIT_PATTERN.fullmatch(str(init)) for init in inits)
        if not inits or not named:
            raise refuse(family, "inits", inits, f"a non-empty list out of {INITS}")


def deal(labels: Sequence[Label], n_tasks: int) -> dict[Label, int]:
    """``n_tasks`` dealt evenly to ``labels``; equal labels are one entry with the sum of their tasks."""
    counts: dict[Label, int] = {}
    for k, label in enumerate(labels):
        share = (k + 1) * n_tasks // len(labels) - k * n_tasks // len(labels)
        counts[label] = counts.get(label, 0) + share
    return counts
