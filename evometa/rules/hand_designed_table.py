"""The table of hand-designed update rules: each row says which moments it keeps and how it steps along them.

What differs between the rows is data; :mod:`evometa.rules.hand_designed` holds the one rule that reads it.
Decay rates are evolved as ``1 − β`` on a logarithmic scale, because the memory of a moving average is
``1/(1 − β)`` steps long: .9 and .99 are as far apart as .99 and .999. A gene that means the same in two
rows has one name, so that it crosses between families.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evometa.genome.genes import Gene, LogReal, Real
from evometa.genome.space import Space

#: Base of NAdam's momentum warm-up (Dozat 2016, section 3; ``torch.optim.NAdam`` has the same constant).
WARM_UP_BASE = 0.96

#: How a moment gathers x (the gradient, or its square) with decay β: ``β·m + x`` or ``β·m + (1 − β)·x``;
#: ``total`` is the plain sum ``m + x``.
Moment = Literal["none", "sum", "average", "total"]
#: What the step follows: the gradient itself, the first moment m, m one step ahead (Nesterov: for a sum
#: ``g + μ·m``, for an average NAdam's weighting with its running product of μ), a mixture of the gradient
#: and the *previous* m (Lion), or a blend of the gradient and the corrected m (QHAdam).
Direction = Literal["gradient", "moment", "lookahead", "mixture", "blend"]


@dataclass(frozen=True)
class Row:
    """One hand-designed rule.

    Attributes:
        name: its name in the registry.
        summary: one line for listings.
        genes: learning rate first.
        direction: what the step follows.
        first: how the first moment m gathers gradients.
        second: how the second moment v gathers squared gradients; unless "none", the direction is divided
            by ``√v + eps``.
        bias_corrected: whether averages are divided by ``1 − βᵏ⁺¹``, which undoes their start at zero.
        sign: whether only the signs of the direction are used.
        source: the paper that proposed it.
    """

    name: str
    summary: str
    genes: tuple[Gene, ...]
    direction: Direction
    first: Moment = "none"
    second: Moment = "none"
    bias_corrected: bool = False
    sign: bool = False
    source: str = ""

    @property
    def space(self) -> Space:
        """The row's genes as a search space."""
        return Space(self.genes)

    @property
    def decays_weights(self) -> bool:
        """Whether it has decoupled weight decay: params shrink by ``lr·weight_decay`` a step."""
        return any(gene.name == "weight_decay" for gene in self.genes)

    @property
    def first_decay(self) -> str:
        """The gene that holds ``1 − decay`` of an averaging first moment; Lion stores m on another scale."""
        return "one_minus_moment_decay" if self.direction == "mixture" else "one_minus_beta1"

    @property
    def schedules_momentum(self) -> bool:
        """Whether it keeps NAdam's running product of momentum coefficients."""
        return self.direction == "lookahead" and self.first == "average"


def learning_rate(default: float, low: float, high: float) -> Gene:
    """The learning rate."""
    return LogReal("lr", low, high, default, note="learning rate")


def momentum(default: float = 0.1) -> Gene:
    """1 − μ of a momentum."""
    return LogReal(
        "one_minus_momentum", 1e-3, 1.0, default, note="1 − momentum coefficient μ of the heavy ball"
    )


def beta1(default: float = 0.1) -> Gene:
    """1 − β₁ of an average of gradients."""
    return LogReal(
        "one_minus_beta1", 1e-3, 1.0, default, note="1 − β₁: weight of the newest gradient in the direction"
    )


def beta2(default: float) -> Gene:
    """1 − β₂ of an average of squared gradients."""
    return LogReal(
        "one_minus_beta2", 1e-5, 1.0, default, note="1 − β₂: weight of the newest squared gradient"
    )


def _moment_decay() -> Gene:
    return LogReal(
        "one_minus_moment_decay", 1e-4, 1.0, 0.01, note="1 − decay of the stored moment (Lion's β₂)"
    )


def _eps(default: float) -> Gene:
    return LogReal("eps", 1e-12, 1e-1, default, note="added to the root of the second moment")


def weight_decay() -> Gene:
    """Decoupled weight decay."""
    return LogReal(
        "weight_decay", 1e-6, 1.0, 1e-2, note="decoupled weight decay per step, times the learning rate"
    )


def _momentum_decay() -> Gene:
    return LogReal(
        "momentum_decay", 1e-4, 1e-1, 4e-3, note="how fast the momentum coefficient warms up to β₁"
    )


TABLE: tuple[Row, ...] = (
    Row(
        name="sgd",
        summary="stochastic gradient descent",
        genes=(learning_rate(0.1, 1e-5, 10.0),),
        direction="gradient",
        source="Robbins & Monro 1951",
    ),
    Row(
        name="momentum",
        summary="gradient descent with heavy-ball momentum",
        genes=(learning_rate(0.03, 1e-5, 10.0), momentum()),
        direction="moment",
        first="sum",
        source="Polyak 1964",
    ),
    Row(
        name="nesterov",
        summary="gradient descent with Nesterov momentum",
        genes=(learning_rate(0.03, 1e-5, 10.0), momentum()),
        direction="lookahead",
        first="sum",
        source="Sutskever et al. 2013",
    ),
    Row(
        name="rmsprop",
        summary="gradient divided by the root of its mean square",
        genes=(learning_rate(3e-3, 1e-7, 1.0), beta2(0.01), _eps(1e-8)),
        direction="gradient",
        second="average",
        source="Tieleman & Hinton 2012",
    ),
    Row(
        name="adagrad",
        summary="gradient divided by the root of the sum of its squares",
        genes=(learning_rate(3e-2, 1e-7, 1.0), _eps(1e-10)),
        direction="gradient",
        second="total",
        source="Duchi, Hazan & Singer 2011",
    ),
    Row(
        name="adam",
        summary="bias-corrected momentum divided by the root of the mean square",
        genes=(learning_rate(3e-3, 1e-7, 1.0), beta1(), beta2(1e-3), _eps(1e-8)),
        direction="moment",
        first="average",
        second="average",
        bias_corrected=True,
        source="Kingma & Ba 2015",
    ),
    Row(
        name="adamw",
        summary="Adam with decoupled weight decay",
        genes=(learning_rate(3e-3, 1e-7, 1.0), beta1(), beta2(1e-3), _eps(1e-8), weight_decay()),
        direction="moment",
        first="average",
        second="average",
        bias_corrected=True,
        source="Loshchilov & Hutter 2019",
    ),
    Row(
        name="nadam",
        summary="Adam that looks one momentum step ahead",
        genes=(learning_rate(3e-3, 1e-7, 1.0), beta1(), beta2(1e-3), _eps(1e-8), _momentum_decay()),
        direction="lookahead",
        first="average",
        second="average",
        bias_corrected=True,
        source="Dozat 2016",
    ),
    Row(
        name="qhadam",
        summary="Adam that follows a blend of the gradient and its moving average",
        genes=(
            learning_rate(3e-3, 1e-7, 1.0),
            beta1(0.005),
            beta2(1e-3),
            _eps(1e-8),
            Real("gradient_share", 0.0, 1.0, 0.3, note="1 − ν₁: share of the gradient in the direction"),
        ),
        direction="blend",
        first="average",
        second="average",
        bias_corrected=True,
        source="Ma & Yarats 2019",
    ),
    Row(
        name="lion",
        summary="sign of a mixture of gradient and momentum, with decoupled weight decay",
        genes=(learning_rate(1e-3, 1e-7, 1.0), beta1(), _moment_decay(), weight_decay()),
        direction="mixture",
        first="average",
        sign=True,
        source="Chen et al. 2023",
    ),
)
