"""A family of tasks that go wrong as its options say; a configuration names it ``faulty_tasks:Faulty``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from evometa.layout import Layout
from evometa.tasks import Split, TaskBatch, TaskFamily
from evometa.tasks.base import Batch, LossAndGrad

N_ROWS = 40
LAYOUT = Layout.of({"w": (3,)})


def squared_error(params: Tensor, batch: Batch) -> Tensor:
    """Of a linear model without bias."""
    return (batch["x"] @ params - batch["y"]).square().mean() + 0.1


def cross_entropy(params: Tensor, batch: Batch) -> Tensor:
    """Of two classes."""
    scores = batch["x"] * params
    return F.cross_entropy(scores[:, :2], batch["label"])


def sound(n_tasks: int, generator: torch.Generator) -> TaskBatch:
    """Linear regressions of 40 rows, 30 of them to train on, in batches of 4."""
    data = torch.Generator().manual_seed(0)
    x = torch.randn((N_ROWS, 3), generator=data)
    y = x.sum(1) + 0.1 * torch.randn(N_ROWS, generator=data)
    rows = torch.arange(N_ROWS).expand(n_tasks, -1)
    return TaskBatch(
        family="faulty",
        description="linear 3-1",
        n_tasks=n_tasks,
        layout=LAYOUT,
        loss=squared_error,
        init_params=lambda generator: torch.randn((n_tasks, 3), generator=generator),
        constants={"number": torch.arange(n_tasks)},
        rows={"x": x, "y": y},
        train_rows=rows[:, :30],
        valid_rows=rows[:, 30:],
        batch_size=4,
    )


def _raising(text: str) -> Callable[..., Tensor]:
    def loss(params: Tensor, batch: Batch) -> Tensor:
        raise ValueError(text)

    return loss


def _where(broken: Callable[[Batch], Tensor], text: str) -> LossAndGrad:
    """The gradient, which raises on batches that are ``broken``."""

    def loss_and_grad(params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        if bool(broken(batch).any()):
            raise ValueError(text)
        residual = torch.einsum("tbi,pti->ptb", batch["x"], params) - batch["y"]
        grads = torch.einsum("ptb,tbi->pti", residual, batch["x"]) * (2 / residual.shape[-1])
        return residual.square().mean(-1) + 0.1, grads

    return loss_and_grad


class _Ticking(TaskBatch):
    """Row k is that of step k."""

    def index_stream(self, n_steps: int, generator: torch.Generator) -> Tensor:
        return torch.arange(n_steps).reshape(1, -1, 1).expand(self.n_tasks, -1, -1)


def _on_the_50th_step(batch: TaskBatch) -> TaskBatch:
    fields = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    many = {name: value.repeat(10, *[1] * (value.dim() - 1)) for name, value in batch.rows.items()}
    many["step"] = torch.arange(10 * N_ROWS)
    last = _where(lambda drawn: drawn["step"] == 49, "the stream has ended")
    return _Ticking(**{**fields, "rows": many, "batch_size": 1, "loss_and_grad": last})


def _changed_row(batch: TaskBatch, name: str, value: float) -> TaskBatch:
    changed = batch.rows[name].clone()
    changed[7] = value
    return replace(batch, rows={**batch.rows, name: changed})


def _classes(batch: TaskBatch, worst: int) -> TaskBatch:
    labels = torch.arange(N_ROWS) % 2
    labels[7] = worst
    return replace(batch, rows={"x": batch.rows["x"], "label": labels}, loss=cross_entropy)


#: Fault → what becomes of a sound batch.
FAULTS: Mapping[str, Callable[[TaskBatch], TaskBatch]] = {
    "": lambda batch: batch,
    "raises in the loss": lambda batch: replace(batch, loss=_raising("the sensor\nis off")),
    "raises on the 50th step": _on_the_50th_step,
    "raises in its second task": lambda batch: replace(
        batch, loss_and_grad=_where(lambda drawn: drawn["number"] == 1, "the sensor is off")
    ),
    "is hard to start in its second task": lambda batch: replace(
        batch,
        constants={"far": torch.where(torch.arange(batch.n_tasks) == 1, torch.inf, 0.0)},
        loss=lambda params, drawn: squared_error(params, drawn) + drawn["far"],
    ),
    "has NaN in a row": lambda batch: _changed_row(batch, "x", torch.nan),
    "has an infinite target": lambda batch: _changed_row(batch, "y", torch.inf),
    "has float64 rows": lambda batch: replace(
        batch, rows={name: value.double() for name, value in batch.rows.items()}
    ),
    "has int64 inputs": lambda batch: replace(batch, rows={**batch.rows, "x": batch.rows["x"].long()}),
    "has int32 row numbers": lambda batch: replace(batch, train_rows=batch.train_rows.int()),  # type: ignore[union-attr]
    "has a label out of range": lambda batch: _classes(batch, 5),
    "has labels in range": lambda batch: _classes(batch, 1),
    "has a column too many": lambda batch: replace(
        batch, rows={**batch.rows, "x": F.pad(batch.rows["x"], (0, 1))}
    ),
    "has a row number too high": lambda batch: replace(batch, train_rows=batch.train_rows + 35),  # type: ignore[operator]
    "has fewer rows than its batches": lambda batch: replace(
        batch,
        train_rows=batch.train_rows[:, :3],  # type: ignore[index]
    ),
    "has a loss for each row": lambda batch: replace(
        batch, loss=lambda params, drawn: (drawn["x"] @ params - drawn["y"]).square() + 0.1
    ),
    "has params of another shape": lambda batch: replace(
        batch, init_params=lambda generator: torch.randn((batch.n_tasks, 4), generator=generator)
    ),
    "has NaN params": lambda batch: replace(
        batch, init_params=lambda generator: torch.full((batch.n_tasks, 3), torch.nan)
    ),
    "has a task too few": lambda batch: batch.of(slice(1, None)),
}


@dataclass(frozen=True)
class Faulty(TaskFamily):
    """Linear regressions with a fault.

    Attributes:
        fault: one of ``FAULTS``, "raises when made" or "raises when drawn".
        split: which it strikes; "" for all.
        n_tasks: it strikes where so many are asked for; 0 for any number.
    """

    fault: str = ""
    split: str = ""
    n_tasks: int = 0

    name = "faulty"
    summary = "linear regressions with a fault"

    def __post_init__(self) -> None:
        if self.fault == "raises when made":
            raise OSError("no such disk")

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        batch = sound(n_tasks, generator)
        if self.split not in ("", split) or self.n_tasks not in (0, n_tasks):
            return [batch]
        if self.fault == "raises when drawn":
            raise FileNotFoundError("the data\nis away")
        return [FAULTS[self.fault](batch)]
