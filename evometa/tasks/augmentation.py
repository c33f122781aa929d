"""Any family made harder: other units, other batch sizes, wrong labels, noisy or late gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from evometa.errors import unknown
from evometa.tasks.base import Split, TaskBatch, TaskFamily
from evometa.tasks.gradient_noise import with_gradient_noise
from evometa.tasks.options import check_choice, check_integer, check_integers, check_number, flaw, refuse
from evometa.tasks.rescaling import SHARED_BY, param_scales, rescaled

#: The option of every family that holds an :class:`Augmentation`.
OPTION = "augment"

#: The gradients on their way are part of a training's state.
MOST_DELAY = 100


@dataclass(frozen=True)
class Augmentation:
    """What is done to the tasks of a family; with nothing given, nothing.

    Attributes:
        batch_size: lowest and highest batch size, drawn log-uniformly for each batch of tasks; a task with
            fewer train rows uses all of them.
        label_noise: share of each task's train rows whose target is replaced, once and for all, by that of
            another of its rows, drawn at random (which may be equal). Held-out rows keep theirs.
        gradient_noise: standard deviation of normal noise that is added to every coordinate of the gradient,
            anew at every step. The loss's value stays as it was.
        gradient_delay: how many steps before the gradient was taken that a rule is given. The first steps are
            made with zeros.
        reparametrisation: what shares a random scale s: "task", "tensor" or "coordinate"; "none" for none.
            A rule sees parameters divided by s, and gradients (their noise included) multiplied by it.
        reparametrisation_range: scales are log-uniform between it and its inverse.
    """

    batch_size: tuple[int, int] | None = None
    label_noise: float = 0.0
    gradient_noise: float = 0.0
    gradient_delay: int = 0
    reparametrisation: str = "none"
    reparametrisation_range: float = 10.0

    @classmethod
    def of(cls, family: str, options: object) -> Augmentation:
        """From ``options`` as a TOML gives them; ``family`` is whose they are, for what TaskError says."""
        if not isinstance(options, Mapping):
            raise refuse(family, OPTION, options, "a table, such as { gradient_noise = 0.1 }")
        names = [field.name for field in fields(cls)]
        for name in options:
            if name not in names:
                raise flaw(family, unknown(f"option of {OPTION!r}:", str(name), names))
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in options.items()
        }
        made = cls(**given)
        made._check(family)
        return made

    def _check(self, family: str) -> None:
        if self.batch_size is not None:
            name = f"{OPTION}.batch_size"
            check_integers(family, name, self.batch_size, 1)
            if len(self.batch_size) != 2 or self.batch_size[0] > self.batch_size[1]:
                raise refuse(family, name, self.batch_size, "a pair of integers [low, high] with low <= high")
        for name, highest in (("label_noise", 1.0), ("gradient_noise", 1e6)):
            if getattr(self, name) != 0:
                check_number(family, f"{OPTION}.{name}", getattr(self, name), 0.0, highest)
        check_integer(family, f"{OPTION}.gradient_delay", self.gradient_delay, 0, MOST_DELAY)
        check_choice(family, f"{OPTION}.reparametrisation", self.reparametrisation, ("none", *SHARED_BY))
        check_number(family, f"{OPTION}.reparametrisation_range", self.reparametrisation_range, 1.0, 1e6)


@dataclass(frozen=True)
class Augmented(TaskFamily):
    """The tasks of ``family``, the same for the same generator, each with the augmentation."""

    family: TaskFamily
    augmentation: Augmentation

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.family.name

    @property
    def summary(self) -> str:  # type: ignore[override]
        return f"{self.family.summary}, augmented"

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """The family's batches, augmented. Raises TaskError where they lack what is to be changed."""
        batches = self.family.sample(split, n_tasks, generator)
        for step in self._steps():
            batches = [step(batch, generator) for batch in batches]
        return batches

    def _steps(self) -> list[Callable[[TaskBatch, torch.Generator], TaskBatch]]:
        """Those that are wanted, in order."""
        wanted = self.augmentation
        return [
            *([self._with_batch_size] if wanted.batch_size is not None else []),
            *([self._with_label_noise] if wanted.label_noise else []),
            *([self._with_gradient_noise] if wanted.gradient_noise else []),
            *([self._delayed] if wanted.gradient_delay else []),
            *([self._rescaled] if wanted.reparametrisation != "none" else []),
        ]

    def _with_batch_size(self, tasks: TaskBatch, generator: torch.Generator) -> TaskBatch:
        assert self.augmentation.batch_size is not None
        if tasks.train_rows is None:
            raise self._lacks("batch_size", "rows to draw minibatches from")
        low, high = (math.log(size) for size in self.augmentation.batch_size)
        drawn = round(math.exp(low + (high - low) * float(torch.rand((), generator=generator))))
        return replace(tasks, batch_size=min(drawn, tasks.train_rows.shape[1]))

    def _with_label_noise(self, tasks: TaskBatch, generator: torch.Generator) -> TaskBatch:
        if tasks.train_rows is None or "y" not in tasks.rows:
            raise self._lacks("label_noise", "rows with targets named 'y'")
        n_tasks, n_rows = tasks.train_rows.shape
        n_wrong = round(self.augmentation.label_noise * n_rows)
        if n_wrong == 0:
            return tasks
        wrong = torch.rand((n_tasks, n_rows), generator=generator).argsort(dim=1)[:, :n_wrong]
        donors = torch.randint(n_rows, (n_tasks, n_wrong), generator=generator)
        replaced = tasks.train_rows.gather(1, wrong).flatten()
        given = tasks.train_rows.gather(1, donors).flatten()
        # A row that is wrong in one task is right in another: each wrong one is a row of its own.
        added = {name: value[given if name == "y" else replaced] for name, value in tasks.rows.items()}
        first = len(tasks.rows["y"])
        numbers = torch.arange(first, first + n_tasks * n_wrong).reshape(n_tasks, n_wrong)
        return replace(
            tasks,
            description=f"{tasks.description}, label noise {self.augmentation.label_noise:g}",
            rows={name: torch.cat([value, added[name]]) for name, value in tasks.rows.items()},
            train_rows=tasks.train_rows.scatter(1, wrong, numbers),
        )

    def _with_gradient_noise(self, tasks: TaskBatch, generator: torch.Generator) -> TaskBatch:
        if tasks.n_draws:
            raise flaw(
                self.name, f"option '{OPTION}.gradient_noise' is not for tasks with draws of their own"
            )
        return with_gradient_noise(tasks, self.augmentation.gradient_noise)

    def _delayed(self, tasks: TaskBatch, generator: torch.Generator) -> TaskBatch:
        delay = self.augmentation.gradient_delay
        described = f"{tasks.description}, gradients {delay} steps late"
        return replace(tasks, description=described, gradient_delay=delay, for_kernels=None)

    def _rescaled(self, tasks: TaskBatch, generator: torch.Generator) -> TaskBatch:
        wanted = self.augmentation
        drawn = param_scales(wanted.reparametrisation, tasks, wanted.reparametrisation_range, generator)
        return rescaled(tasks, drawn, torch.ones(tasks.n_tasks))

    def _lacks(self, option: str, what: str) -> Exception:
        return flaw(self.name, f"option '{OPTION}.{option}' is for tasks that have {what}")
