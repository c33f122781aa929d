"""What the exported optimizer refuses: options, states, gradients and losses that it cannot work with."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from evometa.errors import unknown
from evometa.export.shards import is_cut
from evometa.layout import Layout
from evometa.rules.learner import Learner
from evometa.trees import Tree

#: Options of a parameter group; the last two are those that torch and its schedulers put there.
GROUP_OPTIONS = ("params", "lr", "weight_decay", "maximize", "name", "initial_lr", "param_names")

#: Up to here a float64 tells every whole number from the next.
_MOST_STEPS = 2**53

#: A loss as users have it.
Loss = Tensor | float


def check_options(group: Mapping[str, object], defaults: Mapping[str, object]) -> None:
    """Raise ValueError for an option of a parameter group that is unknown or out of range."""
    for option in group:
        if option not in GROUP_OPTIONS:
            raise ValueError(unknown("optimizer option", option, GROUP_OPTIONS))
    for option, words in (("lr", "learning rate"), ("weight_decay", "weight_decay value")):
        value = group.get(option, defaults[option])
        if not _is_number(value) or not 0.0 <= float(value) < float("inf"):  # type: ignore[arg-type]
            raise ValueError(f"Invalid {words}: {value!r}, expected a finite number from 0")
    maximize = group.get("maximize", defaults["maximize"])
    if not isinstance(maximize, bool):
        raise ValueError(f"Invalid maximize: {maximize!r}, expected True or False")


def is_horizon(horizon: object) -> bool:
    """Whether ``horizon`` is a whole number of steps from 1 that schedules can count with."""
    return isinstance(horizon, int) and not isinstance(horizon, bool) and 1 <= horizon <= _MOST_STEPS


def check_horizon(horizon: object) -> None:
    """Raise ValueError unless ``horizon`` is a number of steps."""
    if not is_horizon(horizon):
        raise ValueError(f"Invalid horizon: {reprlib.repr(horizon)}, expected a whole number of steps from 1")


def check_state(given: object, expected: Tree, of: str) -> None:
    """Raise ValueError unless ``given`` has the names and shapes of ``expected``, the state of ``of``."""
    if not isinstance(given, dict) or given.keys() != expected.keys():
        names = sorted(map(str, given)) if isinstance(given, dict) else type(given).__name__
        raise ValueError(f"loaded state of {of} holds {names}, this optimizer keeps {sorted(expected)}")
    for name, value in expected.items():
        if not isinstance(given[name], Tensor) or given[name].shape != value.shape:
            shape = list(getattr(given[name], "shape", ()))
            raise ValueError(
                f"loaded state {name!r} of {of} has shape {shape}, this optimizer keeps {list(value.shape)}"
            )


def check_parameter(parameter: Tensor, learner: Learner) -> None:
    """Raise ValueError for a parameter that the rule of ``learner`` cannot step."""
    if parameter.is_complex():
        raise ValueError(
            f"a parameter is {parameter.dtype}, but evolved rules update real numbers only; "
            "pass torch.view_as_real of it"
        )
    if is_cut(parameter) and not learner.elementwise:
        raise ValueError(
            f"a parameter of shape {tuple(parameter.shape)} is cut into shards, but this {learner.family!r} "
            "genome takes statistics over whole tensors; replicate its parameters, as DDP does"
        )


def check_model(parameters: Sequence[Tensor], learner: Learner, model: Layout, *, complete: bool) -> None:
    """Raise ValueError unless ``parameters`` are, in order, those of ``model``, or begin it.

    A learned initialisation is for one model, and ``model`` says which.
    """
    shapes, expected = [tuple(p.shape) for p in parameters], [s.shape for s in model.segments]
    for number, (shape, wanted) in enumerate(zip(shapes, expected, strict=False)):
        if shape != wanted:
            raise ValueError(
                f"parameter {number} has shape {shape}, but the learned initialisation of this "
                f"{learner.family!r} genome is for a model whose tensor {number} has shape {wanted}"
            )
    if len(shapes) > len(expected) or (complete and len(shapes) < len(expected)):
        raise ValueError(
            f"there are {len(shapes)} parameters, but the learned initialisation of this "
            f"{learner.family!r} genome is for a model of {len(expected)}; give all of them, in its order"
        )
    if any(map(is_cut, parameters)):
        raise ValueError("a parameter is cut into shards, but a learned initialisation is for whole tensors")


def has_gradient(parameter: Tensor) -> bool:
    """Whether a step moves ``parameter``; raises RuntimeError for a sparse gradient."""
    if parameter.grad is None or not parameter.numel():
        return False
    if parameter.grad.layout != torch.strided:
        raise RuntimeError(
            "evolved optimizers do not support sparse gradients: a rule sees whole tensors; "
            "use sparse=False in the embedding"
        )
    return True


def as_loss(loss: Loss | None) -> Tensor | None:
    """The loss as a (1,) tensor of its own, cut from any graph; raises ValueError unless it is one number."""
    if loss is None:
        return None
    value = (
        loss.detach().clone() if isinstance(loss, Tensor) else torch.tensor(float(loss), dtype=torch.float64)
    )
    if value.numel() != 1:
        raise ValueError(f"loss has shape {tuple(value.shape)}, expected a single number; reduce it first")
    return value.reshape(1)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
