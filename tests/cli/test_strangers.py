"""A stranger's campaign is data: looking at it runs no code that it names, and its rows break nothing."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evometa.store.schema import SCHEMA

#: Every way to look at a campaign; GENOME stands for the id of one.
READS = (
    "list",
    "status tiny",
    "show tiny",
    "show tiny GENOME",
    "pareto tiny",
    "doctor tiny",
    "export tiny --knee --out x.safetensors",
    "export tiny --genome GENOME --out x.safetensors",
    "plot tiny --out figures",
    "compare tiny --knee --with sgd --tasks 2 --points 2",
)
PAYLOAD = """
from pathlib import Path
Path("ran").touch()
from evometa.objectives import quality
from evometa.tasks import build_family

def objective(outcomes):
    "of a stranger"
    return 0.0

def family(**options):
    return build_family("quadratic", {"dim": 3})
"""
#: Where a database names code: SQL, with what that name is of.
PLACES = {
    "tasks": "UPDATE campaign SET config = json_set(config, '$.tasks[0].use', 'payload:family')",
    "objectives": "UPDATE campaign SET config = json_set(config, '$.objectives.use[1]', 'payload:objective')",
    "families": "UPDATE campaign SET config = json_set(config, '$.evolution.families[0]', 'payload:rule')",
    "genomes": "UPDATE genomes SET family = 'payload:rule'",
}


@pytest.fixture
def genome(finished) -> str:
    with closing(sqlite3.connect(finished.database)) as connection:
        (found,) = connection.execute("SELECT genome_id FROM candidates WHERE in_front LIMIT 1").fetchone()
    return str(found)


@pytest.fixture
def altered(finished, fresh_storage: Path) -> Callable[..., Path]:
    """A copy of the tiny campaign after some SQL; its storage."""

    def make(*statements: str) -> Path:
        target = fresh_storage / "tiny"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(finished.database.parent, target)
        for statement in statements:
            with closing(sqlite3.connect(target / "campaign.db", isolation_level=None)) as connection:
                connection.execute("PRAGMA writable_schema = ON")
                connection.execute(statement)
        return fresh_storage

    return make


@pytest.fixture
def payload(tmp_path: Path) -> Iterator[Path]:
    """A module beside which commands are given; the file it makes when it is imported."""
    (tmp_path / "payload.py").write_text(PAYLOAD, encoding="utf-8")
    before = list(sys.path)
    yield tmp_path / "ran"
    sys.path[:] = before
    sys.modules.pop("payload", None)


@pytest.mark.parametrize("place", PLACES)
def test_looking_at_a_campaign_imports_nothing_that_it_names(
    place: str, evometa, altered, payload: Path, genome: str
) -> None:
    storage = altered(PLACES[place])
    refused = []
    for line in READS:
        done = evometa(*line.replace("GENOME", genome).split(), "--storage", storage)
        assert not payload.exists(), line
        if "--allow-code" in done.err:
            assert done.code == 2
            assert len(done.err.splitlines()) == 1
            assert "'payload:" in done.err
            refused.append(line.split()[0])
    expected = {
        "tasks": {"plot", "compare"},
        "objectives": {"show", "pareto", "export", "plot", "compare"},
        "families": set(),
        "genomes": {"show", "pareto", "export", "plot", "compare"},
    }
    assert set(refused) == expected[place]


def test_a_user_may_allow_it(evometa, altered, payload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = altered(PLACES["objectives"])
    assert evometa("pareto", "tiny", "--storage", storage).code == 2
    done = evometa("pareto", "tiny", "--storage", storage, "--allow-code")
    assert (done.code, done.err) == (0, "")
    assert payload.exists()
    monkeypatch.setenv("EVOMETA_ALLOW_CODE", "1")
    assert evometa("pareto", "tiny", "--storage", storage).code == 0


@pytest.mark.parametrize("place", ["tasks", "objectives", "families"])
def test_a_stored_configuration_that_names_code_is_not_run_without_the_users_own(
    place: str, evometa, altered, payload: Path
) -> None:
    storage = altered(PLACES[place], "UPDATE campaign SET finished = 0")
    done = evometa("run", "--resume", "--name", "tiny", "--storage", storage)
    assert done.code == 2
    assert "names code ('payload:" in done.err
    assert "give the experiment's TOML file" in done.err
    assert not payload.exists()


def test_a_genome_does_not_bring_code_into_the_users_own_campaign(
    evometa, finished, altered, payload: Path
) -> None:
    storage = altered(PLACES["genomes"])
    again = ["run", finished.experiment, "--resume", "--storage", storage]
    for words in (again, [*again, "--set", "evolution.generations=5"]):
        done = evometa(*words)
        assert done.code == 2
        assert "'payload:rule', which is code that evolution.families does not name" in done.err
    assert "is of the family 'payload:rule'" in evometa("doctor", "tiny", "--storage", storage).out
    assert evometa("doctor", "tiny", "--repair", "--storage", storage).code == 0
    assert evometa(*again).code == 0
    assert not payload.exists()


def test_a_baseline_does_not_bring_code_into_the_users_own_campaign(
    evometa, finished, altered, payload: Path
) -> None:
    storage = altered("UPDATE baselines SET rule = 'payload:rule' WHERE rule = 'lion'")
    done = evometa("run", finished.experiment, "--resume", "--storage", storage)
    assert done.code == 2
    assert "payload:rule" in done.err
    assert not payload.exists()


#: SQL that makes of a table something that is computed when it is read or written.
COMPUTED = {
    "view": (
        "DROP TABLE timings",
        "CREATE VIEW timings AS SELECT 0 AS generation, 'x' AS phase, 1 AS seconds, 1",
    ),
    "trigger": ("CREATE TRIGGER t AFTER UPDATE ON campaign BEGIN DELETE FROM genomes; END",),
    "virtual table": ("CREATE VIRTUAL TABLE words USING fts5(word)",),
    "computed column": ("ALTER TABLE campaign ADD COLUMN big AS (zeroblob(1000000000))",),
}


@pytest.mark.parametrize("what", COMPUTED)
def test_sql_of_a_stranger_is_not_run(what: str, evometa, finished, altered) -> None:
    storage = altered(*COMPUTED[what])
    lines = ["status tiny", "doctor tiny", "doctor tiny --repair", "pareto tiny"]
    for words in (*(line.split() for line in lines), ["run", finished.experiment, "--resume"]):
        done = evometa(*words, "--storage", storage)
        assert (done.code, done.out) == (2, "")
        (line,) = done.err.splitlines()
        assert "no campaign holds" in line
    assert "no campaign holds" in evometa("list", "--storage", storage).out


def columns() -> list[tuple[str, str]]:
    """Every table and column."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return [
            (table, column)
            for (table,) in tables
            for _, column, *_ in connection.execute(f"PRAGMA table_info({table})")
        ]


