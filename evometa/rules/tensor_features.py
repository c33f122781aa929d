"""Statistics of whole tensors: what a rule reads that steers each tensor of a model as one.

All means over a tensor are taken at once: one sum a tensor.
Log magnitudes, their agreement with averages and the tensor's shape are the kinds of inputs that Wichrowska
et al. 2017 and Metz et al. 2022 ("VeLO: training versatile learned optimizers by scaling up") give to the
networks that they keep for each tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from evometa.errors import GenomeError, unknown
from evometa.genome.genes import Subset
from evometa.genome.space import Genes
from evometa.rules.feature_table import DECAYS, LOG_SIGN_P, SECOND_MOMENT, SHARED_FEATURES
from evometa.rules.features import MAX_NAMED, FeatureSet
from evometa.rules.signals import EPSILON, Signals, Statistic
from evometa.trees import Tree

#: a mean square that changes more than e^±6-fold at once counts as one that changes so
MAX_LOG_CHANGE = 3.0
#: number of axes that counts as 1
MOST_AXES = 4

#: What is averaged over each tensor, by kind and decay.
Quantity = tuple[str, float]


def _values(signals: Signals, kind: str, decay: float) -> Tensor:
    """A quantity at every coordinate, ``(T, N)``."""
    if kind == "gradient":
        return signals.squares
    if kind == "parameter":
        return signals.params.square()
    if kind == "average":
        return signals.average(decay).square()
    if kind == "agreement":
        return signals.grads * signals.average(decay)
    if kind == "signal":
        return signals.average(decay).square() / (signals.mean_square + EPSILON)
    return signals.mean_square  # moment


class Means:
    """Means of quantities over each tensor, ``(T, n_tensors)``: squares, but for ``agreement``."""

    def __init__(self, signals: Signals, quantities: Sequence[Quantity]) -> None:
        self.signals = signals
        self._means: dict[Quantity, Tensor] = {}
        if quantities:
            stacked = torch.stack([_values(signals, kind, decay) for kind, decay in quantities])
            parts = [
                stacked[..., matrix.segment.slice].sum(dim=-1) * (1.0 / matrix.segment.size)
                for matrix in signals.matrices
            ]
            means = torch.stack(parts, dim=-1)
            self._means = {quantity: means[place] for place, quantity in enumerate(quantities)}

    def of(self, kind: str, decay: float = 0.0) -> Tensor:
        """One of them."""
        return self._means[kind, decay]

    def log_rms(self, kind: str, decay: float = 0.0) -> Tensor:
        """The log of the root of a mean square, at least that of 1e-8."""
        return 0.5 * torch.log(self.of(kind, decay) + EPSILON)

    def fact(self, of_shape: Callable[[tuple[int, ...]], float]) -> Tensor:
        """A number told from the shape of each tensor."""
        params = self.signals.params
        # One by one: a tensor of them all would be a copy from the host, for which a GPU is made to wait.
        facts = [params.new_full((), of_shape(matrix.segment.shape)) for matrix in self.signals.matrices]
        return torch.stack(facts).expand(len(params), -1)


@dataclass(frozen=True, eq=False)
class TensorFeature:
    """One kind of feature of a tensor, with one channel for each of its decays.

    Attributes:
        kind: its name without a decay.
        words: what it is, for reading.
        symbol: its channel in a formula, with β for the decay.
        quantities: the kinds of quantities whose means it reads.
        compute: from the means and the decay to ``(T, n_tensors)``.
        decays: the decays to choose from; (0,) where there is no such choice.
    """

    kind: str
    words: str
    symbol: str
    quantities: tuple[str, ...]
    compute: Callable[[Means, float], Tensor]
    decays: tuple[float, ...] = (0.0,)

    def member(self, decay: float) -> str:
        """What a gene calls it, such as ``cosine_0.9``."""
        return f"{self.kind}_{decay:g}" if decay else self.kind

    def quantities_at(self, decay: float) -> list[Quantity]:
        """The quantities whose means it reads."""
        return [(kind, decay if kind in _OF_AVERAGES else 0.0) for kind in self.quantities]

    def statistics(self, decay: float) -> list[Statistic]:
        """The running statistics that it reads."""
        averages = [Statistic("momentum", decay)] if decay else []
        return averages + [SECOND_MOMENT] * any(kind in ("signal", "moment") for kind in self.quantities)


#: quantities that go by the decay of an average gradient
_OF_AVERAGES = ("average", "agreement", "signal")


def _cosine(means: Means, decay: float) -> Tensor:
    inverse = torch.rsqrt(means.of("gradient") + EPSILON) * torch.rsqrt(means.of("average", decay) + EPSILON)
    return means.of("agreement", decay) * inverse


def _signal(means: Means, decay: float) -> Tensor:
    return torch.sqrt(means.of("signal", decay) + EPSILON)


def _change(means: Means, decay: float) -> Tensor:
    change = means.log_rms("gradient") - means.log_rms("moment")
    return change.clamp(-MAX_LOG_CHANGE, MAX_LOG_CHANGE)


_P = f"{LOG_SIGN_P:g}"
TABLE = (
    TensorFeature(
        "log_gradient",
        "the gradient's size",
        f"log rms(g)/{_P}",
        ("gradient",),
        lambda means, _: means.log_rms("gradient") / LOG_SIGN_P,
    ),
    TensorFeature(
        "log_parameter",
        "the parameters' size",
        f"log rms(θ)/{_P}",
        ("parameter",),
        lambda means, _: means.log_rms("parameter") / LOG_SIGN_P,
    ),
    TensorFeature(
        "log_average",
        "the average gradient's size",
        f"log rms(m̂(β))/{_P}",
        ("average",),
        lambda means, decay: means.log_rms("average", decay) / LOG_SIGN_P,
        decays=DECAYS,
    ),
    TensorFeature(
        "cosine",
        "the cosine of gradient and average gradient",
        "cos(g, m̂(β))",
        ("gradient", "average", "agreement"),
        _cosine,
        decays=DECAYS,
    ),
    TensorFeature(
        "signal",
        "the size of the average gradient over its root mean square",
        "rms(m̂(β)/√v̂)",
        ("signal",),
        _signal,
        decays=DECAYS,
    ),
    TensorFeature(
        "change", "the change of the gradient's size", "log(rms(g)/rms(√v̂))", ("gradient", "moment"), _change
    ),
    TensorFeature(
        "size",
        "the number of coordinates",
        f"log n/{_P}",
        (),
        lambda means, _: means.fact(lambda shape: math.log(math.prod(shape)) / LOG_SIGN_P),
    ),
    TensorFeature(
        "axes",
        "the number of axes",
        f"axes/{MOST_AXES}",
        (),
        lambda means, _: means.fact(lambda shape: min(len(shape), MOST_AXES) / MOST_AXES),
    ),
)
_MEMBERS = {feature.member(decay): (feature, decay) for feature in TABLE for decay in feature.decays}
TENSOR_FEATURES = tuple(_MEMBERS)
#: a few of every kind
DEFAULT_TENSOR_FEATURES = (
    "log_gradient",
    "log_parameter",
    "log_average_0.9",
    "cosine_0.9",
    "signal_0.9",
    "change",
    "size",
    "axes",
)
#: The genes that :meth:`TensorFeatures.of` reads.
TENSOR_GENES = (
    Subset("tensor_features", TENSOR_FEATURES, DEFAULT_TENSOR_FEATURES, note="of each tensor"),
    Subset("shared_features", SHARED_FEATURES, ("progress",), 0, note="inputs all tensors share"),
)


class TensorFeatures:
    """The features of tensors chosen for one rule structure, and those that all tensors of a task share.

    ``n_channels`` maps the chosen names to their numbers of channels; ``statistics`` are what they need.
    Raises GenomeError for a name that is not in the table.
    """

    def __init__(self, names: Iterable[str], shared_names: Iterable[str]) -> None:
        names = tuple(names)
        for name in names:
            if name not in _MEMBERS:
                raise GenomeError(unknown("tensor feature", name, TENSOR_FEATURES))
        self.chosen = tuple(member for name, member in _MEMBERS.items() if name in names)
        self.shared = FeatureSet(shared_names)
        self.n_channels = {feature.member(decay): 1 for feature, decay in self.chosen}
        self.n_channels |= self.shared.n_channels
        read = [one for feature, decay in self.chosen for one in feature.quantities_at(decay)]
        self.quantities = tuple(dict.fromkeys(read))
        needed = [statistic for feature, decay in self.chosen for statistic in feature.statistics(decay)]
        self.statistics = tuple(dict.fromkeys([*needed, *self.shared.statistics]))

    def statistics_beside(self, others: Sequence[Statistic]) -> tuple[Statistic, ...]:
        """``others`` and those needed here; where ``others`` have a second moment, it is the only one."""
        has_moment = any(one.kind == SECOND_MOMENT.kind for one in others)
        own = [one for one in self.statistics if not (has_moment and one.kind == SECOND_MOMENT.kind)]
        return (*others, *own)

    @classmethod
    def of(cls, genes: Genes) -> TensorFeatures:
        """Those that the genes ``tensor_features`` and ``shared_features`` select."""
        own, shared = (cast(Sequence[str], genes[name]) for name in ("tensor_features", "shared_features"))
        return cls(own, shared)

    @property
    def names(self) -> list[str]:
        """The chosen features in the order of their channels."""
        own = [feature.member(decay) for feature, decay in self.chosen]
        return [*own, *self.shared.names("task"), *self.shared.names("step")]

    def inputs(self, signals: Signals) -> Tensor:
        """All channels of this step, ``(C, T, n_tensors)``."""
        means = Means(signals, self.quantities)
        shape = (len(signals.params), len(signals.matrices))
        rows = [feature.compute(means, decay).unsqueeze(0) for feature, decay in self.chosen]
        if self.shared.scopes:
            shared = self.shared.inputs(signals)
            if "task" in shared:
                rows.append(shared["task"].unsqueeze(-1).expand(-1, *shape))
            if "step" in shared:
                rows.append(shared["step"].unsqueeze(-1).unsqueeze(-1).expand(-1, *shape))
        return torch.cat(rows)

    def weights(self, weights: Tree) -> Tensor:
        """The entries ``input.<feature>`` side by side, ``(…, C)``."""
        return torch.cat([weights[f"input.{name}"] for name in self.names], dim=-1)

    def init_weights(self, draw: Callable[[int], Tensor]) -> Tree:
        """An entry ``input.<feature>`` for each, as ``draw`` makes it for a number of channels."""
        return {f"input.{name}": draw(self.n_channels[name]) for name in self.names}

    def in_words(self) -> str:
        """The features for reading; of many, the first few."""
        words = [f"{feature.words} ({decay:g})" if decay else feature.words for feature, decay in self.chosen]
        if len(words) > MAX_NAMED:
            words = [f"{len(self.names)} features, among them {words[0]}", *words[1:MAX_NAMED]]
        elif self.shared.chosen:
            words.append(self.shared.in_words())
        return ", ".join(words)

    def formula(self) -> str:
        """The line that names the inputs q of each tensor."""
        symbols = [feature.symbol.replace("β", f"{decay:g}") for feature, decay in self.chosen]
        symbols += [feature.symbol for feature in self.shared.chosen]
        return f"q = [{', '.join(symbols)}] of each tensor"
