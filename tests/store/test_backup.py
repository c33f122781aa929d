"""Copies of a campaign that are put back in its place."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest

from evometa.errors import StoreError
from evometa.store import CampaignStore, content_digest
from evometa.store.examination import examine


def left_by_a_killed_driver(path: Path, into: Path, driver: ModuleType) -> None:
    """The folder of the campaign at ``path`` as SIGKILL in its fourth generation would leave it."""
    with CampaignStore.open(path) as store:
        store.commit_generation(**driver.generation(3))
        shutil.copytree(path.parent, into)


@pytest.mark.parametrize("n_generations", [1, 3])
def test_a_backup_beside_the_log_of_a_killed_driver_is_not_mixed_with_it(
    n_generations: int, path: Path, tmp_path: Path, driver: ModuleType
) -> None:
    backup, killed = tmp_path / "backup.db", tmp_path / "killed" / "campaign.db"
    driver.run(path, n_generations)
    shutil.copy(path, backup)
    driver.run(path, 3)
    left_by_a_killed_driver(path, killed.parent, driver)
    shutil.copy(backup, killed)
    for look in (content_digest, examine, CampaignStore.open):
        with pytest.raises(StoreError, match=r"campaign\.db-wal does not belong .*remove campaign\.db-wal"):
            look(killed)
    killed.with_name("campaign.db-wal").unlink()
    assert content_digest(killed) == content_digest(backup)
    driver.run(killed, driver.N_GENERATIONS)
    driver.run(path, driver.N_GENERATIONS)
    found, expected = content_digest(killed), content_digest(path)
    assert all(found[name] == expected[name] for name in ("genomes", "weights", "generations", "candidates"))


def test_a_killed_drivers_folder_is_a_backup_as_a_whole(
    path: Path, tmp_path: Path, driver: ModuleType
) -> None:
    driver.run(path, 3)
    copy = tmp_path / "copy"
    left_by_a_killed_driver(path, copy, driver)
    assert (copy / "campaign.db-wal").stat().st_size
    with CampaignStore.open(copy / "campaign.db") as store:
        assert store.last_generation() == 3
    assert content_digest(copy / "campaign.db") == content_digest(path)
