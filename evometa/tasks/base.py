"""Contract of task families: what is optimised at level 0.

Axes: T tasks of one batch, K inner steps, B rows of a minibatch, N coordinates of one task's model.
All tasks of a :class:`TaskBatch` share a :class:`~evometa.layout.Layout` (one architecture), so their
parameters are one ``(T, N)`` tensor; a family that varies the architecture returns several batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from evometa.layout import Layout
from evometa.native.tasks import PerceptronTasks
from evometa.tasks.metric import Metric

Split = Literal["meta_train", "meta_valid", "meta_test"]
SPLITS: tuple[Split, ...] = ("meta_train", "meta_valid", "meta_test")

#: What ``loss`` sees of one task at one step: named tensors without the task axis.
Batch = Mapping[str, Tensor]
#: ``loss(params (N,), batch of one task) → ()``, pure and traceable by torch.func.
Loss = Callable[[Tensor, Batch], Tensor]
#: ``init(generator) → (T, N)`` on the CPU.
Init = Callable[[torch.Generator], Tensor]
#: ``(params (P, T, N), batch (T, …)) → (losses (P, T), gradients (P, T, N))``: a faster equal of ``loss``.
LossAndGrad = Callable[[Tensor, Batch], tuple[Tensor, Tensor]]
#: ``(params (P, T, N), rows, indices (T, K, B)) → what native kernels train on``, or None where they cannot.
ForKernels = Callable[[Tensor, Mapping[str, Tensor], Tensor], PerceptronTasks | None]


@dataclass(frozen=True)
class TaskBatch:
    """T tasks of one architecture, with their data.

    Attributes:
        family: name of the family that made it.
        description: one line a person reads, e.g. ``"digits MLP 64-32-10 relu"``.
        n_tasks: T.
        layout: where each tensor of the model lies in the N coordinates.
        loss: loss of one task.
        init_params: draws ``(T, N)`` initial parameters from a CPU generator.
        constants: per-task tensors ``(T, …)`` that every batch contains (a quadratic's W and y).
        rows: data shared by the tasks, each ``(n_rows, …)``; a batch holds the drawn rows under that name.
        train_rows: ``(T, n)`` indices into ``rows`` that task t trains on; None for tasks without data.
        valid_rows: ``(T, m)`` indices held out inside each task, disjoint from ``train_rows``; None without.
        batch_size: rows per inner step; at most n.
        n_draws: whole random numbers in [0, 2³¹) that come with every minibatch, as ``draws``
            ``(T, n_draws)``; like the rows they are the same for all candidates. Held-out rows come without.
        gradient_delay: how many steps before the gradient was taken that a rule is given; kernels that take
            many steps at a time do not know of it.
        noise_floor: losses below it are equal for every purpose of comparison.
        final_window: how many of the last recorded losses are averaged into "the final loss":
            1 where the loss is exact, about 10 where it is a minibatch's.
        loss_and_grad: hand-batched equal of ``loss``, or None for ``vmap(grad)``.
        for_kernels: describes the tasks to kernels that take many steps at a time; None where none can.
        valid_loss: what is measured on the held-out rows where that is not ``loss``: the error of a solution
            where training sees the residual of its equation.
    """

    family: str
    description: str
    n_tasks: int
    layout: Layout
    loss: Loss
    init_params: Init
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    train_rows: Tensor | None = None
    valid_rows: Tensor | None = None
    batch_size: int = 0
    n_draws: int = 0
    gradient_delay: int = 0
    noise_floor: float = 1e-8
    final_window: int = 1
    loss_and_grad: LossAndGrad | None = None
    for_kernels: ForKernels | None = None
    valid_loss: Loss | None = None

    def index_stream(self, n_steps: int, generator: torch.Generator) -> Tensor | None:
        """Rows of each step's minibatch, ``(T, n_steps, B)``; every epoch is a fresh permutation.

        The ``n_draws`` of each step stand behind its rows. Returns None for tasks with neither. The stream is
        shared by all candidates (common random numbers).
        """
        rows = self._row_stream(n_steps, generator)
        if not self.n_draws:
            return rows
        draws = torch.randint(2**31, (self.n_tasks, n_steps, self.n_draws), generator=generator)
        return draws if rows is None else torch.cat([rows, draws.to(rows.device)], dim=-1)

    def _row_stream(self, n_steps: int, generator: torch.Generator) -> Tensor | None:
        if self.train_rows is None:
            return None
        n_tasks, n_rows = self.train_rows.shape
        wanted = n_steps * self.batch_size
        n_epochs = -(-wanted // n_rows)
        keys = torch.rand((n_tasks, n_epochs, n_rows), generator=generator)
        order = keys.argsort(dim=-1).reshape(n_tasks, n_epochs * n_rows)[:, :wanted]
        picked = self.train_rows.gather(1, order.to(self.train_rows.device))
        return picked.reshape(n_tasks, n_steps, self.batch_size)

    def batch(self, indices: Tensor | None) -> dict[str, Tensor]:
        """The tensors ``loss`` sees at a step, each with a leading task axis.

        ``indices`` is what :meth:`index_stream` has for the step: ``(T, B + n_draws)``, or None.
        """
        if indices is None or not self.n_draws:
            return self.batch_of(indices)
        n_rows = indices.shape[1] - self.n_draws
        return {**self.batch_of(indices[:, :n_rows]), "draws": indices[:, n_rows:]}

    def batch_of(self, rows: Tensor | None) -> dict[str, Tensor]:
        """The tensors ``loss`` sees of these rows ``(T, m)`` or, where it is None, without any; no draws."""
        if rows is None:
            return dict(self.constants)
        flat = rows.flatten()  # a third of the time of indexing by two axes
        drawn = {
            name: value.index_select(0, flat).reshape(*rows.shape, *value.shape[1:])
            for name, value in self.rows.items()
        }
        return {**self.constants, **drawn}

    def valid_batch(self) -> dict[str, Tensor] | None:
        """The held-out rows of each task as one batch; None where a task has none."""
        return None if self.valid_rows is None else self.batch_of(self.valid_rows)

    def of(self, tasks: slice) -> TaskBatch:
        """The batch of these tasks alone; data are shared with this one, not copied."""
        return replace(
            self,
            n_tasks=len(range(self.n_tasks)[tasks]),
            init_params=_InitOf(self.init_params, tasks),
            constants={name: value[tasks] for name, value in self.constants.items()},
            train_rows=None if self.train_rows is None else self.train_rows[tasks],
            valid_rows=None if self.valid_rows is None else self.valid_rows[tasks],
        )

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> TaskBatch:
        """The batch with its data on ``device``, floating tensors in ``dtype``."""

        return replace(
            self,
            constants={name: send(value, device, dtype) for name, value in self.constants.items()},
            rows={name: send(value, device, dtype) for name, value in self.rows.items()},
            train_rows=None if self.train_rows is None else send(self.train_rows, device, dtype),
            valid_rows=None if self.valid_rows is None else send(self.valid_rows, device, dtype),
        )


@dataclass(frozen=True)
class _InitOf:
    """Initial parameters of some tasks of a batch: those they have in the whole."""

    init: Init
    tasks: slice

    def __call__(self, generator: torch.Generator) -> Tensor:
        return self.init(generator)[self.tasks]


def send(value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """``value`` on ``device``, in ``dtype`` if it is floating; what tasks share without copies stays shared.

    A GPU fetches it from pinned memory while the host goes on.
    """
    if is_shared(value):
        return send(value[:1], device, dtype).expand_as(value)
    if value.is_floating_point():
        value = value.to(dtype)
    if device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


def is_shared(value: Tensor) -> bool:
    """Whether the entries of ``value`` along its first axis, the tasks', are one and the same memory."""
    return value.dim() > 0 and value.shape[0] > 1 and value.stride(0) == 0


class TaskFamily(ABC):
    """A distribution over tasks. Subclasses are frozen dataclasses whose fields are the options of a TOML.

    ``sample`` draws everything from the generator it is given, so equal generators give equal tasks; the
    three splits never share data rows, and differ in architecture where the family has one.

    Attributes:
        name, summary: what the family is called, and what it is in one line.
        metric: a unit in which its losses are told beside their own; None for most.
    """

    name: str
    summary: str
    metric: ClassVar[Metric | None] = None
    #: Which options hold a family that draws several models at one, as in ``"widths = [W]"``.
    one_model: ClassVar[str] = ""

    @abstractmethod
    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """``n_tasks`` tasks of ``split`` in one or more batches; raises TaskError when it cannot."""
