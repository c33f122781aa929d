"""What inner training takes in memory: bytes of one candidate for one task, told from shapes and structures.

Memory grows in proportion to candidates, tasks and coordinates. So a learner's share is measured on a small
reference model, once for each structure, and the task's share, the activations behind a gradient, in one
gradient of the task itself. Where an upper bound told from the learner's cost will do, the learner is not
measured at all. Nothing depends on a machine's load or free memory, only on whether there is a native kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TypeVar

import torch
from torch import Tensor

from evometa import native
from evometa.genome.genes import Value
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.meter import MemoryMeter
from evometa.inner.plan import has_kernel
from evometa.inner.task_set import PreparedTasks
from evometa.inner.unroll import UnrollState, advance, begin, loss_and_grad, valid_losses
from evometa.rng import torch_generator
from evometa.rules.cost import measure_cost, state_floats_per_param
from evometa.rules.learner import Learner
from evometa.tasks.mlp_model import MLP

#: Steps with a graph after which each further one adds the same.
_STEADY = 3
#: Of the model that learners are measured on.
_LAYOUT = MLP((64, 32, 10), "relu", "kaiming", "class").layout

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Demand:
    """How something goes through the inner steps, as far as memory is concerned.

    Attributes:
        graph: whether a graph is kept of them.
        second_order: whether it goes through the inner gradients as well.
    """

    graph: bool = False
    second_order: bool = False


@dataclass(frozen=True)
class PartBytes:
    """Bytes that one candidate takes for each of the ``n_tasks`` tasks of one architecture.

    Attributes:
        carried: what stays between steps: params, their gradient, the learner's state.
        step: the most that is alive besides while a step is made without a graph or held-out rows are judged.
        graph: what a step leaves in a graph.
        backward: the most that is alive besides while a graph is made or gone through.
        gradient: the params' gradient alone.
    """

    n_tasks: int
    carried: int
    step: int
    graph: int
    backward: int
    gradient: int


def part_bytes(
    learner: Learner, parts: Sequence[PreparedTasks], demand: Demand, *, measured: bool
) -> list[PartBytes]:
    """The bytes of a candidate of ``learner`` on ``parts``, on the device and in the dtype of their params.

    ``measured``: else an upper bound, which costs next to nothing to find.
    """
    on_cpu = parts[0].params.device.type == "cpu"
    by_kernel = on_cpu and not demand.second_order and has_kernel(learner)
    rule = _rule_floats(*learner.structure, demand, by_kernel) if measured else _bound(learner, by_kernel)
    return [_bytes_on(rule, part, demand) for part in parts]


def _bytes_on(rule: _Floats, part: PreparedTasks, demand: Demand) -> PartBytes:
    size, width = part.tasks.layout.size, part.params.element_size()
    task = _task_bytes(part, demand.second_order)
    # Late gradients: the queue, and while a step is made the next one and the gradient at its head.
    gradient = size * width
    queue = part.tasks.gradient_delay * gradient
    made = queue + gradient if queue else 0

    def of(floats: float) -> int:
        return int(floats * size * width)

    return PartBytes(
        n_tasks=part.tasks.n_tasks,
        carried=of(rule.carried) + queue,
        step=max(of(rule.step) + made, task.step),
        graph=of(rule.graph) + task.graph + (gradient if queue else 0),
        backward=max(of(rule.backward), task.backward),
        gradient=gradient,
    )


@dataclass(frozen=True)
class _Floats:
    """Of an update, the floats per coordinate, by the names of PartBytes."""

    carried: float
    step: float
    graph: float = 0.0
    backward: float = 0.0


def _bound(learner: Learner, by_kernel: bool) -> _Floats:
    """No less than :func:`_rule_floats`, told from the cost of an update.

    PyTorch keeps for a derivative at most what it writes. A kernel keeps its inputs, and going back it makes
    cotangents of what it is given and of what it found. There is some room for rows and losses.
    """
    carried = 1.01 * (state_floats_per_param(learner) + 2.0)
    if by_kernel:
        return _Floats(carried, carried, 1.25 * carried + 2.0, 2.5 * carried + 2.0)
    whole = carried + measure_cost(learner).floats_written_per_param
    return _Floats(carried, whole, whole, whole)


@lru_cache(maxsize=1024)
def _rule_floats(
    family: str,
    structural: tuple[tuple[str, Value], ...],
    demand: Demand,
    by_kernel: bool,
) -> _Floats:
    """An update of the learner of these structural genes, measured on the reference model."""
    generator = torch_generator(0, "memory")
    learner = Learner.of(family, dict(structural))
    params, scale = torch.randn((2, 1, _LAYOUT.size), generator=generator)
    weights = learner.init_weights(torch_generator(0, "memory", "weights"), params[0])
    candidate = Candidate("", family, dict(structural), weights)
    cohort = Cohort.of([candidate], torch.device("cpu"))
    with nullcontext() if by_kernel else native.disabled(), MemoryMeter() as meter:
        carry = begin(cohort, _LAYOUT, params, delay=0)
        losses, grads = _quadratic(carry.params, scale)
        carried = meter.live

        def step() -> UnrollState:
            return advance(cohort, _LAYOUT, carry, losses, grads, 100, overwrite=True)

        with torch.no_grad():
            found = _Floats(carried, _besides(meter, step)[0])
        if demand.graph and candidate.weights:
            graph, backward = _of_graph(meter, cohort, step(), scale, demand.second_order)
            found = replace(found, graph=graph, backward=backward)
    unit = 4.0 * _LAYOUT.size
    return _Floats(found.carried / unit, found.step / unit, found.graph / unit, found.backward / unit)


def _of_graph(
    meter: MemoryMeter, cohort: Cohort, carry: UnrollState, scale: Tensor, second_order: bool
) -> tuple[int, int]:
    """What a step leaves in a graph, and the most that is alive besides while it is made or gone through."""
    leaves = {name: value.clone().requires_grad_() for name, value in cohort.weights.items()}
    cohort = replace(cohort, weights=leaves)
    values: list[Tensor] = []
    besides, sizes = [], [meter.live]
    for _ in range(_STEADY):
        with torch.set_grad_enabled(second_order):
            losses, grads = _quadratic(carry.params, scale)
        step = partial(advance, cohort, _LAYOUT, carry, losses, grads, 100)
        peak, carry = _besides(meter, step)
        values.append((carry.params * grads).sum())
        besides.append(peak)
        sizes.append(meter.live)
    graph = sizes[-1] - sizes[-2]
    peak, _ = _besides(meter, lambda: torch.autograd.grad(torch.stack(values).sum(), list(leaves.values())))
    return graph, max(peak, besides[-1] - graph)


def _quadratic(params: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and gradients that stand for a task's and take next to nothing beside their own memory."""
    return params.detach().sum(dim=2), params * scale


