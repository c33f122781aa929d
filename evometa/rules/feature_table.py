"""The table of input features of learned update rules; one row a kind, with a member for each of its decays.

Sources: log and sign as in Andrychowicz et al. 2016, appendix A; second moments, reciprocal roots, factored
moments and time features as in Metz et al. 2022 ("Practical tradeoffs between memory, compute, and
performance in learned optimizers"), whose set is METZ. Averages are bias-corrected throughout: a rule that
normalises its inputs does not notice, and one that does not needs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from evometa.errors import GenomeError, unknown
from evometa.rules.signals import Signals, Statistic

#: p of the logarithmic preprocessing: magnitudes below e^−p count as small
LOG_SIGN_P = 10.0
#: added to mean squares inside reciprocal roots that are features themselves, so that a coordinate
#: whose gradient is always zero does not dwarf the others of its tensor
RECIPROCAL_EPSILON = 1e-8
TIME_SCALES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)
DECAYS = (0.5, 0.9, 0.99, 0.999)
FACTORED_DECAYS = (0.9, 0.99, 0.999)
#: decay of the second moment that divides gradients and averages, unless the nominal step has one of its own
ROOT_DECAY = 0.999

#: what the channels of a feature vary over; see :class:`evometa.rules.features.Inputs`
Scope = Literal["coordinate", "row", "column", "task", "step"]
#: scopes that vary within a tensor; their names are those of :meth:`evometa.rules.signals.Matrix.place`
WITHIN_TENSOR: tuple[Scope, ...] = ("coordinate", "row", "column")
Compute = Callable[[Signals, Sequence[float]], Sequence[Tensor]]


@dataclass(frozen=True, eq=False)
class Feature:
    """One kind of feature; a row of the table, equal to itself alone.

    Attributes:
        kind: its name without a decay.
        words: what it is, for reading.
        symbol: its channels in a formula, with β for the decay.
        compute: from the signals and the chosen decays to blocks of channels, decay by decay, with the
            channels first and the extent of the scope behind.
        needs: kinds of statistics kept at the feature's own decay.
        fixed_needs: statistics kept at a decay of their own.
        decays: the decays to choose from; (0,) where there is no such choice.
        n_channels: number of channels for each decay.
        scope: what the channels vary over.
    """

    kind: str
    words: str
    symbol: str
    compute: Compute
    needs: tuple[str, ...] = ()
    fixed_needs: tuple[Statistic, ...] = ()
    decays: tuple[float, ...] = (0.0,)
    n_channels: int = 1
    scope: Scope = "coordinate"

    def member(self, decay: float) -> str:
        """What a features gene calls it, such as ``average_0.9``."""
        return f"{self.kind}_{decay:g}" if decay else self.kind

    def statistics(self, decay: float) -> list[Statistic]:
        """The running statistics that the member of this decay reads."""
        return [*(Statistic(kind, decay) for kind in self.needs), *self.fixed_needs]


def log_sign(x: Tensor) -> tuple[Tensor, Tensor]:
    """(log|x|/p, sgn x) where |x| ≥ e⁻ᵖ, else (−1, eᵖ·x); finite with finite derivatives at zero."""
    magnitude = x.abs().clamp(min=math.exp(-LOG_SIGN_P)).log() / LOG_SIGN_P
    return magnitude, (x * math.exp(LOG_SIGN_P)).clamp(-1.0, 1.0)


def feature_named(name: str) -> tuple[Feature, float]:
    """The table's row and the decay that ``name`` stands for; GenomeError for a name that is not there."""
    if name not in _MEMBERS:
        raise GenomeError(unknown("feature", name, _MEMBERS))
    return _MEMBERS[name]


def _single(compute: Callable[[Signals], Tensor]) -> Compute:
    """One channel, of a feature without decays."""
    return lambda signals, _: (compute(signals).unsqueeze(0),)


def _each(compute: Callable[[Signals, float], Tensor]) -> Compute:
    """One channel for each decay."""
    return lambda signals, decays: [compute(signals, decay).unsqueeze(0) for decay in decays]


def _log_sign(signals: Signals, decays: Sequence[float]) -> Sequence[Tensor]:
    return [channel.unsqueeze(0) for channel in log_sign(signals.grads)]


def _log_sign_average(signals: Signals, decays: Sequence[float]) -> Sequence[Tensor]:
    return [channel.unsqueeze(0) for decay in decays for channel in log_sign(signals.average(decay))]


def _factored_gradient(signals: Signals, decays: Sequence[float]) -> Sequence[Tensor]:
    return (signals.grads * signals.factored_reciprocal(decays),)


def _factored_average(signals: Signals, decays: Sequence[float]) -> Sequence[Tensor]:
    factored = signals.factored_reciprocal(decays)
    return [(signals.average(decay) * own).unsqueeze(0) for decay, own in zip(decays, factored, strict=True)]


def _time(signals: Signals, decays: Sequence[float]) -> Sequence[Tensor]:
    step = signals.context.step.to(signals.grads.dtype)
    return (torch.tanh(torch.stack([step / scale for scale in TIME_SCALES]) - 1.0),)


def _reciprocal(mean_square: Tensor) -> Tensor:
    return torch.rsqrt(mean_square + RECIPROCAL_EPSILON)


def _log_sign_symbols(x: str) -> str:
    return f"log|{x}|/{LOG_SIGN_P:g}, sgn {x}"


