"""A damaged campaign is found out, mended, and after a resume what it would have been."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from evometa.errors import StoreError
from evometa.store import CampaignStore, content_digest
from evometa.store.examination import OF_GENERATIONS, examine, first_touched
from evometa.store.repair import repair
from evometa.store.schema import SCHEMA

N = 6
#: SQL that damages a campaign of N generations → the first generation to compute again, words of the finding.
DAMAGE: dict[str, tuple[str, int | None, str]] = {
    "a blob that changed": (
        "UPDATE weights SET data = zeroblob(7) "
        "WHERE hash = (SELECT weights FROM genomes WHERE id = '003-001')",
        3,
        "do not match their hash",
    ),
    "a blob that is gone": (
        "DELETE FROM weights WHERE hash = (SELECT germline FROM genomes WHERE id = '002-000')",
        2,
        "asks for weights that are not there",
    ),
    "a parent that is gone": ("DELETE FROM genomes WHERE id = '001-002'", 1, "001-002"),
    "a child before its parent": (
        "UPDATE parents SET parent_id = '005-001' WHERE genome_id = '003-000' AND position = 0",
        3,
        "descends from 005-001 of generation 5",
    ),
    "a generation that is gone": (
        "DELETE FROM generations WHERE generation = 3",
        3,
        "generation 3 is missing",
    ),
    "a candidate that is gone": (
        "DELETE FROM candidates WHERE generation = 4 AND position = 2",
        4,
        "generation 4 has 7 candidates, numbered up to 7",
    ),
    "a survivor that is gone": (
        "UPDATE candidates SET place = NULL WHERE generation = 2 AND place = 1",
        2,
        "the population of generation 2 has 3 genomes in places up to 3",
    ),
    "a front that is gone": ("UPDATE candidates SET in_front = 0 WHERE generation = 5", 5, "has no front"),
    "a value that is gone": (
        "DELETE FROM objective_values WHERE generation = 1 AND genome_id = '001-001' AND objective = 'flops'",
        1,
        "generation 1 has 15 objective values, its candidates ask for 16",
    ),
    "objectives that are gone": (
        "DELETE FROM objectives WHERE generation = 2",
        2,
        "generation 2 has 0 objectives",
    ),
    "a run that is gone": (
        "DELETE FROM task_results WHERE position = 1 AND evaluation = (SELECT number FROM evaluations "
        "WHERE genome_id = '004-002' AND generation = 4)",
        4,
        "has 2 runs, numbered up to 2",
    ),
    "an evaluation that is gone": (
        "DELETE FROM evaluations WHERE genome_id = '002-003' AND generation = 3",
        3,
        "generation 3 was ranked by 2400 inner steps, its evaluations have 2100",
    ),
    "baselines that are gone": ("DELETE FROM baselines", 0, "there are no tuned baselines"),
    "streams that are gone": (
        "DELETE FROM streams WHERE generation = 0",
        0,
        "generation 0 has no random streams",
    ),
    "genes that are no JSON": ("UPDATE genomes SET genes = '{' WHERE id = '003-003'", 3, "are not JSON"),
    "a report that is gone": (
        "DELETE FROM evaluations WHERE purpose = 'report'",
        N - 1,
        "there are runs of an evaluation that is not there, of generation 5 at the earliest",
    ),
    "a loss that is text": (
        "UPDATE task_results SET final_loss = 'low' WHERE evaluation = (SELECT number FROM evaluations "
        "WHERE genome_id = '003-001' AND generation = 4)",
        4,
        "3 rows of task_results hold no REAL in final_loss",
    ),
    "a generation that is text": (
        "UPDATE candidates SET generation = 'five' WHERE generation = 5",
        0,
        "8 rows of candidates hold no INTEGER in generation",
    ),
    "weights that are text": (
        "UPDATE weights SET data = 'w' WHERE hash = (SELECT weights FROM genomes WHERE id = '003-001')",
        3,
        "1 rows of weights hold no BLOB in data",
    ),
    "weights that nobody uses": (
        "INSERT INTO weights VALUES ('00', zeroblob(9))",
        None,
        "1 weights are stored that no genome refers to",
    ),
}


@pytest.fixture
def whole(path: Path, driver: ModuleType) -> dict[str, str]:
    """A finished campaign at ``path``; its content."""
    driver.run(path, n_generations=N)
    return content_digest(path)


def alter(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


def test_every_table_with_a_generation_is_looked_at_and_rolled_back() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        dated = {
            table
            for (table,) in tables
            if "generation" in {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        }
    assert set(OF_GENERATIONS) == dated - {"generations"}


def test_a_sound_campaign_is_called_sound_and_left_alone(path: Path, whole: dict[str, str]) -> None:
    before = path.read_bytes()
    assert examine(path) == []
    assert repair(path) is None
    assert path.read_bytes() == before
    assert {one.name for one in path.parent.iterdir()} == {"campaign.db", "campaign.lock"}


def test_a_campaign_without_a_generation_is_sound(path: Path, driver: ModuleType) -> None:
    CampaignStore.create(path, config_json=driver.CONFIG).close()
    assert examine(path) == []


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named_mended_and_made_good_by_a_resume(
    what: str, path: Path, whole: dict[str, str], driver: ModuleType
) -> None:
    statement, generation, words = DAMAGE[what]
    alter(path, statement)
    damaged = path.read_bytes()
    found = examine(path)
    assert any(words in finding.line for finding in found), [finding.line for finding in found]
    assert first_touched(found) == generation
    assert path.read_bytes() == damaged, "looking changes nothing"
    mended = repair(path)
    assert mended is not None
    assert mended.rolled_back_to == generation
    assert mended.copy.read_bytes() == damaged
    assert examine(path) == []
    with CampaignStore.open(path, readonly=True) as store:
        assert store.last_generation() == (
            N - 1 if generation is None else generation - 1 if generation else None
        )
    driver.run(path, n_generations=N)
    assert content_digest(path) == whole


@pytest.mark.parametrize("share", [0.35, 0.6, 0.9, 0.99])
def test_a_truncated_file_keeps_its_first_generations(
    share: float, path: Path, whole: dict[str, str], driver: ModuleType
) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert {finding.remedy for finding in examine(path)} == {"salvage"}
    mended = repair(path)
    assert mended is not None
    assert mended.salvaged
    assert examine(path) == []
    driver.run(path, n_generations=N)
    assert content_digest(path) == whole


@pytest.mark.parametrize("seed", range(16))
def test_pages_of_noise(seed: int, path: Path, whole: dict[str, str], driver: ModuleType) -> None:
    """A few pages, but the first with the tables' definitions, are overwritten."""
    draw = random.Random(seed)
    data = bytearray(path.read_bytes())
    n_pages = len(data) // 4096
    for page in draw.sample(range(3, n_pages), 2):
        data[page * 4096 : (page + 1) * 4096] = draw.randbytes(4096)
    path.write_bytes(data)
    assert examine(path) != []
    assert repair(path) is not None
    assert examine(path) == []
    driver.run(path, n_generations=N)
    assert content_digest(path) == whole


