"""From a network's outputs to a step: output parametrisations, and the nominal step a learned one sits on.

A network gives one or two outputs per coordinate, o = (o₀, o₁). They become the learned part u, scaled by the
gene ``lr``; the learned part is added to a nominal step or scales it. Where there is a nominal step the
last layer starts at zero, so that an untrained rule *is* the nominal one; its weights still receive a
gradient, because the layer before them is not zero.

Direction and magnitude: Metz et al. 2022. Nominal terms: Wichrowska et al. 2017; Premont-Schwarz et al. 2022.
The gradient itself may have a share of Adam's numerator, as in QHAdam (Ma & Yarats 2019, arXiv:1810.06801),
of which NAdam is a case; with a share of 0 it is Adam's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from evometa.genome.genes import Choice, Condition, Gene, LogReal, Real
from evometa.genome.space import Genes
from evometa.layout import Layout
from evometa.rules.base import Hyper
from evometa.rules.cells import tanh, uniform
from evometa.rules.signals import Signals, Statistic
from evometa.trees import Tree

#: decays of the nominal Adam's averages to choose from, its own first
BETA1, BETA2 = 0.9, 0.999
BETA1_CHOICES, BETA2_CHOICES = (BETA1, 0.95, 0.99, 0.5), (BETA2, 0.99, 0.9)
ADAM_EPSILON = 1e-8
#: keeps √v̂ differentiable at zero; far below ADAM_EPSILON² so that the value is Adam's
ROOT_EPSILON = 1e-30
#: a learned factor on the nominal step stays between 1/10 and 10
SCALE_BOUND = math.log(10.0)
#: added to the mean square of outputs: a floor of 1e-4 on their root mean square
OUTPUT_EPSILON = 1e-8
#: standard deviation of an untrained output relative to that of its inputs
OUTPUT_GAIN = 0.1


def output_genes(*, output: str, lr: float, nominal: str = "none", combine: str = "add") -> tuple[Gene, ...]:
    """The genes of this module, with a family's default parametrisation, scale and nominal step."""
    with_nominal, adam = {"nominal": ("sgd", "adam")}, {"nominal": ("adam",)}
    return (
        Choice("output", ("direct", "direction_magnitude", "rms_normalised"), output, note="outputs to step"),
        LogReal("lr", 1e-5, 1.0, lr, note="scale of the learned part"),
        LogReal(
            "magnitude_scale",
            1e-3,
            1.0,
            1e-3,
            when={"output": ("direction_magnitude",)},
            note="factor in front of the magnitude's exponent",
        ),
        Choice("nominal", ("none", "sgd", "adam"), nominal, note="the step a learned one sits on"),
        LogReal("nominal_lr", 1e-5, 1.0, 1e-2, when=with_nominal, note="learning rate of the nominal step"),
        *adam_genes(adam),
        Choice(
            "combine", ("add", "scale"), combine, when=with_nominal, note="how the learned part acts on it"
        ),
    )


def adam_genes(when: Condition) -> tuple[Gene, ...]:
    """The genes of a nominal Adam beside its learning rate."""
    return (
        Choice("nominal_beta1", BETA1_CHOICES, when=when, note="decay of its average gradient"),
        Choice("nominal_beta2", BETA2_CHOICES, when=when, note="decay of mean squares, features' too"),
        Real("nominal_gradient", 0.0, 1.0, 0.0, when=when, note="share of the gradient in its numerator"),
    )


def bounded_exp(x: Tensor) -> Tensor:
    """exp(x) near 1, and between 1/10 and 10 everywhere: exp(s·tanh(x/s)) with s = log 10."""
    return torch.exp(SCALE_BOUND * tanh(x / SCALE_BOUND))


def adam_direction(signals: Signals, beta1: float, share: Tensor) -> Tensor:
    """Where a nominal Adam of learning rate 1 steps, ``(T, N)``.

    ``share`` of the gradient in its numerator is () or ``(T, N)``.
    """
    numerator = (1.0 - share) * signals.average(beta1) + share * signals.grads
    return -numerator / (torch.sqrt(signals.mean_square + ROOT_EPSILON) + ADAM_EPSILON)


