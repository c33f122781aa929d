"""What a learned rule may look at: gradients, parameters, and running statistics, each of them kept once.

A :class:`Statistic` is named by its kind and decay, so that two features and a nominal step that need the
same average share one tensor of the state. :class:`Signals` holds one step's inputs together with the
statistics after that step, and computes what is derived from them at most once.

Matrices are factored as Adafactor does (Shazeer & Stern 2018): row and column means of g². A tensor with two
or more axes counts as a matrix of its first axis × all others; a vector of n coordinates as n × 1, whose
factored estimate is the plain average of g².
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from evometa.layout import Layout, Segment
from evometa.rules.base import StepContext
from evometa.trees import Tree

#: added to mean squares inside roots: a floor of 1e-8 on the root mean square, as Adam's epsilon
EPSILON = 1e-16
#: losses are clamped to this multiple of the first one, and its inverse, before the logarithm
MAX_LOSS_RATIO = 1e10


@dataclass(frozen=True)
class Statistic:
    """A running statistic: ``kind`` is a key of KINDS, averaged with ``decay`` unless that is 0."""

    kind: str
    decay: float = 0.0

    @property
    def name(self) -> str:
        """Its name in the state, such as ``momentum_0.9``."""
        return f"{self.kind}_{self.decay:g}" if self.decay else self.kind

    def init(self, params: Tensor, layout: Layout) -> Tensor:
        """Zeros in the dtype and on the device of params ``(T, N)``; the task axis is first."""
        return KINDS[self.kind].init(params, layout)

    def next(self, old: Tensor, signals: Signals) -> Tensor:
        """The statistic after this step's observation; ``old`` keeps its value."""
        observed = KINDS[self.kind].observe(old, signals)
        return torch.lerp(old, observed, 1.0 - self.decay) if self.decay else observed


@dataclass(frozen=True)
class Kind:
    """How one kind of statistic begins and what it observes at a step."""

    init: Callable[[Tensor, Layout], Tensor]
    observe: Callable[[Tensor, Signals], Tensor]


@dataclass(frozen=True)
class Matrix:
    """A segment as Adafactor sees it, and where its rows and columns stand among those of all tensors."""

    segment: Segment
    n_rows: int
    n_columns: int
    rows: slice
    columns: slice

    def place(self, scope: str) -> slice:
        """Where its values of ``scope`` (coordinate, row or column) stand among those of all tensors."""
        return {"coordinate": self.segment.slice, "row": self.rows, "column": self.columns}[scope]

    def shape(self, scope: str) -> tuple[int, int]:
        """Those values as a matrix that broadcasts to rows × columns."""
        return {
            "coordinate": (self.n_rows, self.n_columns),
            "row": (self.n_rows, 1),
            "column": (1, self.n_columns),
        }[scope]


@lru_cache(maxsize=256)
def matrices(layout: Layout) -> tuple[Matrix, ...]:
    """The non-empty tensors of a layout as matrices: first axis × all others, vectors as n × 1."""
    found: list[Matrix] = []
    row = column = 0
    for segment in layout.segments:
        if segment.size:
            n_rows = segment.shape[0] if segment.shape else 1
            n_columns = segment.size // n_rows
            rows, columns = slice(row, row + n_rows), slice(column, column + n_columns)
            found.append(Matrix(segment, n_rows, n_columns, rows, columns))
            row, column = row + n_rows, column + n_columns
    return tuple(found)


