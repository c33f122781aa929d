"""Training of a baseline on the engine's tasks: P learning rates × T tasks at once.

Losses, gradients, initial parameters and minibatches are those that :func:`evometa.inner.evaluate.evaluate`
trains genomes on, so the curves of a baseline and of a genome are paired, step by step. What differs is who
makes the step: the optimizer itself, through its parameter groups, one for each learning rate.

An element-wise optimizer has the parameters of all tasks ``(T, N)`` as one tensor. For others every tensor of
every task is a parameter of its own, as it would be in a training script. Both are views of one
``(P, T, N)``, which the engine takes gradients at.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from evometa.bench.baselines import Baseline, Part
from evometa.errors import BenchError
from evometa.inner.deadline import check_time
from evometa.inner.plan import cut
from evometa.inner.record import UnrollRecord, concatenate
from evometa.inner.task_set import PreparedTasks, TaskRequest, prepare
from evometa.inner.unroll import all_lost, loss_and_grad, record_of, valid_losses
from evometa.layout import Layout
from evometa.process import one_thread

#: Coordinates of all settings and tasks that are trained at once: with gradients and two moments 256 MB.
_MOST_COORDINATES = 2**24


@dataclass(frozen=True)
class BaselineRun:
    """What came of training a baseline at P learning rates on T tasks.

    Attributes:
        baseline: its name.
        rates: the P learning rates.
        record: losses ``(P, T, K + 1)`` and status, as of genomes. For Schedule-Free AdamW these are the
            losses at its average, what a user would keep at that step, on the minibatch of that step; its
            gradients are taken elsewhere.
        seconds: of wall-clock time for all P × T trainings, without drawing the tasks.
        optimizer_seconds: of these in the optimizers' ``step()`` and their schedulers'.
        state_bytes_per_param: what the optimizer keeps for each parameter of a model beside the parameter
            and its gradient, averaged over the models; single numbers, such as counts of steps, left out.
    """

    baseline: str
    rates: tuple[float, ...]
    record: UnrollRecord
    seconds: float
    optimizer_seconds: float
    state_bytes_per_param: float


def train(
    baseline: Baseline,
    rates: Sequence[float],
    wanted: TaskRequest,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> BaselineRun:
    """Train ``baseline`` at each of ``rates`` on the requested tasks, for ``wanted.n_steps - 1`` updates.

    Raises BenchError, one line, where a package is missing or where the baseline is not made for the tasks;
    ValueError where no update is asked for.
    """
    if wanted.n_steps < 2:
        raise ValueError(f"n_steps: a training has at least 2 minibatches, {wanted.n_steps} were asked for")
    baseline.check()
    prepared = prepare(wanted, device, dtype)
    for part in prepared:
        if not baseline.applies_to(part.tasks.layout):
            raise BenchError(
                f"baseline {baseline.name!r} is made for matrices, and {part.tasks.description} has none"
            )
    clock, started = _Clock(device), time.perf_counter()
    with one_thread(), torch.no_grad():
        trained = [_train(baseline, rates, part, wanted.n_steps - 1, clock) for part in prepared]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    n_params = sum(part.tasks.n_tasks * part.tasks.layout.size for part in prepared)
    return BaselineRun(
        baseline=baseline.name,
        rates=tuple(rates),
        record=concatenate([record for record, _ in trained]),
        seconds=seconds,
        optimizer_seconds=clock.seconds,
        state_bytes_per_param=sum(n_bytes for _, n_bytes in trained) / (len(rates) * n_params),
    )


class _Clock:
    """Seconds spent inside its blocks, added up: on a GPU by events in its queue, read when all is done.

    To wait for the GPU at every step would make the training slower.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_host = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if self._device.type == "cuda":
            begun = self._event()
            yield
            self._events.append((begun, self._event()))
        else:
            started = time.perf_counter()
            yield
            self._on_host += time.perf_counter() - started

    @property
    def seconds(self) -> float:
        """All of them."""
        in_queue: float = sum(begun.elapsed_time(ended) for begun, ended in self._events) / 1000
        return self._on_host + in_queue

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event


