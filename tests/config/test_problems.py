"""Every mistake is one line: file, key, what was given, what is allowed, the closest valid key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from evometa.config import load_config
from evometa.errors import ConfigError

DIGITS = '[[tasks]]\nuse = "digits"\n'
TOP_LEVEL = (
    "name, tasks, seed, description, evolution, genes, refinement, racing, objectives, final, execution, "
    "budget, baseline"
)


def problem(folder: Path, text: str, overrides: Sequence[str] = (), name: str | None = None) -> str:
    """The error for a file ``study.toml`` with this text, the folder cut off."""
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_config(path, overrides, name)
    line = str(raised.value)
    assert "\n" not in line
    return line.replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            DIGITS + "[final]\ntest_taks = 3",
            "study.toml: unknown key final.test_taks = 3; did you mean final.test_tasks?"
            " (allowed in final: n_tasks, test_tasks)",
        ),
        (
            "population = 64\n" + DIGITS,
            "study.toml: unknown key population = 64; did you mean evolution.population?"
            f" (allowed at the top level: {TOP_LEVEL})",
        ),
        (
            DIGITS + "[evolutoin]\npopulation = 64",
            "study.toml: unknown section evolutoin; did you mean evolution?"
            f" (allowed at the top level: {TOP_LEVEL})",
        ),
        (
            '[[tasks]]\nusee = "digits"',
            'study.toml: unknown key tasks.0.usee = "digits"; did you mean tasks.0.use?'
            " (allowed in tasks.0: use, n_tasks, horizon, options)",
        ),
        (
            DIGITS + "[refinement]\nzzz = 1",
            "study.toml: unknown key refinement.zzz = 1 (allowed in refinement: enabled, n_tasks, max_steps)",
        ),
        (
            "",
            "study.toml: tasks is missing:"
            ' it must be one or more [[tasks]] tables, each with use = "a task family"',
        ),
        (
            "[[tasks]]\nhorizon = 3",
            "study.toml: tasks.0.use is missing: it must be text in quotes, not empty",
        ),
        (
            DIGITS + '[evolution]\npopulation = "many"',
            'study.toml: evolution.population = "many": allowed is a whole number of at least 4',
        ),
        (
            DIGITS + "[evolution]\npopulation = 24.0",
            "study.toml: evolution.population = 24.0: allowed is a whole number of at least 4",
        ),
        (
            DIGITS + "[evolution]\npopulation = true",
            "study.toml: evolution.population = true: allowed is a whole number of at least 4",
        ),
        (
            DIGITS + "[evolution]\npopulation = 3",
            "study.toml: evolution.population = 3: allowed is a whole number of at least 4",
        ),
        (
            DIGITS + "[evolution]\nmutation_rate = 1.5",
            "study.toml: evolution.mutation_rate = 1.5: allowed is a number from 0 to 1",
        ),
        (
            DIGITS + "[evolution]\nmutation_rate = nan",
            "study.toml: evolution.mutation_rate = nan: allowed is a number from 0 to 1",
        ),
        (
            DIGITS + "[evolution]\nmutation_strength = 0",
            "study.toml: evolution.mutation_strength = 0: allowed is a number above 0 and at most 1",
        ),
        (
            DIGITS + "[evolution]\ntournament_size = 99",
            "study.toml: evolution.tournament_size = 99: allowed is a whole number from 1 to population = 24",
        ),
        (
            DIGITS + '[evolution]\nfamilies = "adam"',
            'study.toml: evolution.families = "adam": allowed is a list, each text in quotes, not empty',
        ),
        (
            DIGITS + '[evolution]\nfamilies = ["adam", ""]',
            'study.toml: evolution.families.1 = "": allowed is text in quotes, not empty',
        ),
        (
            DIGITS + '[evolution]\nfamilies = ["adam", "adam"]',
            'study.toml: evolution.families names "adam" twice: allowed is once',
        ),
        (
            DIGITS + "[objectives]\nuse = []",
            "study.toml: objectives.use = []:"
            " allowed is a list of 1 to 4 entries, each text in quotes, not empty",
        ),
        (
            DIGITS + "[refinement]\nenabled = 1",
            "study.toml: refinement.enabled = 1: allowed is true or false",
        ),
        (
            "refinement = true\n" + DIGITS,
            "study.toml: refinement = true: allowed is a table with the keys enabled, n_tasks, max_steps",
        ),
        (
            '[tasks]\nuse = "digits"',
            'study.toml: tasks = {"use": "digits"}:'
            ' allowed is one or more [[tasks]] tables, each with use = "a task family"',
        ),
        (
            DIGITS + '[execution]\ndevice = "gpu"',
            'study.toml: execution.device = "gpu": allowed is "auto", "cpu", "cuda", "cuda:N" or'
            ' "cuda:N,M,…"',
        ),
        (
            'name = "../up"\n' + DIGITS,
            'study.toml: name = "../up":'
            " allowed is at most 100 letters, digits, '.', '_' or '-', the first a letter or digit",
        ),
        (
            DIGITS + "[genes]\nlr = { low = 1e-3, hig = 1 }",
            "study.toml: unknown key genes.lr.hig = 1; did you mean genes.lr.high?"
            " (allowed in genes.lr: low, high, options, size, depth, averages)",
        ),
        (
            DIGITS + "options.dim = nan",
            "study.toml: tasks.0.options.dim = nan:"
            " allowed is a finite number, text, true, false, or a list or table of these",
        ),
        (
            DIGITS + "options.dim = " + 3000 * "[" + 3000 * "]",
            "study.toml: nested too deeply to be read; at most 64 levels are allowed",
        ),
        (
            DIGITS + "options.dim = " + 150 * "[" + 150 * "]",
            "study.toml: tasks is nested more than 64 levels deep; flatten it",
        ),
        (
            DIGITS + "genes" + 3000 * ".a" + " = 1",
            "study.toml: tasks is nested more than 64 levels deep; flatten it",
        ),
        (
            DIGITS + "seed = " + 5000 * "9",
            "study.toml: holds a whole number too long to be read; at most 2^1024 is allowed",
        ),
        (
            DIGITS + "options.dim = 0x" + 5000 * "f",
            "study.toml: tasks.0.options.dim is a whole number beyond 2^1024; give a smaller one",
        ),
        (
            DIGITS + '[genes]\nlr = { low = "tiny" }',
            'study.toml: genes.lr = {"low": "tiny"}: allowed is a value (finite number,'
            " text in quotes, true, false, list of texts),"
            " { low = NUMBER, high = NUMBER }, { options = LIST } or, of a formula, { size = NUMBER }",
        ),
        (
            DIGITS + '[genes]\n"meta.lr" = [0.1, 0.2]',
            "study.toml: genes.meta.lr = [0.1, 0.2]: allowed is a value (finite number,"
            " text in quotes, true, false, list of texts),"
            " { low = NUMBER, high = NUMBER }, { options = LIST } or, of a formula, { size = NUMBER }",
        ),
        (
            DIGITS + "[genes]\nlr = inf",
            "study.toml: genes.lr = inf: allowed is a value (finite number,"
            " text in quotes, true, false, list of texts),"
            " { low = NUMBER, high = NUMBER }, { options = LIST } or, of a formula, { size = NUMBER }",
        ),
        (
            DIGITS + "options.since = 2024-01-31",
            "study.toml: tasks.0.options.since = 2024-01-31:"
            " allowed is a finite number, text, true, false, or a list or table of these",
        ),
    ],
)
def test_the_line_for_a_mistake_in_the_file(tmp_path: Path, text: str, expected: str) -> None:
    assert problem(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "final.test_taks=3",
            "study.toml with --set final.test_taks=3: unknown key final.test_taks = 3;"
            " did you mean final.test_tasks? (allowed in final: n_tasks, test_tasks)",
        ),
        (
            "evolution.population=many",
            'study.toml with --set evolution.population=many: evolution.population = "many":'
            " allowed is a whole number of at least 4",
        ),
        (
            "evolution.tournament_size=30",
            "study.toml with --set evolution.tournament_size=30: evolution.tournament_size = 30:"
            " allowed is a whole number from 1 to population = 24",
        ),
        (
            "refinement=3",
            "study.toml with --set refinement=3: refinement = 3:"
            " allowed is a table with the keys enabled, n_tasks, max_steps",
        ),
        (
            "refinement.enabled.x=3",
            'study.toml with --set refinement.enabled.x=3: refinement.enabled = {"x": 3}:'
            " allowed is true or false",
        ),
        (
            "tasks.horizon=3",
            "study.toml with --set tasks.horizon=3: tasks is a list; name one of its entries (tasks.0)",
        ),
        (
            "tasks.1.horizon=3",
            "study.toml with --set tasks.1.horizon=3: tasks is a list; name one of its entries (tasks.0)",
        ),
        ("evolution", "--set evolution: write KEY=VALUE, as in --set evolution.population=64"),
        ("=64", "--set =64: write KEY=VALUE, as in --set evolution.population=64"),
        ("a b=64", "--set a b=64: write KEY=VALUE, as in --set evolution.population=64"),
    ],
)
def test_the_line_for_a_mistaken_override(tmp_path: Path, override: str, expected: str) -> None:
    assert problem(tmp_path, DIGITS, [override]) == expected


def test_a_mistake_in_the_file_is_not_blamed_on_an_override(tmp_path: Path) -> None:
    line = problem(tmp_path, DIGITS + "[evolution]\npopulation = 1", ["evolution.generations=2"])
    assert line.startswith("study.toml: evolution.population = 1:")


def test_a_bad_name_on_the_command_line_is_named_as_such(tmp_path: Path) -> None:
    assert problem(tmp_path, DIGITS, name="a b").startswith(
        'study.toml with --name a b: name = "a b": allowed'
    )


def test_long_values_are_cut(tmp_path: Path) -> None:
    line = problem(tmp_path, DIGITS + f'[evolution]\npopulation = "{"x" * 10_000}"')
    assert len(line) < 200
    assert line.endswith("…: allowed is a whole number of at least 4")


@pytest.mark.parametrize(
    ("text", "line"),
    [(DIGITS + "seed =", 3), (DIGITS + "seed = 1\nseed = 2", 4), ('\n\nname = "x', 3), ("[a\n", 1)],
)
def test_text_that_is_not_toml_is_reported_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    assert problem(tmp_path, text).startswith(f"study.toml:{line}: not valid TOML: ")


def test_a_missing_file_names_the_closest_one(tmp_path: Path) -> None:
    for name in ("quickstart.toml", "l2l.toml"):
        (tmp_path / name).write_text(DIGITS)
    with pytest.raises(ConfigError) as raised:
        load_config(tmp_path / "quikstart.toml")
    assert str(raised.value) == (
        f"{tmp_path}/quikstart.toml: no such file; did you mean {tmp_path}/quickstart.toml?"
        " (TOML files in that folder: l2l.toml, quickstart.toml)"
    )


def test_files_that_cannot_be_read_as_toml_text(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\x93NUMPY")
    with pytest.raises(ConfigError, match=r"binary\.toml: not text in UTF-8 \(byte 0\); give a TOML file$"):
        load_config(tmp_path / "binary.toml")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\); give a TOML file$"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match=r"nowhere/x\.toml: there is no folder '.*nowhere'$"):
        load_config(tmp_path / "nowhere" / "x.toml")