@dataclass(frozen=True)
class Output:
    """The output stage of one rule structure.

    ``combine`` counts only with a nominal step, and ``beta1`` and ``beta2`` with that of Adam.
    """

    parametrisation: str
    nominal: str
    combine: str = "add"
    beta1: float = BETA1
    beta2: float = BETA2

    @classmethod
    def of(cls, genes: Genes) -> Output:
        """The output stage of complete genes."""
        return cls(
            str(genes["output"]),
            str(genes["nominal"]),
            str(genes.get("combine", "add")),
            float(cast(float, genes.get("nominal_beta1", BETA1))),
            float(cast(float, genes.get("nominal_beta2", BETA2))),
        )

    @property
    def n_outputs(self) -> int:
        """Outputs the network must give per coordinate."""
        return 2 if self.parametrisation == "direction_magnitude" else 1

    @property
    def elementwise(self) -> bool:
        """Whether a coordinate's step depends on its own outputs alone."""
        return self.parametrisation != "rms_normalised"

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """What the nominal step needs of the state."""
        if self.nominal != "adam":
            return ()
        return (Statistic("momentum", self.beta1), Statistic("second_moment", self.beta2))

    def init(self, generator: torch.Generator, n_hidden: int) -> Tree:
        """The last layer: ``weight (n_outputs, n_hidden)`` and ``bias (n_outputs,)``."""
        drawn = uniform(generator, (self.n_outputs, n_hidden), OUTPUT_GAIN * math.sqrt(3.0 / n_hidden))
        weight = drawn if self.nominal == "none" else torch.zeros_like(drawn)
        return {"weight": weight, "bias": torch.zeros(self.n_outputs)}

    def step(self, outputs: Tensor, hyper: Hyper, signals: Signals) -> Tensor:
        """The step to add to params ``(T, N)`` for network outputs ``(n_outputs, T, N)``."""
        learned = hyper["lr"] * self._learned(outputs, hyper, signals.context.layout)
        if self.nominal == "none":
            return learned
        nominal = hyper["nominal_lr"] * self._direction(hyper, signals)
        if self.combine == "add":
            return nominal + learned
        return nominal * bounded_exp(learned)

    def _learned(self, outputs: Tensor, hyper: Hyper, layout: Layout) -> Tensor:
        if self.parametrisation == "direction_magnitude":
            return outputs[0] * torch.exp(hyper["magnitude_scale"] * outputs[1])
        if self.parametrisation == "rms_normalised":
            return layout.per_tensor(_normalised, outputs[0])
        return outputs[0]

    def _direction(self, hyper: Hyper, signals: Signals) -> Tensor:
        if self.nominal == "sgd":
            return -signals.grads
        return adam_direction(signals, self.beta1, hyper["nominal_gradient"])

    def describe(self, genes: Genes) -> str:
        """The output stage in words, to stand after "its output"."""
        kind = {
            "direct": "its output",
            "direction_magnitude": "its output, a direction times the exponential of a magnitude,",
            "rms_normalised": "its output, divided by its root mean square over each tensor,",
        }[self.parametrisation]
        learned = f"{kind} times {_value(genes, 'lr')}"
        if self.nominal == "none":
            return f"{learned} is the step"
        name = "SGD" if self.nominal == "sgd" else self.adam_in_words(genes)
        nominal = f"the step of {name} with learning rate {_value(genes, 'nominal_lr')}"
        if self.combine == "add":
            return f"{learned} is added to {nominal}"
        return f"the exponential of {learned} (kept within 1/10 and 10) scales {nominal}"

    def formula(self, genes: Genes) -> list[str]:
        """The lines from the outputs o to the step Δ."""
        learned = {"direct": "o₀", "rms_normalised": "o₀/rms(o₀)"}.get(self.parametrisation)
        if learned is None:
            learned = f"o₀·exp({_value(genes, 'magnitude_scale')}·o₁)"
        learned = f"{_value(genes, 'lr')}·{learned}"
        if self.nominal == "none":
            return [f"Δ = {learned}"]
        direction = "g" if self.nominal == "sgd" else f"{self._numerator(genes)}/(√v̂ + 10⁻⁸)"
        lines = [f"u = {learned}", f"n = −{_value(genes, 'nominal_lr')}·{direction}"]
        return [*lines, "Δ = n + u" if self.combine == "add" else "Δ = n·exp(s·tanh(u/s)), s = log 10"]

    def adam_in_words(self, genes: Genes) -> str:
        """The nominal Adam for reading."""
        facts = []
        if (self.beta1, self.beta2) != (BETA1, BETA2):
            facts.append(f"decays {self.beta1:g} and {self.beta2:g}")
        if genes["nominal_gradient"]:
            facts.append(f"{_value(genes, 'nominal_gradient')} of its numerator the gradient itself")
        return f"Adam ({'; '.join(facts)})" if facts else "Adam"

    def _numerator(self, genes: Genes) -> str:
        average, share = f"m̂({self.beta1:g})", cast(float, genes["nominal_gradient"])
        return f"({1.0 - share:.3g}·{average} + {share:.3g}·g)" if share else average


def _value(genes: Genes, name: str) -> str:
    return f"{genes[name]:.3g}"


def _normalised(part: Tensor) -> Tensor:
    return part * torch.rsqrt(part.square().mean(dim=-1, keepdim=True) + OUTPUT_EPSILON)
