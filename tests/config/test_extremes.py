"""Nesting and numbers beyond what Python's parsers take, in overrides and in stored configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from evometa.config import config_from_json, load_config
from evometa.errors import ConfigError

DIGITS = '[[tasks]]\nuse = "digits"\n'


@pytest.mark.parametrize("value", [3000 * "[" + 3000 * "]", 5000 * "9", 150 * "[" + 150 * "]"])
def test_an_extreme_value_of_an_override_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(DIGITS, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"seed( = .*: allowed is a whole number| is nested more than)"):
        load_config(path, [f"seed={value}"])


def test_an_extreme_key_of_an_override_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(DIGITS, encoding="utf-8")
    with pytest.raises(ConfigError, match="seed is nested more than 64 levels deep"):
        load_config(path, ["seed" + 3000 * ".a" + "=1"])


@pytest.mark.parametrize("text", [3000 * "[" + 3000 * "]", 5000 * "9"])
def test_extreme_stored_configurations_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^stored configuration: .*$"):
        config_from_json(text)
