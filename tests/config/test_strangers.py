"""Configurations of strangers: read, or refused in one line that no key or value can break."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strangers import HOSTILE, TARGETS, altered

from evometa.config import config_from_json, load_config
from evometa.config.loading import _CAMPAIGN
from evometa.errors import ConfigError

FEW = settings(max_examples=80)


def keys(schema: Any = _CAMPAIGN.schema) -> Iterator[str]:
    """Every key and section there is."""
    for part in (schema, *schema.get("$defs", {}).values()):
        yield from part.get("properties", {})


#: Values as TOML writes them.
values = st.sampled_from(
    [
        *(
            "0",
            "-1",
            "1e999",
            "nan",
            "-inf",
            "9" * 40,
            "9" * 5000,
            "0x7fffffffffffffff",
            "true",
            "1979-05-27",
        ),
        *("07:32:00", "''", "'adam'", "'os:abort'", "'../../x'", '"\\u0000"', '"\\u001b[2J"', '"a\\nb"'),
        *(
            "[]",
            "[[]]",
            "[1, 'a']",
            "['a', 'a']",
            "['a\\tb', 'a\\tb']",
            "{}",
            "{ low = 1 }",
            "{ options = [] }",
        ),
        *("[" * 200 + "]" * 200, "{a={a={a={a=1}}}}", '["' + "x" * 2000 + '"]', "'''\n'''", "['builtin']"),
    ]
)
names = st.one_of(
    st.sampled_from(
        [*sorted(set(keys())), "lr", "hidden", "meta.steps", "cell", "schedule", "low", "options"]
    ),
    st.sampled_from(['"a\\nb"', '"\\u202e"', '""', "a.b.c.d", '"' + "k" * 3000 + '"', '"\\u001b"']),
)
lines = st.one_of(
    st.builds("{} = {}".format, names, values),
    st.builds("[{}]".format, names),
    st.builds("[[{}]]".format, names),
    st.just('[[tasks]]\nuse = "quadratic"'),
)


@FEW
@given(document=st.lists(lines, max_size=8), begins=st.booleans())
def test_documents_of_our_keys_with_hostile_values(document: list[str], begins: bool) -> None:
    start = ['[[tasks]]\nuse = "quadratic"'] if begins else []
    TARGETS["toml"].read("\n".join([*start, *document]).encode())


@FEW
@given(key=names, value=values)
def test_overrides_of_our_keys_with_hostile_values(key: str, value: str) -> None:
    TARGETS["override"].read(f"{key}={value}".encode())


@FEW
@given(seed=st.integers(0, 2**32), n=st.integers(1, 3))
def test_stored_configurations_that_lie(seed: int, n: int) -> None:
    draw = Random(seed)
    (text,) = TARGETS["stored_config"].seeds()
    document: object = json.loads(text)
    for _ in range(n):
        document = altered(document, draw)
    TARGETS["stored_config"].read(json.dumps(document).encode())


@pytest.mark.parametrize("value", HOSTILE)
def test_any_value_for_the_whole_of_a_stored_configuration(value: object) -> None:
    TARGETS["stored_config"].read(json.dumps(value).encode())


def test_half_a_character_in_a_stored_configuration() -> None:
    with pytest.raises(ConfigError, match=r"^stored configuration: cannot be read \(Invalid JSON: .*\)$"):
        config_from_json('{"name": "x", "description": "\\ud800"}')


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('"a\\nb" = 1', "unknown key a\\nb = 1"),
        ('"\\u001b[2J" = 1', "unknown key \\x1b[2J = 1"),
        (f"{'k' * 3000} = 1", f"unknown key {'k' * 59}… = 1"),
        ('description = "a\\nb"\nname = "a\\u202eb"', 'name = "a\\u202eb": allowed is at most 100 letters'),
        ('[evolution]\nfamilies = ["a\\nb", "a\\nb"]', 'families names "a\\nb" twice'),
    ],
)
def test_what_would_move_the_cursor_is_written_as_an_escape(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(f'{line}\n[[tasks]]\nuse = "quadratic"\n', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()