#: SQL values.
WRONG = (
    "NULL",
    "'text'",
    "''",
    "-1",
    "9223372036854775807",
    "9e999",
    "1.5",
    "x'ff00'",
    "'[[[1]]]'",
    "'{\"a\": {}}'",
    "cast(x'ff' AS TEXT)",
    "char(27) || '[2J' || char(10) || '../../x'",
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(columns()), value=st.sampled_from(WRONG), all_rows=st.booleans(), data=st.data())
def test_a_wrong_value_in_any_column_is_shown_or_told_in_a_line(
    place: tuple[str, str],
    value: str,
    all_rows: bool,
    data: st.DataObject,
    evometa,
    altered,
    genome: str,
    tmp_path: Path,
) -> None:
    table, column = place
    some = "" if all_rows else f" WHERE {column} = (SELECT max({column}) FROM {table})"
    try:
        storage = altered(
            f"UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '') WHERE name = '{table}'",
            f"UPDATE OR IGNORE {table} SET {column} = {value}{some}",
        )
    except sqlite3.IntegrityError:  # the number of a row is one, whoever writes it
        return
    before = set(tmp_path.rglob("*"))
    line = data.draw(st.sampled_from([read for read in READS if not read.startswith(("plot", "compare"))]))
    done = evometa(*line.replace("GENOME", genome).split(), "--storage", storage)
    assert done.code in (0, 1, 2), line
    if done.code == 2:
        assert len(done.err.splitlines()) == 1
    assert "\x1b" not in done.out + done.err
    written = {path.name for path in set(tmp_path.rglob("*")) - before}
    assert written <= {"x.safetensors", "campaign.lock"}


def test_json_for_programs_carries_what_is_in_the_rows(evometa, altered) -> None:
    storage = altered("UPDATE journal SET line = char(27) || '[2J'")
    shown = evometa("status", "tiny", "--storage", storage, "--format", "json").out
    assert "\x1b[2J" in json.loads(shown).values()
