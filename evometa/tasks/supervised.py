"""The user's own task: an ordinary ``nn.Module``, a loss and data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from evometa.rng import torch_generator
from evometa.tasks.base import SPLITS, Split, TaskBatch, TaskFamily
from evometa.tasks.module_model import ModuleModel, Objective
from evometa.tasks.options import check_integer, check_number, check_request, flaw, refuse
from evometa.tasks.pools import POOL_SEED, Pool
from evometa.tasks.sampling import partition

Array = Tensor | npt.NDArray[np.generic]
Pair = tuple[Array, Array]


@dataclass(frozen=True, eq=False)
class Supervised(TaskFamily):
    """A family made by :func:`supervised`: tasks differ in initialisation and batches, splits in rows.

    Attributes:
        name: what records and plots call it.
        model: the module on flat parameters.
        pools: rows of each split.
        batch_size, noise_floor, final_window: see TaskBatch.
    """

    name: str
    model: ModuleModel
    pools: Mapping[Split, Pool]
    batch_size: int
    noise_floor: float
    final_window: int

    summary = "your own nn.Module, loss and data"

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """One batch of ``n_tasks`` tasks over all rows of ``split``; draws nothing from ``generator``."""
        check_request(self.name, split, n_tasks)
        pool = self.pools[split]
        rows = torch.arange(len(pool.x)).expand(n_tasks, -1)
        batch = TaskBatch(
            family=self.name,
            description=f"{self.name} {self.model.description}",
            n_tasks=n_tasks,
            layout=self.model.layout,
            loss=self.model.loss,
            init_params=partial(self.model.init_params, n_tasks),
            constants=self.model.constants(n_tasks),
            rows=pool.rows,
            train_rows=rows[:, : pool.n_train],
            valid_rows=rows[:, pool.n_train :] if pool.n_valid else None,
            batch_size=self.batch_size,
            noise_floor=self.noise_floor,
            final_window=self.final_window,
        )
        return [batch]


def supervised(
    *,
    name: str,
    model: Callable[[], nn.Module],
    loss: Objective,
    train: Pair,
    valid: Pair | None = None,
    batch_size: int = 64,
    meta_split: tuple[float, float, float] = (0.6, 0.2, 0.2),
    noise_floor: float = 1e-6,
    final_window: int = 10,
) -> Supervised:
    """A task family from ``model``, ``loss`` and data; everything is tried once here, on two small tasks.

    Args:
        name: what records and plots call the family.
        model: builds the module; called once for each task, so that each has an initialisation of its own
            (drawn from torch's global CPU generator, which is seeded for the call and restored after it).
            Frozen parameters and buffers keep the values of one build.
        loss: ``loss(outputs, targets) → ()``, positive, the mean over the rows.
        train: inputs and targets (n, …), NumPy arrays or tensors; the inner loop trains on them.
        valid: inputs and targets held out of the inner loop; None: no validation losses.
        batch_size: rows an inner step.
        meta_split: shares of the rows that meta_train, meta_valid and meta_test get, divided at random but
            alike in every process and campaign.
        noise_floor: losses below it count as equal.
        final_window: how many of the last minibatch losses are averaged into the final loss.

    Raises:
        TaskError: the data do not fit together or hold NaN; the module keeps training statistics, draws
            random numbers, has nothing to train, or changes its shapes from build to build; the loss is
            not one positive number; the code raises or cannot be vectorised by torch.func.
    """
    if not isinstance(name, str) or not name:
        raise refuse(str(name), "name", name, "a non-empty string")
    check_integer(name, "batch_size", batch_size, 1)
    check_integer(name, "final_window", final_window, 1)
    check_number(name, "noise_floor", noise_floor, 0.0, math.inf)
    _check_shares(name, meta_split)
    x, y = _checked_pair(name, "train", train)
    parts = partition(len(x), meta_split, torch_generator(POOL_SEED, "supervised", "train"))
    smallest = min(len(part) for part in parts)
    if batch_size > smallest:
        raise flaw(
            name,
            f"batch_size {batch_size} is larger than the smallest pool of train rows, "
            f"{smallest} (meta_split {meta_split} of {len(x)}); lower batch_size or change meta_split",
        )
    pools = _pools(name, (x, y), parts, valid, meta_split)
    made = ModuleModel.of(name, model, loss)
    first = pools["meta_train"]
    made.try_out(first.x[:batch_size], first.y[:batch_size], noise_floor)
    return Supervised(name, made, pools, batch_size, noise_floor, final_window)


def _pools(
    name: str,
    train: tuple[Tensor, Tensor],
    parts: Sequence[Tensor],
    valid: Pair | None,
    shares: Sequence[float],
) -> dict[Split, Pool]:
    x, y = train
    if valid is None:
        return {split: Pool(x[rows], y[rows], len(rows)) for split, rows in zip(SPLITS, parts, strict=True)}
    xv, yv = _checked_pair(name, "valid", valid)
    for what, ours, theirs in (("inputs", x, xv), ("targets", y, yv)):
        if ours.shape[1:] != theirs.shape[1:] or ours.dtype != theirs.dtype:
            raise flaw(
                name,
                f"valid {what} are {_rows_text(theirs)}, train {what} {_rows_text(ours)}; "
                "they must agree in shape and type",
            )
    held = partition(len(xv), shares, torch_generator(POOL_SEED, "supervised", "valid"))
    if min(len(part) for part in held) == 0:
        raise flaw(
            name,
            f"{len(xv)} valid rows leave a split without any (meta_split {tuple(shares)}); "
            "give more valid rows",
        )
    return {
        split: Pool(torch.cat([x[rows], xv[out]]), torch.cat([y[rows], yv[out]]), len(rows))
        for split, rows, out in zip(SPLITS, parts, held, strict=True)
    }


def _check_shares(name: str, shares: object) -> None:
    if (
        not isinstance(shares, tuple | list)
        or len(shares) != len(SPLITS)
        or not all(isinstance(share, int | float) and share > 0 for share in shares)
        or abs(sum(shares) - 1) > 1e-6
    ):
        raise refuse(
            name, "meta_split", shares, "three positive shares (meta_train, meta_valid, meta_test) with sum 1"
        )


def _checked_pair(name: str, argument: str, pair: object) -> tuple[Tensor, Tensor]:
    """Inputs and targets as tensors of equally many finite rows."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise flaw(name, f"{argument} must be a pair (inputs, targets), not {type(pair).__name__}")
    x, y = (
        _checked_tensor(name, f"{argument} {what}", v)
        for what, v in zip(("inputs", "targets"), pair, strict=True)
    )
    if len(x) != len(y):
        raise flaw(
            name, f"{argument} has {len(x)} rows of inputs and {len(y)} of targets; they must be equally many"
        )
    return x, y


def _checked_tensor(name: str, what: str, value: object) -> Tensor:
    """A copy on the CPU: floating values in float32, integers in int64, booleans as they are."""
    if not isinstance(value, Tensor | np.ndarray):
        raise flaw(name, f"{what} must be a NumPy array or a tensor, not {type(value).__name__}")
    try:
        tensor = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except TypeError as error:
        raise flaw(name, f"{what} must hold numbers ({error})") from error
    if tensor.dim() == 0 or tensor.is_complex():
        raise flaw(name, f"{what} must hold rows of real numbers, not {_rows_text(tensor)}")
    if tensor.is_floating_point():
        tensor = tensor.float()
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise flaw(name, f"{what} hold {bad} NaN or infinite values; remove or replace them")
    elif tensor.dtype != torch.bool:
        tensor = tensor.long()
    return tensor


def _rows_text(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
