"""Tapes stand in for CUDA graphs where there is no GPU.

A tape holds the operations of one step with the memory they read and write, and replays them without calling
any Python of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """The operations of a block, with the very tensors they read and wrote."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[OpOverload, tuple[Any, ...], Mapping[str, Any], object]] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if (
            torch.Tag.inplace_view in func.tags
        ):  # a tensor sheds an axis of length one: its memory stays as it is
            return func(*args, **(kwargs or {}))
        if func._schema.is_mutable:
            for value in tree_leaves(args):
                if isinstance(value, Tensor):
                    self._before.setdefault(id(value), (value, value.clone()))
        result = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def undo(self) -> None:
        """Put back what was written to in place: a recording has no effect of its own."""
        for value, before in reversed(self._before.values()):
            value.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, result in self._calls:
            again = func(*args, **kwargs)
            if func.is_view or func._schema.is_mutable:
                continue
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor):
                    old.copy_(new.reshape(old.shape))


class Tapes:
    """Records on tapes; stands in for :class:`evometa.inner.graphs.CudaGraphs`."""

    def __init__(self, device: torch.device) -> None:
        self.n_recorded = 0

    def is_recorded_already(self) -> bool:
        return False

    def warm_up(self, function: Callable[[], None]) -> None:
        function()

    def rehearse(self, function: Callable[[], None]) -> None:
        function()

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        self.n_recorded += 1
        with Tape() as tape:
            function()
        tape.undo()
        return tape.replay


class AsItIs(Tapes):
    """Records nothing: what is replayed is the function."""

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        return function
