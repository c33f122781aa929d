"""The journal tells where and how a campaign ran; it is no part of its content."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from evometa.store import CampaignStore, JournalEntry, content_digest

KERNELS = JournalEntry("kernels", "native kernels: moments", {"seconds": 12.5, "built": True})


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
