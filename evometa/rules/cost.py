"""What a learner costs to run, measured on its own code; nothing is typed in per rule.

Convention. One update is made on a reference model, an MLP 64–32–10 (N = 2,410 coordinates), and every
operation PyTorch dispatches is counted:

- a matrix product of ``(m, k)`` and ``(k, n)`` costs ``2·m·k·n`` operations, plus one per element of what is
  added to it;
- an elementwise operation costs one per element of its result, whichever function it is (a root counts as
  an addition); a fused one counts its parts (``lerp``, ``addcmul`` and ``addcdiv`` three);
- a reduction costs one per element of its input;
- views, copies, concatenations and the creation of constants are free.

Beside it the numbers are counted that operations write to memory, computed or copied; the chunk plan goes by
them. The totals are divided by N. The gradient itself is not part of it: it is the same for every learner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from evometa.genome.genes import Value
from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules.base import StepContext
from evometa.rules.learner import Learner
from evometa.trees import count

#: The model on which every learner is measured.
REFERENCE_LAYOUT = Layout.of({"0.weight": (32, 64), "0.bias": (32,), "2.weight": (10, 32), "2.bias": (10,)})

#: Operations that move or make numbers and compute none (besides views, which say so themselves).
# fmt: off
_FREE = frozenset([
    "_to_copy", "_unsafe_view", "arange", "cat", "clone", "constant_pad_nd", "copy", "copy_",
    "empty", "empty_like", "empty_strided", "fill_", "full", "full_like", "gather", "index",
    "index_select", "lift_fresh_copy", "new_empty", "new_empty_strided", "new_full", "new_ones",
    "new_zeros", "ones", "ones_like", "repeat", "repeat_interleave", "scalar_tensor", "scatter",
    "slice_scatter", "stack", "zero_", "zeros", "zeros_like",
])
# fmt: on
#: Matrix products, with the place of their first factor among the arguments.
_PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "addmm": 1, "baddbmm": 1, "addmv": 1}
#: Elementwise operations that stand for several.
_FUSED = {"lerp": 3, "addcmul": 3, "addcdiv": 3}


@dataclass(frozen=True)
class Cost:
    """Cost of one learner.

    Attributes:
        state_floats_per_param: numbers kept between steps, per coordinate of the model.
        flops_per_param: operations of one update, per coordinate of the model.
        n_weights: number of meta-trained weights φ.
        floats_written_per_param: numbers that one update in PyTorch writes, the next state and the step
            included, per coordinate of the model.
    """

    state_floats_per_param: float
    flops_per_param: float
    n_weights: int
    floats_written_per_param: float


def measure_cost(learner: Learner) -> Cost:
    """The cost of ``learner``; equal for all learners of one structure, and measured once for each."""
    structural = learner.space.structural(dict(learner.genes))
    return _measured(learner.family, structural)


@lru_cache(maxsize=4096)
def _measured(family: str, structural: tuple[tuple[str, Value], ...]) -> Cost:
    """One update of the learner of these structural genes, the continuous ones at their defaults."""
    learner = Learner.of(family, dict(structural))
    generator = torch_generator(0, "cost")
    layout = REFERENCE_LAYOUT
    weights = learner.init_weights(generator)
    params = torch.randn((1, layout.size), generator=generator)
    grads = torch.randn((1, layout.size), generator=generator)
    hyper = {name: torch.tensor(value) for name, value in learner.hyper.items()}
    context = StepContext(layout, torch.tensor(1.0), torch.tensor(100.0), torch.ones(1))
    with torch.no_grad():
        state = learner.init_state(weights, params, layout)
        with OperationCounter() as counter:
            learner.update(weights, hyper, state, grads, params, context)
    size = layout.size
    return Cost(count(state) / size, counter.n_operations / size, count(weights), counter.n_written / size)


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, by the module's convention, the arithmetic of what runs inside its ``with`` block.

    Attributes:
        n_operations: operations so far.
        n_written: numbers written to new memory so far.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to keep the compiler out of it would import the compiler, in every worker

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.n_operations = 0
        self.n_written = 0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.n_operations += _n_operations(func, args, result)
        self.n_written += _n_written(func, args, result)
        return result


def _n_operations(func: OpOverload, args: tuple[Any, ...], result: object) -> int:
    """Operations of one dispatched call."""
    name: str = func.overloadpacket.__name__
    if func.is_view or name in _FREE:
        return 0
    name = name.removesuffix("_")
    outputs = [value.numel() for value in tree_leaves(result) if isinstance(value, Tensor)]
    if name in _PRODUCTS:
        place = _PRODUCTS[name]
        n_inner: int = args[place].shape[-1]
        return outputs[0] * (2 * n_inner + (1 if place else 0))
    inputs = [value.numel() for value in tree_leaves(args) if isinstance(value, Tensor)]
    return max([*inputs, *outputs], default=0) * _FUSED.get(name, 1)


def _n_written(func: OpOverload, args: tuple[Any, ...], result: object) -> int:
    """Numbers of new memory that one dispatched call fills: none for a view or in place."""
    if func.is_view:
        return 0
    old = {id(value) for value in tree_leaves(args) if isinstance(value, Tensor)}
    new = (value for value in tree_leaves(result) if isinstance(value, Tensor) and id(value) not in old)
    return sum(value.numel() for value in new)