def _train(
    baseline: Baseline, rates: Sequence[float], part: PreparedTasks, horizon: int, clock: _Clock
) -> tuple[UnrollRecord, int]:
    """The record of all rates on tasks of one architecture, and the bytes that the optimizers kept."""
    tasks = part.tasks
    at_once = max(1, _MOST_COORDINATES // max(1, part.params.numel()))
    histories, held_out, state_bytes = [], [], 0
    for chunk in cut(len(rates), at_once):
        params = part.params.repeat(len(chunk), 1, 1)
        history = params.new_full((horizon + 1, len(chunk), tasks.n_tasks), torch.nan)
        on_the_way = [torch.zeros_like(params)] * tasks.gradient_delay
        optimizers = _Optimizers(baseline, [rates[i] for i in chunk], tasks.layout, params, horizon)
        for k in range(horizon + 1):
            check_time()
            batch = tasks.batch(None if part.indices is None else part.indices[:, k])
            losses, grads = loss_and_grad(tasks, params, batch)
            if baseline.averages:
                with optimizers.at_average():
                    losses = loss_and_grad(tasks, params, batch)[0]
            history[k] = losses
            if all_lost(history, k):
                break
            on_the_way.append(grads)
            if k < horizon:
                with clock():
                    optimizers.step(on_the_way.pop(0))
        with optimizers.at_average():
            held_out.append(valid_losses(tasks, params))
        histories.append(history)
        state_bytes += optimizers.state_bytes
    return record_of(tasks, torch.cat(histories, dim=1), torch.cat(held_out)), state_bytes


class _Optimizers:
    """A baseline's optimizers, one for each part, over ``params (P, T, N)``, which they edit in place."""

    def __init__(
        self, baseline: Baseline, rates: Sequence[float], layout: Layout, params: Tensor, horizon: int
    ) -> None:
        self._params = params
        self._grads = torch.zeros_like(params)
        self._averages = baseline.averages
        self._optimizers: list[Optimizer] = []
        for part in baseline.parts:
            groups = [
                {"params": list(_parameters(part, layout, own, grads)), "lr": rate}
                for rate, own, grads in zip(rates, params, self._grads, strict=True)
            ]
            if groups[0]["params"]:
                self._optimizers.append(part.optimizer(groups))
        self._schedulers = (
            [CosineAnnealingLR(optimizer, T_max=horizon) for optimizer in self._optimizers]
            if baseline.cosine
            else []
        )
        if self._averages:
            self._switch("train")

    def step(self, grads: Tensor) -> None:
        """One update of every run along ``grads`` (P, T, N)."""
        self._grads.copy_(grads)  # which every parameter has a view of; some optimizers write into it
        for optimizer in self._optimizers:
            optimizer.step()
        for scheduler in self._schedulers:
            scheduler.step()

    @contextmanager
    def at_average(self) -> Iterator[None]:
        """Inside, the params are what the optimizer would hand over, if that is another point."""
        if not self._averages:
            yield
            return
        kept = self._params.clone()
        self._switch("eval")
        yield
        self._switch("train")
        self._params.copy_(kept)  # there and back again is rounded: whoever looks must not disturb

    def _switch(self, mode: str) -> None:
        for optimizer in self._optimizers:
            getattr(optimizer, mode)()

    @property
    def state_bytes(self) -> int:
        """What they keep, without single numbers."""
        states = cast(
            "list[dict[str, Any]]",
            [state for optimizer in self._optimizers for state in optimizer.state.values()],
        )
        kept = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        return sum(value.nbytes for value in kept if value.dim())


def _parameters(part: Part, layout: Layout, params: Tensor, grads: Tensor) -> Iterator[nn.Parameter]:
    """What ``part`` trains of ``params`` (T, N), views with their share of ``grads`` as gradients."""
    segments = [segment for segment in layout.segments if part.trains(segment)]
    if not part.elementwise:
        for own, own_grads in zip(params, grads, strict=True):
            for segment in segments:
                shape = segment.shape
                yield _parameter(own[segment.slice].view(shape), own_grads[segment.slice].view(shape))
    elif part.share == "all":
        yield _parameter(params, grads)
    else:
        for segment in segments:
            yield _parameter(params[:, segment.slice], grads[:, segment.slice])


def _parameter(values: Tensor, grads: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(values)
    parameter.grad = grads
    return parameter