def _besides(meter: MemoryMeter, make: Callable[[], _Made]) -> tuple[int, _Made]:
    """The most that is alive while ``make`` runs beyond what was alive before, and what it returns."""
    before = meter.peak = meter.live
    made = make()
    return meter.peak - before, made


@dataclass(frozen=True)
class _TaskBytes:
    """Of a task's gradient, the bytes by the names of PartBytes."""

    step: int
    graph: int = 0
    backward: int = 0


#: What :func:`_task_bytes` has measured.
_KNOWN: dict[Hashable, _TaskBytes] = {}


def _task_bytes(part: PreparedTasks, second_order: bool) -> _TaskBytes:
    """Measured on one of the tasks for one candidate, once for all tasks of the same shapes."""
    tasks = part.tasks
    shapes = [
        (name, value.shape[1:], value.dtype) for name, value in {**tasks.constants, **tasks.rows}.items()
    ]
    n_valid = 0 if tasks.valid_rows is None else tasks.valid_rows.shape[1]
    how = (part.params.dtype, part.params.device, tasks.loss_and_grad is not None, native.enabled())
    key = (
        tasks.family,
        tasks.description,
        tasks.layout,
        tasks.batch_size,
        n_valid,
        *shapes,
        *how,
        second_order,
    )
    if key not in _KNOWN:
        _KNOWN[key] = _of_gradient(part.of(slice(0, 1)), second_order)
    return _KNOWN[key]


def _of_gradient(part: PreparedTasks, second_order: bool) -> _TaskBytes:
    tasks, params = part.tasks, part.params.unsqueeze(0)
    rows = None if part.indices is None else part.indices[:, 0]

    def gradient() -> tuple[Tensor, Tensor]:
        return loss_and_grad(tasks, params, tasks.batch(rows))

    def judge() -> Tensor:
        return valid_losses(tasks, params)

    with native.disabled() if second_order else nullcontext(), MemoryMeter() as meter:
        with torch.no_grad():
            step, _ = _besides(meter, gradient)
            if tasks.valid_rows is not None:
                step = max(step, _besides(meter, judge)[0])
        if not second_order:
            return _TaskBytes(step)
        params = params.clone().requires_grad_()
        before = meter.live
        made, (losses, grads) = _besides(meter, gradient)
        graph = meter.live - before
        back, _ = _besides(meter, lambda: torch.autograd.grad([losses.sum(), grads.sum()], params))
    return _TaskBytes(step, graph, max(back, made - graph))
