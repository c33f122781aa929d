"""Schedules that are formulas of the progress of training; one row of :data:`FORMULA_SCHEDULES` each.

k is the number of updates made, H the horizon, p = min(k/H, 1). Factors lie in [0, :data:`MAX_FACTOR`];
beyond the horizon the factor at the horizon holds. Durations are shares of the horizon, so that a genome
means the same on a longer run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from evometa.genome.genes import Gene, LogReal, Real
from evometa.genome.space import Genes, Space
from evometa.rules.base import Hyper, StepContext
from evometa.rules.schedule_base import Schedule, ScheduleFamily
from evometa.trees import Tree

#: No schedule of this module multiplies a step by more.
MAX_FACTOR = 10.0

#: Knots of the piecewise-linear schedule, both ends included.
N_KNOTS = 5

Curve = Callable[[Hyper, StepContext], Tensor]
Text = Callable[[dict[str, str]], str]

_FINAL = LogReal("schedule.final", 1e-4, 1.0, 1e-2, note="factor at the horizon")
_WARMUP = Real("schedule.warmup", 0.0, 0.5, 0.1, note="share of the horizon over which the factor rises to 1")


class FormulaSchedule(Schedule):
    """A schedule without weights or state: one curve, of genes that may be () or, for a cohort, ``(P,)``."""

    elementwise = True

    def __init__(self, curve: Curve) -> None:
        self.curve = curve

    def factor(self, weights: Tree, hyper: Hyper, state: Tree, context: StepContext) -> tuple[Tensor, Tree]:
        return self.curve(hyper, context), {}


class FormulaScheduleFamily(ScheduleFamily):
    """A registry row: name, genes, curve, and the curve as text (given the genes' values as text)."""

    def __init__(self, name: str, summary: str, genes: tuple[Gene, ...], curve: Curve, text: Text) -> None:
        self.name = name
        self.summary = summary
        self._genes = genes
        self._curve = curve
        self._text = text

    @property
    def space(self) -> Space:
        return Space(self._genes)

    def build(self, genes: Genes) -> FormulaSchedule:
        return FormulaSchedule(self._curve)

    def formula(self, genes: Genes) -> str:
        names = self.space.names()
        return self._text({name.removeprefix("schedule."): f"{float(genes[name]):.4g}" for name in names})  # type: ignore[arg-type]


def _constant(hyper: Hyper, context: StepContext) -> Tensor:
    return torch.ones_like(context.step)


def _exponential(hyper: Hyper, context: StepContext) -> Tensor:
    """``final^p``: ``ExponentialLR`` with gamma = final^(1/H)."""
    return torch.pow(hyper["schedule.final"], context.progress)


def _step(hyper: Hyper, context: StepContext) -> Tensor:
    """``gamma`` to the number of whole intervals done: ``StepLR`` with step_size = interval·H."""
    # An interval that divides the horizon must not come late because k/H was rounded down.
    n_drops = torch.floor(context.progress / hyper["schedule.interval"] + 1e-5)
    return torch.pow(hyper["schedule.gamma"], n_drops)


def _cosine_from_1(final: Tensor, progress: Tensor) -> Tensor:
    """Half a cosine from 1 at progress 0 to ``final`` at 1 (Loshchilov & Hutter 2017, equation 5)."""
    return final + (1 - final) * 0.5 * (1 + torch.cos(math.pi * progress))


def _ramp(hyper: Hyper, context: StepContext) -> Tensor:
    """``(k + 1)/W`` up to 1: the first of the W = warmup·H steps is not lost, as it would be from 0."""
    n_warmup = (hyper["schedule.warmup"] * context.horizon).clamp(min=1.0)
    return ((context.step + 1) / n_warmup).clamp(max=1.0)


def _cosine(hyper: Hyper, context: StepContext) -> Tensor:
    return _cosine_from_1(hyper["schedule.final"], context.progress)


def _warmup_cosine(hyper: Hyper, context: StepContext) -> Tensor:
    warmup = hyper["schedule.warmup"]
    after = ((context.progress - warmup) / (1 - warmup)).clamp(min=0.0)
    return _ramp(hyper, context) * _cosine_from_1(hyper["schedule.final"], after)


def _warmup_stable_decay(hyper: Hyper, context: StepContext) -> Tensor:
    """Warm-up, 1, then linear decay over the last share ``decay`` of the horizon (Hu et al. 2024)."""
    decay = hyper["schedule.decay"]
    after = ((context.progress - (1 - decay)) / decay).clamp(min=0.0)
    return _ramp(hyper, context) * (1 - (1 - hyper["schedule.final"]) * after)


def _piecewise_linear(hyper: Hyper, context: StepContext) -> Tensor:
    values = [hyper[f"schedule.value_{i}"] for i in range(N_KNOTS)]
    gaps = [hyper[f"schedule.gap_{i}"] for i in range(N_KNOTS - 1)]
    total = torch.stack(gaps).sum(dim=0)
    factor, start = values[0], torch.zeros_like(total)
    for gap, (value, following) in zip(gaps, pairwise(values), strict=True):
        share = gap / total
        factor = factor + (following - value) * ((context.progress - start) / share).clamp(0.0, 1.0)
        start = start + share
    return factor


def _piecewise_text(n: dict[str, str]) -> str:
    gaps = [float(n[f"gap_{i}"]) for i in range(N_KNOTS - 1)]
    places = [sum(gaps[:i]) / sum(gaps) for i in range(N_KNOTS)]
    knots = ", ".join(f"({place:.3g}, {n[f'value_{i}']})" for i, place in enumerate(places))
    return f"straight lines through the knots (p, s) {knots},  p = min(k/H, 1)"


_P = ",  p = min(k/H, 1)"

FORMULA_SCHEDULES: tuple[FormulaScheduleFamily, ...] = (
    FormulaScheduleFamily("constant", "factor 1 throughout", (), _constant, lambda n: "1"),
    FormulaScheduleFamily(
        "exponential",
        "exponential decay to a final factor",
        (_FINAL,),
        _exponential,
        lambda n: f"{n['final']}ᵖ{_P}",
    ),
    FormulaScheduleFamily(
        "step",
        "a drop by a constant factor at regular intervals",
        (
            Real("schedule.interval", 0.05, 1.0, 0.3, note="share of the horizon between two drops"),
            LogReal("schedule.gamma", 1e-2, 1.0, 0.3, note="factor of one drop"),
        ),
        _step,
        lambda n: f"{n['gamma']}^⌊p/{n['interval']}⌋{_P}",
    ),
    FormulaScheduleFamily(
        "cosine",
        "half a cosine from 1 to a final factor",
        (_FINAL,),
        _cosine,
        lambda n: f"{n['final']} + (1 − {n['final']})·(1 + cos πp)/2{_P}",
    ),
    FormulaScheduleFamily(
        "warmup_cosine",
        "linear warm-up, then half a cosine to a final factor",
        (_WARMUP, _FINAL),
        _warmup_cosine,
        lambda n: (
            f"min((k+1)/({n['warmup']}·H), 1)·[{n['final']} + (1 − {n['final']})·(1 + cos πq)/2],  "
            f"q = max(p − {n['warmup']}, 0)/(1 − {n['warmup']}){_P}"
        ),
    ),
    FormulaScheduleFamily(
        "warmup_stable_decay",
        "linear warm-up, a plateau, then linear decay to a final factor",
        (
            _WARMUP,
            Real("schedule.decay", 0.05, 0.5, 0.2, note="share of the horizon, at its end, that decays"),
            _FINAL,
        ),
        _warmup_stable_decay,
        lambda n: (
            f"min((k+1)/({n['warmup']}·H), 1)·[1 − (1 − {n['final']})·q],  "
            f"q = max(p − 1 + {n['decay']}, 0)/{n['decay']}{_P}"
        ),
    ),
    FormulaScheduleFamily(
        "piecewise_linear",
        "straight lines between knots whose places and heights evolve",
        (
            *(
                LogReal(f"schedule.value_{i}", 1e-3, MAX_FACTOR, 1.0, note=f"factor at knot {i}")
                for i in range(N_KNOTS)
            ),
            *(
                Real(f"schedule.gap_{i}", 0.05, 1.0, 0.5, note=f"distance of knots {i} and {i + 1}, relative")
                for i in range(N_KNOTS - 1)
            ),
        ),
        _piecewise_linear,
        _piecewise_text,
    ),
)
