"""From controls of each tensor to a step: a nominal Adam whose step size and momentum differ by tensor.

Two controls a tensor, (a, b): the step of a QHAdam (Ma & Yarats 2019) is scaled by the exponential of a, and
b moves its numerator from the average gradient towards the gradient. Controls start at zero, so that an
untrained rule *is* the nominal one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evometa.genome.genes import Gene, LogReal
from evometa.genome.space import Genes
from evometa.rules.base import Hyper
from evometa.rules.cells import tanh
from evometa.rules.output import Output, adam_direction, adam_genes, bounded_exp
from evometa.rules.signals import Signals
from evometa.trees import Tree

N_CONTROLS = 2


def control_genes() -> tuple[Gene, ...]:
    """The genes of this module."""
    return (
        LogReal("control", 1e-2, 1.0, 0.1, note="scale of each tensor's controls"),
        LogReal("nominal_lr", 1e-5, 1.0, 1e-2, note="learning rate of the nominal Adam"),
        *adam_genes({}),
    )


class TensorControls:
    """The stage of one rule structure; ``nominal`` has the decays of its Adam."""

    def __init__(self, nominal: Output) -> None:
        self.nominal = nominal

    @classmethod
    def of(cls, genes: Genes) -> TensorControls:
        """The stage of complete genes."""
        return cls(Output.of({**genes, "output": "direct", "nominal": "adam", "combine": "scale"}))

    def init(self, n_hidden: int) -> Tree:
        """The last layer, zeros: ``weight (2, n_hidden)`` and ``bias (2,)``."""
        return {"weight": torch.zeros(N_CONTROLS, n_hidden), "bias": torch.zeros(N_CONTROLS)}

    def step(self, controls: Tensor, hyper: Hyper, signals: Signals) -> Tensor:
        """The step to add to params ``(T, N)`` for controls ``(2, T, n_tensors)``."""
        spread = signals.context.layout.spread
        size, share = (hyper["control"] * controls).unbind(0)
        mix = hyper["nominal_gradient"] + spread(tanh(share))
        direction = adam_direction(signals, self.nominal.beta1, mix)
        return hyper["nominal_lr"] * direction * spread(bounded_exp(size))

    def describe(self, genes: Genes) -> str:
        """The stage in words, to stand after what gives the controls."""
        return (
            f"sets each tensor's step size (within 1/10 and 10 times the nominal one) and share of the "
            f"gradient in {self.nominal.adam_in_words(genes)} with learning rate {genes['nominal_lr']:.3g}"
        )

    def formula(self, genes: Genes) -> list[str]:
        """The lines from each tensor's controls (a, b) to its step Δ."""
        average, control = f"m̂({self.nominal.beta1:g})", f"{genes['control']:.3g}"
        share = f"{genes['nominal_gradient']:.3g} + " if genes["nominal_gradient"] else ""
        return [
            f"λ = {share}tanh({control}·b)",
            f"n = −{genes['nominal_lr']:.3g}·((1 − λ)·{average} + λ·g)/(√v̂ + 10⁻⁸)",
            f"Δ = n·exp(s·tanh({control}·a/s)), s = log 10",
        ]