class Signals:
    """One step's inputs of one candidate; tensors are ``(T, N)`` unless said otherwise.

    ``state`` holds the statistics after this step, by name. Averages are corrected for their start at
    zero (Kingma & Ba 2015), counting steps from ``context.step``. At most one second moment is kept.
    """

    def __init__(
        self,
        statistics: Sequence[Statistic],
        state: Tree,
        grads: Tensor,
        params: Tensor,
        context: StepContext,
    ) -> None:
        self.grads = grads
        self.params = params
        self.context = context
        self.matrices = tuple(matrices(context.layout))
        self._derived: dict[object, Tensor] = {}
        self._second_moment_decay = sum(s.decay for s in statistics if s.kind == "second_moment")
        self._corrections = _corrections(
            {s.decay for s in statistics if s.decay}, context.step.to(grads.dtype)
        )
        self.state: Tree = {s.name: s.next(state[s.name], self) for s in statistics}

    def average(self, decay: float) -> Tensor:
        """m̂: the bias-corrected average of the gradient."""
        return self._once(("average", decay), lambda: self._corrected("momentum", decay))

    @cached_property
    def mean_square(self) -> Tensor:
        """v̂: the bias-corrected average of the squared gradient, of which there is one decay."""
        return self._corrected("second_moment", self._second_moment_decay)

    @cached_property
    def root_reciprocal(self) -> Tensor:
        """1/√v̂."""
        return torch.rsqrt(self.mean_square + EPSILON)

    def row_means(self, decays: Sequence[float]) -> Tensor:
        """Bias-corrected averages of the row means of g², ``(len(decays), T, all rows)``."""
        return self._once(("rows", *decays), lambda: self._stacked("row_moment", decays))

    def column_means(self, decays: Sequence[float]) -> Tensor:
        """Bias-corrected averages of the column means of g², ``(len(decays), T, all columns)``."""
        return self._once(("columns", *decays), lambda: self._stacked("column_moment", decays))

    def factored_reciprocal(self, decays: Sequence[float]) -> Tensor:
        """1/√v̂ with Adafactor's v̂ᵢⱼ = rᵢ·cⱼ / mean(r), ``(len(decays), T, N)``."""
        return self._once(("factored", *decays), lambda: self._factored(decays))

    @cached_property
    def squares(self) -> Tensor:
        """g²."""
        return self.grads.square()

    @cached_property
    def square_means(self) -> tuple[Tensor, Tensor]:
        """This step's means of g² over every row and over every column of all tensors, side by side."""
        rows, columns = [], []
        for matrix in self.matrices:
            entries = self.squares[:, matrix.segment.slice].reshape(-1, matrix.n_rows, matrix.n_columns)
            rows.append(entries.sum(dim=2) * (1.0 / matrix.n_columns))
            columns.append(entries.sum(dim=1) * (1.0 / matrix.n_rows))
        return torch.cat(rows, dim=-1), torch.cat(columns, dim=-1)

    @property
    def log_loss(self) -> Tensor:
        """log of the training loss relative to the first positive one seen, ``(T,)``; 0 without a loss."""
        if self.context.loss is None:
            return torch.zeros_like(self.grads[:, 0])
        first = self.state["initial_loss"]
        ratio = self.context.loss.to(first.dtype) / torch.where(first > 0, first, torch.ones_like(first))
        return ratio.clamp(1 / MAX_LOSS_RATIO, MAX_LOSS_RATIO).log()

    def _once(self, key: object, compute: Callable[[], Tensor]) -> Tensor:
        if key not in self._derived:
            self._derived[key] = compute()
        return self._derived[key]

    def _corrected(self, kind: str, decay: float) -> Tensor:
        return self.state[Statistic(kind, decay).name] * self._corrections[decay]

    def _stacked(self, kind: str, decays: Sequence[float]) -> Tensor:
        return torch.stack([self._corrected(kind, decay) for decay in decays])

    def _factored(self, decays: Sequence[float]) -> Tensor:
        rows = self.row_means(decays)
        by_row, by_column = torch.rsqrt(rows + EPSILON), torch.rsqrt(self.column_means(decays) + EPSILON)
        parts = []
        for matrix in self.matrices:
            mean = rows[..., matrix.rows].sum(dim=-1, keepdim=True) * (1.0 / matrix.n_rows)
            relative = by_row[..., matrix.rows] * torch.sqrt(mean + EPSILON)
            outer = relative.unsqueeze(-1) * by_column[..., matrix.columns].unsqueeze(-2)
            parts.append(outer.flatten(-2))
        return torch.cat(parts, dim=-1)


def _corrections(decays: set[float], step: Tensor) -> dict[float, Tensor]:
    """1 / (1 − βᵏ⁺¹) for every decay β, without cancellation for β near 1."""
    if not decays:
        return {}
    ordered = sorted(decays)
    # One by one: a tensor of the logarithms would be a copy from the host, for which a GPU is made to wait.
    exponents = torch.stack([(step + 1.0) * math.log(decay) for decay in ordered])
    return dict(zip(ordered, (-torch.expm1(exponents)).reciprocal().unbind(0), strict=True))


def _initial_loss(old: Tensor, signals: Signals) -> Tensor:
    loss = signals.context.loss
    if loss is None:
        return old
    starts = (old == 0) & (loss > 0) & torch.isfinite(loss)
    return torch.where(starts, loss.to(old.dtype), old)


def _no_rows(params: Tensor, layout: Layout) -> Tensor:
    return params.new_zeros(params.shape[0], sum(matrix.n_rows for matrix in matrices(layout)))


def _no_columns(params: Tensor, layout: Layout) -> Tensor:
    return params.new_zeros(params.shape[0], sum(matrix.n_columns for matrix in matrices(layout)))


KINDS: dict[str, Kind] = {
    "momentum": Kind(lambda params, _: torch.zeros_like(params), lambda _, signals: signals.grads),
    "second_moment": Kind(lambda params, _: torch.zeros_like(params), lambda _, signals: signals.squares),
    "row_moment": Kind(_no_rows, lambda _, signals: signals.square_means[0]),
    "column_moment": Kind(_no_columns, lambda _, signals: signals.square_means[1]),
    "initial_loss": Kind(lambda params, _: params.new_zeros(params.shape[0]), _initial_loss),
}
