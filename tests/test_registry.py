"""Members by name, by entry point and by import path; whatever is wrong is said in one line."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from evometa.errors import EvometaError, UnknownNameError
from evometa.registry import Registry


@pytest.fixture
def registry() -> Registry[str]:
    made: Registry[str] = Registry("colour")
    made.add("red", "#f00")
    made.add("green", "#0f0")
    return made


def test_members_keep_their_order(registry: Registry[str]) -> None:
    assert registry.names() == ["red", "green"]
    assert list(registry) == [("red", "#f00"), ("green", "#0f0")]
    assert "red" in registry
    assert "blue" not in registry


def test_a_name_is_taken_once(registry: Registry[str]) -> None:
    with pytest.raises(EvometaError, match="colour 'red' is registered twice"):
        registry.add("red", "#e00")


def test_an_unknown_name_is_answered_with_the_closest_and_the_known(registry: Registry[str]) -> None:
    with pytest.raises(
        UnknownNameError, match=r"^unknown colour 'gren'; did you mean 'green'\? .*green, red"
    ):
        registry["gren"]
    with pytest.raises(UnknownNameError, match=r"^unknown colour 'x' \(known: none\)$"):
        Registry[str]("colour")["x"]


def test_an_import_path_names_a_users_own_member(
    registry: Registry[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_colours.py").write_text("class Warm:\n    pink = '#fcc'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert registry["my_colours:Warm.pink"] == "#fcc"
    sys.modules.pop("my_colours")


@pytest.mark.parametrize(
    ("source", "path", "reason"),
    [
        ("", "user_code:absent", "AttributeError: .*absent"),
        ("raise ValueError('two\\nlines')", "user_code:x", "ValueError: two lines"),
        ("x = ", "user_code:x", "SyntaxError"),
        ("raise SystemExit('no licence')", "user_code:x", "SystemExit: no licence"),
        ("", "no_such_module_here:x", "ModuleNotFoundError"),
        ("", ":x", "ValueError"),
    ],
)
def test_user_code_that_fails_is_reported_in_one_line(
    registry: Registry[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    path: str,
    reason: str,
) -> None:
    (tmp_path / "user_code.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownNameError, match=f"colour: cannot load {path!r}: {reason}") as caught:
        registry[path]
    sys.modules.pop("user_code", None)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_entry_points_follow_the_built_in_members(monkeypatch: pytest.MonkeyPatch) -> None:
    points = EntryPoints(
        [EntryPoint("pi", "math:pi", "test.numbers"), EntryPoint("one", "math:e", "test.numbers")]
    )

    def entry_points(*, group: str) -> EntryPoints:
        return points.select(group=group)

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    numbers: Registry[float] = Registry("number", "test.numbers")
    numbers.add("one", 1.0)
    assert numbers.names() == ["one", "pi"]
    assert "pi" in numbers
    assert numbers["pi"] == pytest.approx(3.14159265)
    assert numbers["one"] == 1.0  # a plug-in cannot displace a built-in member