def test_what_cannot_be_mended_is_left_as_it_was(path: Path, whole: dict[str, str]) -> None:
    data = bytearray(path.read_bytes())
    data[100:8192] = bytes(8092)  # the tables' definitions
    path.write_bytes(data)
    with pytest.raises(StoreError, match="restore a copy"):
        repair(path)
    assert path.read_bytes() == bytes(data)
    assert {one.name for one in path.parent.iterdir()} == {
        "campaign.db",
        "campaign.lock",
        "campaign.db.found-1",
    }


def test_a_log_that_a_killed_driver_left_is_read_as_well(
    path: Path, tmp_path: Path, in_other_process: Callable[[str], dict[str, Any]]
) -> None:
    in_other_process("kill_inside_commit")
    assert path.with_name("campaign.db-wal").exists()
    assert examine(path) == []
    copied = tmp_path / "copied" / "campaign.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM streams WHERE generation = 1")
        connection.commit()
        shutil.copytree(path.parent, copied.parent)  # what was deleted is in the log alone
    assert first_touched(examine(copied)) == 1
    assert repair(copied) is not None
    assert {one.suffix for one in copied.parent.glob("campaign.db*")} == {".db", ".found-1", ".found-1-wal"}
    with CampaignStore.open(copied, readonly=True) as store:
        assert store.last_generation() == 0


def test_what_is_no_campaign_is_refused(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("a diary, and quite a long one\n" * 100)
    for look in (examine, repair):
        with pytest.raises(StoreError, match="it is not an SQLite database"):
            look(path)
    assert path.read_text().startswith("a diary")


@pytest.mark.usefixtures("holder")
def test_a_campaign_that_runs_is_not_mended(path: Path) -> None:
    with pytest.raises(StoreError, match="is being written by process"):
        repair(path)


def test_copies_of_several_repairs_are_all_kept(path: Path, whole: dict[str, str]) -> None:
    for number in (1, 2):
        alter(path, "INSERT INTO weights VALUES ('00', zeroblob(9))")
        mended = repair(path)
        assert mended is not None
        assert mended.copy.name == f"campaign.db.found-{number}"
        assert mended.n_removed == 1
    assert content_digest(path) == whole
