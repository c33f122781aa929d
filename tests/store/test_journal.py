"""The journal tells where and how a campaign ran; it is no part of its content, and older files gain one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from types import ModuleType

from evometa.store import CampaignStore, JournalEntry, content_digest
from evometa.store.schema import SCHEMA_VERSION

KERNELS = JournalEntry("kernels", "native kernels: moments", {"seconds": 12.5, "built": True})


def downgrade(path: Path) -> None:
    """Make the file what schema 1 was."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE journal; PRAGMA user_version = 1;")


def test_entries_are_read_as_they_were_written_and_a_topic_has_one(path: Path, driver: ModuleType) -> None:
    driver.run(path, n_generations=1)
    with CampaignStore.open(path) as store:
        store.note(JournalEntry("kernels", "an older line"))
        store.note(JournalEntry("precision", "float32"))
        store.note(KERNELS)
    with CampaignStore.open(path, readonly=True) as store:
        assert store.journal() == [JournalEntry("precision", "float32"), KERNELS]


def test_an_entry_does_not_change_the_content(path: Path, driver: ModuleType) -> None:
    driver.run(path, n_generations=1)
    before = content_digest(path)
    with CampaignStore.open(path) as store:
        store.note(KERNELS)
    assert content_digest(path) == before


def test_a_campaign_of_schema_1_is_read_as_it_is_and_continued_with_a_journal(
    path: Path, driver: ModuleType
) -> None:
    driver.run(path, n_generations=2)
    digest = content_digest(path)
    downgrade(path)
    with CampaignStore.open(path, readonly=True) as store:
        assert store.journal() == []
        assert len(store.generations()) == 2
    with CampaignStore.open(path) as store:
        store.note(KERNELS)
        assert store.journal() == [KERNELS]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    assert content_digest(path) == digest
