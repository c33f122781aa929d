"""Data with NaN or infinite values, found before a campaign begins: late in it all runs would diverge."""

from __future__ import annotations

import torch
from torch import Tensor

from evometa.errors import TaskError
from evometa.inner.task_set import PreparedTasks, TaskRequest, prepare
from evometa.inner.unroll import loss_and_grad
from evometa.tasks.options import described


@torch.no_grad()
def refuse_bad_rows(wanted: TaskRequest, device: torch.device) -> None:
    """Raise TaskError where rows that a task of ``wanted`` uses are not finite, and so its loss on them.

    A loss that knows what to do with such values, as where they mark missing ones, is let be.
    """
    for part in prepare(wanted, device):
        broken = _broken(part)
        for rows in (part.tasks.train_rows, part.tasks.valid_rows):
            bad = rows[0][broken[rows[0]]] if rows is not None and broken is not None else torch.empty(0)
            if len(bad) and not bool(torch.isfinite(loss := _loss_on(part, bad[0], wanted))):
                raise TaskError(
                    f"task family {wanted.use!r} ({wanted.split}): {len(bad)} of {rows.shape[1]} rows hold "  # type: ignore[union-attr]
                    f"NaN or infinite values, such as row {int(bad[0])}, and the loss on them is "
                    f"{float(loss)}; remove or replace them"
                )


def _broken(part: PreparedTasks) -> Tensor | None:
    """Which rows are not finite, ``(n_rows,)``; None where all are."""
    found: Tensor | None = None
    for value in part.tasks.rows.values():
        if value.is_floating_point():
            own = ~torch.isfinite(value.reshape(len(value), -1)).all(dim=1)
            found = own if found is None else found | own
    return found if found is not None and bool(found.any()) else None


def _loss_on(part: PreparedTasks, row: Tensor, wanted: TaskRequest) -> Tensor:
    """The first task's loss () on a minibatch of one row again and again."""
    tasks = part.tasks.of(slice(0, 1))
    batch = tasks.batch_of(row.expand(1, tasks.batch_size))
    try:
        losses, _ = loss_and_grad(tasks, part.params[:1].unsqueeze(0), batch)
    except Exception as error:  # user code may raise anything; the cause is named and chained
        what = f"task family {wanted.use!r} ({wanted.split}): the loss on row {int(row)}, which holds NaN or"
        raise TaskError(f"{what} infinite values, raised {described(error)}") from error
    return losses[0, 0]
