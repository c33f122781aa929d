"""A feature set as the kernels of ``evometa/native`` read it: lists of numbers instead of functions.

``coordinate_features.h`` and ``line_features.h`` compute from them what :mod:`evometa.rules.feature_table`
defines for the scopes coordinate, row and column. Features of tasks and steps are few numbers and stay in
PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from evometa.layout import Layout
from evometa.rules.base import StepContext
from evometa.rules.feature_table import Scope, feature_named
from evometa.rules.features import FeatureSet, Inputs
from evometa.rules.signals import Statistic
from evometa.trees import Tree

#: ``FeatureKind`` of coordinate_features.h, in its order
COORDINATE_KINDS = (
    "gradient",
    "log_sign",
    "parameter",
    "second_moment",
    "reciprocal_root",
    "rms_gradient",
    "average",
    "log_sign_average",
    "rms_average",
    "factored_gradient",
    "factored_average",
)
NONE = -1


class FeatureProgram:
    """What a kernel needs to know of a :class:`FeatureSet`.

    Attributes:
        momenta, row_moments, column_moments: the state's names of these statistics, in the kernels' order.
        second_moment: the state's name of the second moment; None where none is kept.
        coordinate_spec: features of coordinates and what they read; see ``FeatureProgram`` in C++.
        line_spec: features of rows and columns and the factored moments; see ``LineProgram`` in C++.
    """

    def __init__(self, features: FeatureSet) -> None:
        self._momenta = _kept(features, "momentum")
        self._second = _kept(features, "second_moment")
        self._rows = _kept(features, "row_moment")
        self._columns = _kept(features, "column_moment")
        self._coordinate_decays = tuple(kept.decay for kept in (*self._momenta, *self._second))
        self._line_decays = tuple(kept.decay for kept in (*self._rows, *self._columns))
        self.momenta = [statistic.name for statistic in self._momenta]
        self.second_moment = self._second[0].name if self._second else None
        self.row_moments = [statistic.name for statistic in self._rows]
        self.column_moments = [statistic.name for statistic in self._columns]
        members = [feature_named(name) for name in features.names("coordinate")]
        self._factored = sorted({decay for feature, decay in members if "row_moment" in feature.needs})
        self.coordinate_spec = self._coordinate_spec(features)
        self.line_spec = self._line_spec(features)
        self._task = FeatureSet(features.names("task"))
        self._step_names = tuple(features.names("step"))

    def coordinate_numbers(self, step: float) -> list[float]:
        """Gain and bias correction at ``step`` of the averages in ``coordinate_spec``, in its order."""
        return _gains_and_corrections(self._coordinate_decays, step)

    def line_numbers(self, step: float) -> list[float]:
        """The same for the averages of rows and columns and ``line_spec``."""
        return _gains_and_corrections(self._line_decays, step)

    def coordinate_numbers_of(self, steps: range) -> Tensor:
        """:meth:`coordinate_numbers` of each of K steps, ``(K, …)`` in float64."""
        return _numbers_of(self._coordinate_decays, steps)

    def line_numbers_of(self, steps: range) -> Tensor:
        """:meth:`line_numbers` of each of K steps, ``(K, …)`` in float64."""
        return _numbers_of(self._line_decays, steps)

    def step_channels_of(self, steps: range, horizon: int, dtype: torch.dtype) -> Tensor | None:
        """Channels of the features of the step at each of K steps, ``(K, C)``; None without any."""
        return _step_channels_of(self._step_names, steps, horizon, dtype) if self._step_names else None

    @property
    def initial_loss(self) -> str | None:
        """The state's name of the first loss, which the feature of the loss compares with; else None."""
        names = [statistic.name for statistic in self._task.statistics]
        return names[0] if names else None

    def shared(self, state: Tree, grads: Tensor, params: Tensor, context: StepContext) -> tuple[Inputs, Tree]:
        """Channels of tasks ``(C, P, T)`` and of the step ``(C,)`` of a cohort, and the statistics they need.

        Shapes as in :meth:`evometa.rules.base.UpdateRule.advance`. Runs count as tasks of one candidate here,
        because no feature of a task looks at another task; the loss is taken as a constant.
        """
        inputs: Inputs = {}
        if self._step_names:
            numbers = (float(context.step), float(context.horizon), grads.dtype)
            inputs["step"] = _step_channels(self._step_names, *numbers)
        if not self._task.chosen:
            return inputs, {}
        runs = grads.shape[:2]
        loss = None if context.loss is None else context.loss.detach().flatten()
        own = {statistic.name: state[statistic.name].flatten() for statistic in self._task.statistics}
        signals = self._task.observe(
            own, grads.flatten(0, 1), params.flatten(0, 1), replace(context, loss=loss)
        )
        inputs["task"] = self._task.inputs(signals)["task"].reshape(-1, *runs)
        return inputs, {name: value.reshape(runs) for name, value in signals.state.items()}

    def _coordinate_spec(self, features: FeatureSet) -> list[int]:
        momenta = [statistic.decay for statistic in self._momenta]
        names = features.names("coordinate")
        spec = [len(momenta), len(self._second), len(names)]
        for name in names:
            feature, decay = feature_named(name)
            spec.append(COORDINATE_KINDS.index(feature.kind))
            spec.append(momenta.index(decay) if "momentum" in feature.needs else NONE)
            spec.append(self._factored.index(decay) if "row_moment" in feature.needs else NONE)
        return spec

    def _line_spec(self, features: FeatureSet) -> list[int]:
        spec = [len(self._rows), len(self._columns), len(self._factored)]
        rows, columns = ([s.decay for s in statistics] for statistics in (self._rows, self._columns))
        for decay in self._factored:
            spec += [rows.index(decay), columns.index(decay)]
        sides: tuple[tuple[Scope, list[float]], ...] = (("row", rows), ("column", columns))
        for scope, decays in sides:
            members = [feature_named(name) for name in features.names(scope)]
            spec.append(len(members))
            for feature, decay in members:
                spec += [decays.index(decay), int(feature.kind.startswith("reciprocal"))]
        return spec


@lru_cache(maxsize=4096)
def _step_channels(names: tuple[str, ...], step: float, horizon: float, dtype: torch.dtype) -> Tensor:
    """Channels of features of the step ``(C,)``; cohort after cohort asks for those of the same steps."""
    nothing, layout = torch.zeros((1, 1), dtype=dtype), Layout.of({"": (1,)})
    numbers = (torch.tensor(step, dtype=dtype), torch.tensor(horizon, dtype=dtype))
    features = FeatureSet(names)
    signals = features.observe({}, nothing, nothing, StepContext(layout, *numbers, loss=None))
    return features.inputs(signals)["step"]


@lru_cache(maxsize=256)
def _step_channels_of(names: tuple[str, ...], steps: range, horizon: int, dtype: torch.dtype) -> Tensor:
    return torch.stack([_step_channels(names, float(step), float(horizon), dtype) for step in steps])


@lru_cache(maxsize=256)
def _numbers_of(decays: tuple[float, ...], steps: range) -> Tensor:
    rows = [_gains_and_corrections(decays, float(step)) for step in steps]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(steps), -1)


def _kept(features: FeatureSet, kind: str) -> list[Statistic]:
    return [statistic for statistic in features.statistics if statistic.kind == kind]


def _gains_and_corrections(decays: Sequence[float], step: float) -> list[float]:
    """1 − β and 1 / (1 − βᵏ⁺¹) of each decay β, without cancellation where it is near 1."""
    numbers = []
    for decay in decays:
        numbers += [1.0 - decay, -1.0 / math.expm1((step + 1.0) * math.log(decay))]
    return numbers
