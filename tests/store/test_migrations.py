"""A database of an older schema is read as it is, and brought up to this one by whoever continues it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest
from schemas import BACK, downgrade

from evometa.store import CampaignStore, JournalEntry, content_digest
from evometa.store.examination import examine
from evometa.store.repair import repair
from evometa.store.schema import MIGRATIONS, SCHEMA_VERSION

N = 3


def layout(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Columns of every table, and the columns that every index of a name of its own is on."""
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
        return {
            name: connection.execute(f"PRAGMA {kind}_info({name})").fetchall()
            for kind, name in names.fetchall()
        }


@pytest.fixture
def old(request: pytest.FixtureRequest, path: Path, driver: ModuleType) -> Path:
    """A campaign of three generations and an older schema."""
    driver.run(path, n_generations=N)
    downgrade(path, request.param)
    return path


def test_there_is_a_migration_from_every_schema_that_ever_was() -> None:
    assert set(MIGRATIONS) == set(BACK) == set(range(1, SCHEMA_VERSION))


@pytest.mark.parametrize("old", BACK, indirect=True)
def test_an_older_campaign_is_read_as_it_is(old: Path) -> None:
    before = old.read_bytes()
    with CampaignStore.open(old, readonly=True) as store:
        assert store.journal() == []
        assert len(store.generations()) == N
        assert store.first_with_updates_of("001-001") is None
        assert store.known_updates(["as 001-001"]) == set()
        assert store.genome("001-001").lineage.generation == 1
    assert examine(old) == []
    assert old.read_bytes() == before


@pytest.mark.parametrize("old", BACK, indirect=True)
def test_whoever_continues_it_finds_all_there_was_in_this_schema(
    old: Path, tmp_path: Path, driver: ModuleType
) -> None:
    new = tmp_path / "new" / "campaign.db"
    new.parent.mkdir()
    driver.run(new, n_generations=N)
    with closing(sqlite3.connect(new)) as connection:
        connection.execute("UPDATE genomes SET updates = NULL")
        connection.commit()
    entry = JournalEntry("kernels", "native kernels: moments")
    with CampaignStore.open(old) as store:
        store.note(entry)
        assert store.journal() == [entry]
    assert layout(old) == layout(new)
    assert content_digest(old) == content_digest(new)
    driver.run(old, n_generations=N + 1)
    assert examine(old) == []


@pytest.mark.parametrize("old", BACK, indirect=True)
def test_an_older_campaign_that_was_cut_off_is_mended(old: Path) -> None:
    with old.open("r+b") as file:
        file.truncate(old.stat().st_size - 4096)
    mended = repair(old)
    assert mended is not None
    assert examine(old) == []
    with CampaignStore.open(old, readonly=True) as store:
        assert store.last_generation() == N - 2
        assert len(store.population(N - 2)) == 4
