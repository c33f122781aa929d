"""The registered task families, and how a configuration names one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from evometa.errors import EvometaError, TaskError, unknown
from evometa.registry import Registry
from evometa.tasks.augmentation import OPTION, Augmentation, Augmented
from evometa.tasks.base import TaskFamily
from evometa.tasks.control import Control
from evometa.tasks.conv import Conv
from evometa.tasks.denoising import Denoising
from evometa.tasks.digits import Digits
from evometa.tasks.few_shot_digits import FewShotDigits
from evometa.tasks.few_shot_glyphs import FewShotGlyphs
from evometa.tasks.linear_models import LinearModels
from evometa.tasks.metric import Metric
from evometa.tasks.model_selection import ModelSelection
from evometa.tasks.neural_fields import NeuralFields
from evometa.tasks.options import described
from evometa.tasks.patch_transformer import PatchTransformerTasks
from evometa.tasks.physics_informed import PhysicsInformed
from evometa.tasks.quadratic import Quadratic
from evometa.tasks.rastrigin import Rastrigin
from evometa.tasks.rosenbrock import Rosenbrock
from evometa.tasks.sinusoid import Sinusoid
from evometa.tasks.sparse_recovery import SparseRecovery
from evometa.tasks.tabular import Tabular
from evometa.tasks.text import Text

#: What makes a family from its options: a TaskFamily class, or any function that returns a family.
Factory = Callable[..., TaskFamily]

TASKS: Registry[Factory] = Registry("task family", "evometa.tasks")
for _family in (
    Digits,
    Tabular,
    Quadratic,
    Rosenbrock,
    NeuralFields,
    Rastrigin,
    LinearModels,
    SparseRecovery,
    Conv,
    PhysicsInformed,
    Sinusoid,
    ModelSelection,
    PatchTransformerTasks,
    Denoising,
    Control,
    FewShotGlyphs,
    FewShotDigits,
    Text,
):
    TASKS.add(_family.name, _family)


def build_family(use: str, options: Mapping[str, object]) -> TaskFamily:
    """The family that ``use`` names, with ``options`` as a TOML gives them (lists become tuples).

    ``use`` is a registered name, an entry point of the group ``evometa.tasks``, or ``pkg.module:attribute``,
    where the attribute is a TaskFamily or something callable that returns one. Every family has the option
    ``augment``, see :class:`~evometa.tasks.augmentation.Augmentation`.

    Raises UnknownNameError when nothing has that name or it cannot be imported, TaskError when an option is
    unknown or not permitted.
    """
    if OPTION not in options:
        return _plain_family(use, options)
    own = {name: value for name, value in options.items() if name != OPTION}
    family = _plain_family(use, own)
    return Augmented(family, Augmentation.of(family.name, options[OPTION]))


def _plain_family(use: str, options: Mapping[str, object]) -> TaskFamily:
    target: object = TASKS[use]
    if isinstance(target, TaskFamily):
        if options:
            raise TaskError(
                f"task family {use!r} is ready-made and takes no options; given: {', '.join(options)}"
            )
        return target
    if not callable(target):
        raise TaskError(
            f"task family {use!r} is neither a TaskFamily nor callable, but of type {type(target).__name__}"
        )
    _check_options(use, target, options)
    try:
        family = target(**{name: _tupled(value) for name, value in options.items()})
    except EvometaError:
        raise
    except (Exception, SystemExit) as error:  # user code may raise anything; the cause is named and chained
        raise TaskError(f"task family {use!r} raised {described(error)}") from error
    if not isinstance(family, TaskFamily):
        raise TaskError(f"task family {use!r} made a {type(family).__name__}, not a TaskFamily")
    return family


def metric_of(name: str) -> Metric | None:
    """The unit in which the family of that registered name tells its losses; None where it has none."""
    found: Metric | None = getattr(TASKS[name], "metric", None) if name in TASKS else None
    return found


def _check_options(use: str, factory: Callable[..., object], options: Mapping[str, object]) -> None:
    """Raise TaskError for an option that the factory does not take, or one that it needs and did not get."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError as error:
        raise TaskError(f"task family {use!r}: its options cannot be told ({error})") from error
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for option in options:
            if option not in {p.name for p in named}:
                raise TaskError(unknown(f"option of task family {use!r}:", option, [p.name for p in named]))
    missing = [p.name for p in named if p.default is p.empty and p.name not in options]
    if missing:
        raise TaskError(f"task family {use!r} needs the option {missing[0]!r}")


def _tupled(value: object) -> object:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value
