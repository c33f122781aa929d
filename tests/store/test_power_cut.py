"""A power cut: what was forced to the disk is there, of the rest anything may be."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from evometa.store import CampaignStore, content_digest
from evometa.store.examination import examine

#: What a disk may hold where data had not yet been forced to it.
TORN = {
    "cut off": lambda tail, keep, draw: tail[:keep],
    "zeros": lambda tail, keep, draw: tail[:keep] + bytes(len(tail) - keep),
    "other data": lambda tail, keep, draw: tail[:keep] + draw.randbytes(len(tail) - keep),
    "later sectors alone": lambda tail, keep, draw: bytes(keep) + tail[keep:],
}


@pytest.mark.parametrize("torn", TORN)
def test_of_a_generation_that_was_not_forced_to_the_disk_all_is_there_or_nothing(
    torn: str, path: Path, tmp_path: Path, driver: ModuleType
) -> None:
    draw = random.Random(torn)
    log = path.with_name("campaign.db-wal")
    with CampaignStore.create(path, config_json=driver.CONFIG) as store:
        store.commit_generation(**driver.generation(0))
        store.commit_generation(**driver.generation(1))
        forced, database, before = log.read_bytes(), path.read_bytes(), content_digest(path)
        store.commit_generation(**driver.generation(2))
        whole, after = log.read_bytes(), content_digest(path)
    assert whole.startswith(forced)
    tail = whole[len(forced) :]
    contents = []
    for number, keep in enumerate([*(draw.randrange(len(tail)) for _ in range(12)), len(tail)]):
        found = tmp_path / str(number) / "campaign.db"
        found.parent.mkdir()
        found.write_bytes(database)
        left = TORN[torn](tail, keep, draw)
        found.with_name("campaign.db-wal").write_bytes(forced + left)
        assert examine(found) == []
        contents.append(content_digest(found))
        driver.run(found, 3)
        assert examine(found) == []
        with CampaignStore.open(found, readonly=True) as store:
            assert store.status() == "finished"
        shutil.rmtree(found.parent)
    assert all(content in (before, after) for content in contents)
    assert before in contents


def test_all_that_leads_to_a_new_campaign_is_forced_to_the_disk(
    path: Path, driver: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: list[Path] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        forced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    CampaignStore.create(path, config_json=driver.CONFIG).close()
    assert {path.parent, path.parent.parent, path.parent.parent.parent} <= set(forced)
