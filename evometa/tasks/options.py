"""Checks of the families' options; each refusal names the option, what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from evometa.errors import TaskError
from evometa.tasks.base import SPLITS


def flaw(family: str, what: str) -> TaskError:
    """The error for whatever is wrong with the family named ``family``."""
    return TaskError(f"task family {family!r}: {what}")


def refuse(family: str, option: str, given: object, allowed: str) -> TaskError:
    """The error for an option that is not permitted."""
    return flaw(family, f"option {option!r} is {given!r}; allowed: {allowed}")


def described(error: BaseException) -> str:
    """Type and text of an error of user code, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def check_integer(family: str, option: str, value: object, low: int, high: int | None = None) -> None:
    """Raise TaskError unless ``value`` is an integer in [low, high]."""
    wanted = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    if not _is_integer(value, low, high):
        raise refuse(family, option, value, wanted)


def check_integers(family: str, option: str, values: object, low: int) -> None:
    """Raise TaskError unless ``values`` is a non-empty tuple of integers of at least ``low``."""
    if not isinstance(values, tuple) or not values or not all(_is_integer(v, low, None) for v in values):
        raise refuse(family, option, values, f"a non-empty list of integers of at least {low}")


def check_number(family: str, option: str, value: object, low: float, high: float) -> None:
    """Raise TaskError unless ``value`` is a number with low < value <= high, infinity excluded."""
    if not _is_number(value) or not low < value <= high or value == inf:  # type: ignore[operator]
        limited = f"a number above {low:g} and at most {high:g}"
        raise refuse(family, option, value, f"a finite number above {low:g}" if high == inf else limited)


def check_range(family: str, option: str, value: object) -> None:
    """Raise TaskError unless ``value`` is a pair of positive numbers (low, high) with low <= high."""
    if (
        not isinstance(value, tuple)
        or len(value) != 2
        or not all(_is_number(end) for end in value)
        or not 0 < value[0] <= value[1] < float("inf")
    ):
        raise refuse(family, option, value, "a pair of finite numbers [low, high] with 0 < low <= high")


def check_choice(family: str, option: str, value: object, allowed: Sequence[str]) -> None:
    """Raise TaskError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise refuse(family, option, value, "one of " + _quoted(allowed))


def check_choices(family: str, option: str, values: object, allowed: Sequence[str]) -> None:
    """Raise TaskError unless ``values`` is a non-empty tuple of ``allowed`` names."""
    if not isinstance(values, tuple) or not values or not all(value in allowed for value in values):
        raise refuse(family, option, values, "a non-empty list out of " + _quoted(allowed))


def check_request(family: str, split: object, n_tasks: object) -> None:
    """Raise TaskError unless ``split`` is a split of tasks and ``n_tasks`` a positive integer."""
    check_choice(family, "split", split, SPLITS)
    check_integer(family, "n_tasks", n_tasks, 1)


def _is_integer(value: object, low: int, high: int | None) -> bool:
    integer = isinstance(value, int) and not isinstance(value, bool)
    return integer and low <= value and (high is None or value <= high)  # type: ignore[operator]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
