"""The input features of one rule structure: which statistics they need, and their channels at every step.

Channels are kept apart by what they vary over, because what is the same for many coordinates should not be
computed for each of them: features of rows, columns, tasks and steps enter a first layer as biases.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor

from evometa.genome.space import Genes
from evometa.layout import Layout
from evometa.rules.base import StepContext
from evometa.rules.feature_table import AVERAGE, DEFINITIONS, SECOND_MOMENT, Feature, Scope, feature_named
from evometa.rules.signals import Signals, Statistic
from evometa.trees import Tree

#: added to the mean square that normalises a feature; g⁴ stays above it down to gradients of 1e-6
NORMALISER_EPSILON = 1e-24
#: how many features a description in words names
MAX_NAMED = 4


#: The channels of one step by scope, feature-major; a scope without channels is missing.
#:
#: - coordinate: ``(C, T, N)``
#: - row, column: ``(C, T, all rows or columns)`` of all tensors, see :func:`evometa.rules.signals.matrices`
#: - task: ``(C, T)``
#: - step: ``(C,)``
Inputs = dict[Scope, Tensor]


class FeatureSet:
    """The features chosen for one rule structure, and the running statistics that they and ``extra`` need.

    One second moment is kept: where ``extra`` has one, the features are divided by it, too. ``n_channels``
    maps the chosen names to their numbers of channels. Raises GenomeError for a name that is not in the
    table.
    """

    def __init__(self, names: Iterable[str], extra: Iterable[Statistic] = ()) -> None:
        chosen: dict[Feature, list[float]] = {}
        for name in names:
            feature, decay = feature_named(name)
            chosen.setdefault(feature, []).append(decay)
        self.chosen = {feature: tuple(sorted(decays)) for feature, decays in chosen.items()}
        members = [(feature, decay) for feature, decays in self.chosen.items() for decay in decays]
        self.n_channels = {feature.member(decay): feature.n_channels for feature, decay in members}
        needed = [statistic for feature, decay in members for statistic in feature.statistics(decay)]
        extra = tuple(extra)
        given = next((one for one in extra if one.kind == SECOND_MOMENT.kind), SECOND_MOMENT)
        kept = [given if statistic == SECOND_MOMENT else statistic for statistic in needed]
        self.statistics = tuple(dict.fromkeys([*kept, *extra]))

    @classmethod
    def of(cls, genes: Genes, extra: Iterable[Statistic] = ()) -> FeatureSet:
        """The set that the genes ``features`` and ``shared_features`` of a learned rule select."""
        names = [*cast(Sequence[str], genes["features"]), *cast(Sequence[str], genes["shared_features"])]
        return cls(names, extra)

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The scopes that have channels."""
        return tuple(dict.fromkeys(feature.scope for feature in self.chosen))

    @property
    def elementwise(self) -> bool:
        """Whether none of them is a statistic over several coordinates."""
        kinds = {statistic.kind for statistic in self.statistics}
        return {"row", "column"}.isdisjoint(self.scopes) and kinds.isdisjoint(("row_moment", "column_moment"))

    def names(self, scope: Scope) -> list[str]:
        """The chosen features of a scope, in the order of its channels in :class:`Inputs`."""
        return [f.member(decay) for f, decays in self.chosen.items() if f.scope == scope for decay in decays]

    def init_state(self, params: Tensor, layout: Layout) -> Tree:
        """The statistics before the first step, each under its own name."""
        return {statistic.name: statistic.init(params, layout) for statistic in self.statistics}

    def observe(self, state: Tree, grads: Tensor, params: Tensor, context: StepContext) -> Signals:
        """This step's signals; their ``state`` holds the next statistics."""
        return Signals(self.statistics, state, grads, params, context)

    def inputs(self, signals: Signals) -> Inputs:
        """All channels of this step."""
        blocks: dict[Scope, list[Tensor]] = {}
        for feature, decays in self.chosen.items():
            blocks.setdefault(feature.scope, []).extend(feature.compute(signals, decays))
        return {scope: torch.cat(own) for scope, own in blocks.items()}

    def weights(self, weights: Tree, scope: Scope) -> Tensor:
        """The entries ``input.<feature>`` of a scope that has channels, side by side: ``(…, H, C)``."""
        return torch.cat([weights[f"input.{name}"] for name in self.names(scope)], dim=-1)

    def in_words(self) -> str:
        """The features for reading; of many, the first few."""
        words = [f.words + (f" ({_listed(d)})" if any(d) else "") for f, d in self.chosen.items()]
        if len(words) <= MAX_NAMED:
            return ", ".join(words)
        n_channels = sum(self.n_channels.values())
        return f"{n_channels} numbers, among them {', '.join(words[:MAX_NAMED])}"

    def formula(self) -> list[str]:
        """The line that names the inputs x, and those that define the averages in it."""
        symbols: dict[tuple[float, ...], list[str]] = {}
        for feature, decays in self.chosen.items():
            symbols.setdefault(decays, []).append(feature.symbol)
        groups = [
            ", ".join(group) + (f" for β = {_listed(decays)}" if any(decays) else "")
            for decays, group in symbols.items()
        ]
        return [f"x = [{'; '.join(groups)}]", *self.definitions()]

    def definitions(self) -> list[str]:
        """The lines that define the averages."""
        decay_of = {statistic.kind: statistic.decay for statistic in self.statistics}
        if any(feature.kind.startswith("factored") for feature in self.chosen):
            decay_of["factored"] = 0.0
        defined = [
            line.format(decay=decay_of[kind]) for kind, line in DEFINITIONS.items() if kind in decay_of
        ]
        return [*defined, *([AVERAGE] if defined else [])]


def normalised_products(weight: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Weights ``(H, C)`` times the normalised channels ``(C, T, n)`` of each tensor, ``(T, H, n)`` each.

    A channel is divided by its root mean square over the tensor; one that is zero stays zero. The divisors go
    into the weights, which are small, instead of onto the channels.
    """
    # Not dim=-1: PyTorch 2.11, compiling or on device meta, does not drop an axis of size 1 that is named so.
    norms = [torch.linalg.vector_norm(channels, dim=2).T for channels in tensors]
    roots = [norm * (1.0 / math.sqrt(own.shape[-1])) for norm, own in zip(norms, tensors, strict=True)]
    scales = torch.rsqrt(torch.stack(roots).square() + NORMALISER_EPSILON)
    scaled = weight * scales.unsqueeze(2)
    return [torch.bmm(own, channels.transpose(0, 1)) for own, channels in zip(scaled, tensors, strict=True)]


def _listed(decays: Sequence[float]) -> str:
    return ", ".join(f"{decay:g}" for decay in decays)
