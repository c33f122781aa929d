"""The input features of one rule structure: which statistics they need, and their channels at every step.

Channels are kept apart by what they vary over, because what is the same for many coordinates should not be
computed for each of them: features of rows, columns, tasks and steps enter a first layer as biases.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from evometa.genome.space import Genes
from evometa.layout import Layout
from evometa.rules.base import StepContext
from evometa.rules.feature_table import AVERAGE, DEFINITIONS, SCOPES, Feature, Scope, feature_named
from evometa.rules.signals import Signals, Statistic
from evometa.trees import Tree

#: added to the mean square that normalises a feature; g⁴ stays above it down to gradients of 1e-6
NORMALISER_EPSILON = 1e-24
#: how many features a description in words names
MAX_NAMED = 4


@dataclass(frozen=True)
class Inputs:
    """The channels of one step by scope, feature-major; None where there are none.

    Attributes:
        coordinate: ``(C, T, N)``.
        row: ``(C, T, all rows)`` of all tensors in order, see :func:`evometa.rules.signals.matrices`.
        column: ``(C, T, all columns)``.
        task: ``(C, T)``.
        step: ``(C,)``.
    """

    coordinate: Tensor | None = None
    row: Tensor | None = None
    column: Tensor | None = None
    task: Tensor | None = None
    step: Tensor | None = None


class FeatureSet:
    """The features chosen for one rule structure, and the running statistics that they and ``extra`` need.

    ``n_channels`` maps the chosen names to their numbers of channels. Raises GenomeError for a name that is
    not in the table.
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
        self.statistics = tuple(dict.fromkeys([*needed, *extra]))

    @classmethod
    def of(cls, genes: Genes, extra: Iterable[Statistic] = ()) -> FeatureSet:
        """The set that the genes ``features`` and ``shared_features`` of a learned rule select."""
        names = [*cast(Sequence[str], genes["features"]), *cast(Sequence[str], genes["shared_features"])]
        return cls(names, extra)

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
        blocks: dict[str, list[Tensor]] = {scope: [] for scope in SCOPES}
        for feature, decays in self.chosen.items():
            blocks[feature.scope] += feature.compute(signals, decays)
        return Inputs(**{scope: torch.cat(own) for scope, own in blocks.items() if own})

    def weights(self, weights: Tree, scope: Scope) -> Tensor | None:
        """The entries ``input.<feature>`` ``(H, channels)`` of a scope side by side; None without any."""
        own = [weights[f"input.{name}"] for name in self.names(scope)]
        return torch.cat(own, dim=1) if own else None

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
        kinds = {statistic.kind for statistic in self.statistics}
        kinds |= {"factored" for feature in self.chosen if feature.kind.startswith("factored")}
        defined = [line for kind, line in DEFINITIONS.items() if kind in kinds]
        return [f"x = [{'; '.join(groups)}]", *defined, *([AVERAGE] if defined else [])]


def normalising_scale(channels: Tensor) -> Tensor:
    """1/root-mean-square over the last axis, ``(C, T, n)`` → ``(C, T)``; finite for a channel of zeros."""
    norm = torch.linalg.vector_norm(channels, dim=-1)
    return torch.rsqrt(norm.square() * (1.0 / channels.shape[-1]) + NORMALISER_EPSILON)


def _listed(decays: Sequence[float]) -> str:
    return ", ".join(f"{decay:g}" for decay in decays)
