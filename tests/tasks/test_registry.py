from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evometa.errors import TaskError, UnknownNameError
from evometa.tasks import TASKS, build_family
from evometa.tasks.digits import Digits
from evometa.tasks.quadratic import Quadratic

USER_MODULE = """
from evometa.errors import TaskError
from evometa.tasks.quadratic import Quadratic

family = Quadratic(dim=3)
number = 7


def sized(dim: int, kind: str = "l2l") -> Quadratic:
    return Quadratic(kind=kind, dim=dim)


def anything(**options: object) -> Quadratic:
    return Quadratic(dim=len(options))


def listed(dims: tuple[int, ...]) -> Quadratic:
    assert isinstance(dims, tuple)
    return Quadratic(dim=dims[0])


def no_family() -> str:
    return "quadratic"


def raises() -> Quadratic:
    raise KeyError("lost")


def leaves() -> Quadratic:
    raise SystemExit("no licence")
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module beside the user's TOML, in the working directory but not on the path."""
    name = "evometa_user_tasks"
    (tmp_path / f"{name}.py").write_text(USER_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


def test_names_of_the_built_in_families() -> None:
    assert TASKS.names()[:4] == ["digits", "tabular", "quadratic", "rosenbrock"]
    assert all(factory.name == name for name, factory in TASKS)  # type: ignore[attr-defined]


def test_lists_become_tuples() -> None:
    family = build_family("digits", {"widths": [20, 30], "activations": ["relu"], "batch_size": 32})
    assert family == Digits(widths=(20, 30), activations=("relu",), batch_size=32)


def test_names_a_family_or_factory_in_the_working_directory(user_module: str) -> None:
    assert build_family(f"{user_module}:family", {}) == Quadratic(dim=3)
    assert build_family(f"{user_module}:sized", {"dim": 5}) == Quadratic(dim=5)
    assert build_family(f"{user_module}:anything", {"a": 1, "b": 2}) == Quadratic(dim=2)
    assert build_family(f"{user_module}:listed", {"dims": [4]}) == Quadratic(dim=4)


@pytest.mark.parametrize(
    ("attribute", "options", "text"),
    [
        ("family", {"dim": 3}, "ready-made and takes no options; given: dim"),
        ("number", {}, "is neither a TaskFamily nor callable, but of type int"),
        ("sized", {}, "needs the option 'dim'"),
        ("sized", {"dim": 3, "kinds": "l2l"}, "option .* 'kinds'; did you mean 'kind'"),
        ("sized", {"dim": -3}, "'dim' is -3"),
        ("no_family", {}, "made a str, not a TaskFamily"),
        ("raises", {}, "raised KeyError: 'lost'"),
        ("leaves", {}, "raised SystemExit: no licence"),
    ],
)
def test_refuses_what_makes_no_family(
    user_module: str, attribute: str, options: dict[str, object], text: str
) -> None:
    with pytest.raises(TaskError, match=text):
        build_family(f"{user_module}:{attribute}", options)


def test_refuses_a_callable_without_a_signature() -> None:
    with pytest.raises(TaskError, match="'builtins:dict': its options cannot be told"):
        build_family("builtins:dict", {"dim": 3})


def test_unknown_options_name_the_closest_one() -> None:
    with pytest.raises(TaskError, match=r"option of task family 'digits': 'width'; did you mean 'widths'"):
        build_family("digits", {"width": [20]})


def test_unknown_names_name_the_closest_one(user_module: str) -> None:
    with pytest.raises(UnknownNameError, match=r"task family 'digit'; did you mean 'digits'"):
        build_family("digit", {})
    with pytest.raises(UnknownNameError, match=r"cannot load 'evometa_user_tasks:famly': AttributeError"):
        build_family(f"{user_module}:famly", {})
    with pytest.raises(UnknownNameError, match=r"ModuleNotFoundError"):
        build_family("no_such_module:family", {})
