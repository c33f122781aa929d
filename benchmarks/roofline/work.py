"""The work of one inner step, counted on evometa's own code in PyTorch; nothing is typed in per rule.

One candidate makes one update on one task, and one gradient is taken; every operation that PyTorch dispatches
is counted by the convention of :mod:`evometa.rules.cost`, or of :mod:`benchmarks.roofline.operations` where
that is too coarse, and sorted into matrix products, transcendental functions and other arithmetic. An ideal
machine does the three one after the other, each at its best rate, while the numbers that live between steps
go through memory: whichever takes longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload

from benchmarks.roofline.operations import parts_of
from benchmarks.roofline.rates import Rates, bandwidth, best
from benchmarks.workload import SEED, Spec, Workload
from evometa.inner.cohort import Cohort
from evometa.inner.task_set import PreparedTasks, prepare
from evometa.inner.unroll import loss_and_grad
from evometa.layout import Layout
from evometa.native import disabled
from evometa.rng import torch_generator
from evometa.rules.base import StepContext
from evometa.rules.cost import OperationCounter
from evometa.trees import count

_PRODUCTS = {"mm", "bmm", "mv", "dot", "addmm", "baddbmm", "addmv"}
_TRANSCENDENTAL = {
    *("sigmoid", "tanh", "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sin", "cos", "erf"),
    *("tan", "atan", "atan2", "asin", "acos", "sinh", "cosh", "logit", "_log_softmax", "_softmax"),
}


@dataclass(frozen=True)
class Work:
    """Of one inner step of one candidate on one task.

    Attributes:
        product_flops: multiplications and additions in matrix products.
        transcendentals: values of exp, log, sigmoid, tanh and the like.
        other_flops: everything else, roots and divisions included.
        bytes: the state read and written, params read and written, gradients read.
        n_at_once: runs whose bytes pass through memory in turn: a core works on one, a GPU on all.
    """

    product_flops: int
    transcendentals: int
    other_flops: int
    bytes: int
    n_at_once: int = 1

    @property
    def working_set(self) -> int:
        """Bytes that are gone through before any of them is met again."""
        return self.n_at_once * self.bytes

    def times(self, n: int) -> Work:
        """``n`` times this work, all of whose bytes pass through memory before any is met again."""
        parts = (self.product_flops, self.transcendentals, self.other_flops, self.bytes)
        return Work(*(n * part for part in parts))

    def ceiling(self, rates: Rates) -> float:
        """Inner steps a second, at most, of all cores, whose rates together are ``rates``."""
        arithmetic = (
            self.product_flops / best(rates, "product")
            + self.transcendentals / best(rates, "transcendental")
            + self.other_flops / (rates.get("multiply-add registers", best(rates, "product")) / 2)
        )
        return 1 / max(arithmetic, self.bytes / bandwidth(rates, self.working_set))


class WorkCounter(OperationCounter):
    """Operations sorted into kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.products = self.transcendentals = self.others = 0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        before = self.n_operations
        result = super().__torch_dispatch__(func, types, args, kwargs)
        counted, name = self.n_operations - before, func.overloadpacket.__name__.removesuffix("_")
        parts = parts_of(name, args, result)
        if parts is not None:
            self.products += parts.products
            self.transcendentals += parts.transcendentals
            self.others += parts.others
        elif name in _PRODUCTS:
            self.products += counted
        elif name in _TRANSCENDENTAL:
            self.transcendentals += counted
        else:
            self.others += counted
        return result


def count_work(spec: Spec, width: int = 32, n_at_once: int = 1) -> Work:
    """The work of a rule on a perceptron 64–width–10, batches of 64."""
    return count_workload(Workload.of("forward", spec, 1, n_tasks=1, n_steps=1, width=width), n_at_once)


def count_workload(workload: Workload, n_at_once: int = 1) -> Work:
    """The work of the first candidate on a task of ``workload``, the mean of all its tasks."""
    device = torch.device("cpu")
    cohort = Cohort.of(workload.candidates[:1], device)
    parts = prepare(workload.request(), device)
    counted = torch.tensor([_count_part(cohort, part.of(slice(0, 1))) for part in parts], dtype=torch.float64)
    shares = torch.tensor([part.tasks.n_tasks for part in parts], dtype=torch.float64) / workload.n_tasks
    products, transcendentals, others, moved = (round(mean) for mean in (shares @ counted).tolist())
    return Work(products, transcendentals, others, moved, n_at_once)


def _count_part(cohort: Cohort, part: PreparedTasks) -> tuple[int, int, int, int]:
    """Products, transcendental functions, other arithmetic and bytes of a step on the task of ``part``."""
    weights, hyper = cohort.member(0)
    with torch.no_grad(), disabled():
        state = cohort.learner.init_state(weights, part.params, part.tasks.layout)
        context = StepContext(part.tasks.layout, torch.tensor(1.0), torch.tensor(100.0), torch.ones(1))
        with WorkCounter() as counter:
            batch = part.tasks.batch(None if part.indices is None else part.indices[:, 0])
            _, grads = loss_and_grad(part.tasks, part.params.unsqueeze(0), batch)
            step, _ = cohort.learner.update(weights, hyper, state, grads[0], part.params, context)
            part.params.add(step)
    moved = 2 * count(state) + 3 * part.params.numel()
    return counter.products, counter.transcendentals, counter.others, 4 * moved


def count_update(spec: Spec, shapes: Sequence[tuple[int, ...]]) -> Work:
    """The work of a rule's step for each coordinate, its gradient given, counted on tensors of ``shapes``."""
    candidate = spec.candidate(0, {})
    cohort = Cohort.of([candidate], torch.device("cpu"))
    weights, hyper = cohort.member(0)
    layout = Layout.of({str(index): shape for index, shape in enumerate(shapes)})
    params, grads = (torch.randn((1, layout.size), generator=torch_generator(SEED, k)) for k in "pg")
    with torch.no_grad(), disabled():
        state = cohort.learner.init_state(weights, params, layout)
        context = StepContext(layout, torch.tensor(1.0), torch.tensor(100.0), torch.ones(1))
        with WorkCounter() as counter:
            step, _ = cohort.learner.update(weights, hyper, state, grads, params, context)
            params.add(step)
    moved = 2 * count(state) + 3 * layout.size
    counted = (counter.products, counter.transcendentals, counter.others, 4 * moved)
    return Work(*(round(part / layout.size) for part in counted))