_M, _R, _C = "momentum", "row_moment", "column_moment"
SECOND_MOMENT = Statistic("second_moment", ROOT_DECAY)
_V = (SECOND_MOMENT,)
_coordinate: tuple[Feature, ...] = (
    Feature("gradient", "the gradient", "g", _single(lambda s: s.grads)),
    Feature("log_sign", "log and sign of the gradient", _log_sign_symbols("g"), _log_sign, n_channels=2),
    Feature("parameter", "the parameter", "θ", _single(lambda s: s.params)),
    Feature("second_moment", "the mean square gradient", "v̂", _single(lambda s: s.mean_square), (), _V),
    Feature(
        "reciprocal_root",
        "the reciprocal root of the mean square gradient",
        "1/√v̂",
        _single(lambda s: _reciprocal(s.mean_square)),
        (),
        _V,
    ),
    Feature(
        "rms_gradient",
        "the gradient over its root mean square",
        "g/√v̂",
        _single(lambda s: s.grads * s.root_reciprocal),
        (),
        _V,
    ),
    Feature("average", "the average gradient", "m̂(β)", _each(Signals.average), (_M,), (), DECAYS),
    Feature(
        "log_sign_average",
        "log and sign of the average gradient",
        _log_sign_symbols("m̂(β)"),
        _log_sign_average,
        (_M,),
        (),
        DECAYS,
        n_channels=2,
    ),
    Feature(
        "rms_average",
        "the average gradient over the root mean square",
        "m̂(β)/√v̂",
        _each(lambda s, decay: s.average(decay) * s.root_reciprocal),
        (_M,),
        _V,
        DECAYS,
    ),
    Feature(
        "factored_gradient",
        "the gradient over the factored root mean square",
        "g/√v̂ᵣ꜀(β)",
        _factored_gradient,
        (_R, _C),
        (),
        FACTORED_DECAYS,
    ),
    Feature(
        "factored_average",
        "the average gradient over the factored root mean square",
        "m̂(β)/√v̂ᵣ꜀(β)",
        _factored_average,
        (_M, _R, _C),
        (),
        FACTORED_DECAYS,
    ),
)
_by_line: tuple[Feature, ...] = (
    Feature(
        "row",
        "the mean square gradient of the row",
        "r(β)",
        lambda s, decays: (s.row_means(decays),),
        (_R,),
        (),
        FACTORED_DECAYS,
        scope="row",
    ),
    Feature(
        "reciprocal_row",
        "the reciprocal root of the row's mean square gradient",
        "1/√r(β)",
        lambda s, decays: (_reciprocal(s.row_means(decays)),),
        (_R,),
        (),
        FACTORED_DECAYS,
        scope="row",
    ),
    Feature(
        "column",
        "the mean square gradient of the column",
        "c(β)",
        lambda s, decays: (s.column_means(decays),),
        (_C,),
        (),
        FACTORED_DECAYS,
        scope="column",
    ),
    Feature(
        "reciprocal_column",
        "the reciprocal root of the column's mean square gradient",
        "1/√c(β)",
        lambda s, decays: (_reciprocal(s.column_means(decays)),),
        (_C,),
        (),
        FACTORED_DECAYS,
        scope="column",
    ),
)
_shared: tuple[Feature, ...] = (
    Feature(
        "loss",
        "the training loss relative to the first",
        f"log(L/L₀)/{LOG_SIGN_P:g}",
        _single(lambda s: s.log_loss / LOG_SIGN_P),
        (),
        (Statistic("initial_loss"),),
        scope="task",
    ),
    Feature(
        "time",
        "the step on eleven time scales",
        "tanh(k/τ − 1) for τ = 1, 3, …, 10⁵",
        _time,
        n_channels=len(TIME_SCALES),
        scope="step",
    ),
    Feature(
        "progress",
        "the share of the horizon done",
        "k/K",
        _single(lambda s: s.context.progress.to(s.grads.dtype)),
        scope="step",
    ),
)
FEATURES = (*_coordinate, *_by_line, *_shared)
_MEMBERS = {feature.member(decay): (feature, decay) for feature in FEATURES for decay in feature.decays}

#: what the symbols of running statistics stand for; ⟨·⟩ is AVERAGE
AVERAGE = "⟨y⟩ = Σⱼ βʲ·yₖ₋ⱼ / Σⱼ βʲ"
DEFINITIONS = {
    "momentum": "m̂(β) = ⟨g⟩",
    "second_moment": "v̂ = ⟨g²⟩ with β = {decay:g}",
    "row_moment": "r(β) = ⟨mean of g² over a row⟩",
    "column_moment": "c(β) = ⟨mean of g² over a column⟩",
    "factored": "v̂ᵣ꜀(β) = r(β)·c(β)/mean r(β)",
}

#: names of the features that vary within a tensor, and of those that all coordinates share
VARYING_FEATURES = tuple(n for n, (f, _) in _MEMBERS.items() if f.scope in WITHIN_TENSOR)
SHARED_FEATURES = tuple(n for n, (f, _) in _MEMBERS.items() if f.scope not in WITHIN_TENSOR)
#: what a recurrent rule may read: neither very small nor very large without normalisation over a tensor
_NOT_RECURRENT = ("second_moment", "reciprocal_root", "factored_gradient", "factored_average")
RECURRENT_FEATURES = tuple(
    name
    for name, (feature, _) in _MEMBERS.items()
    if feature.scope == "coordinate" and feature.kind not in _NOT_RECURRENT
)
#: per-coordinate inputs of the "adafac MLP" of Metz et al. 2022 (28 channels; ``time`` adds 11)
_NOT_METZ = ("log_sign", "log_sign_average", "rms_gradient")
METZ = tuple(
    name
    for name, (feature, decay) in _MEMBERS.items()
    if name in VARYING_FEATURES and feature.kind not in _NOT_METZ and decay in (0.0, *FACTORED_DECAYS)
)
