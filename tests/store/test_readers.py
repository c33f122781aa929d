"""Readers beside a driver: they wait for nobody, see whole generations, and leave no trace."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

from evometa.errors import StoreError
from evometa.store import CampaignStore, Evaluation, content_digest


def files(path: Path) -> list[str]:
    """What lies beside the database."""
    return sorted(entry.name for entry in path.parent.iterdir())


def test_a_reader_in_the_middle_of_a_commit_sees_the_generation_before(
    path: Path, driver: ModuleType
) -> None:
    seen: list[tuple[int | None, int]] = []

    def watched(made: list[Evaluation]) -> Iterator[Evaluation]:
        yield from made[:3]
        with CampaignStore.open(path, readonly=True) as reader:
            seen.append((reader.last_generation(), len(reader.evaluations())))
        yield from made[3:]

    with CampaignStore.create(path, config_json=driver.CONFIG) as store:
        store.commit_generation(**driver.generation(0))
        second = driver.generation(1)
        store.commit_generation(**second | {"evaluations": watched(second["evaluations"])})
        with CampaignStore.open(path, readonly=True) as reader:
            seen.append((reader.last_generation(), len(reader.evaluations())))
    assert seen == [(0, 4), (1, 12)]


def test_a_snapshot_stays_at_one_moment_while_the_driver_commits(path: Path, driver: ModuleType) -> None:
    with CampaignStore.create(path, config_json=driver.CONFIG) as store:
        store.commit_generation(**driver.generation(0))
        with CampaignStore.open(path, readonly=True) as reader:
            with reader.snapshot():
                assert reader.last_generation() == 0
                store.commit_generation(**driver.generation(1))
                assert reader.last_generation() == 0
                assert len(reader.genomes()) == driver.N_CHILDREN
            assert reader.last_generation() == 1


def test_a_campaign_at_rest_is_one_file_and_reading_makes_no_other(path: Path, driver: ModuleType) -> None:
    driver.run(path, n_generations=2)
    assert files(path) == ["campaign.db", "campaign.lock"]
    path.with_name("campaign.lock").unlink()
    with CampaignStore.open(path, readonly=True) as reader:
        assert reader.status() == "finished"
        assert len(reader.generations()) == 2
        assert files(path) == ["campaign.db"]
    content_digest(path)
    assert files(path) == ["campaign.db"]


def test_a_driver_killed_as_it_began_or_ended_leaves_a_campaign_that_can_be_read(
    path: Path, tmp_path: Path, driver: ModuleType
) -> None:
    driver.run(path, n_generations=2)
    killed = tmp_path / "killed" / "campaign.db"
    killed.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.execute("UPDATE weights SET data = zeroblob(20000)")  # beyond the cache: to the file
        for suffix in ("", "-journal"):  # what the kernel keeps of a process that dies now
            shutil.copy(f"{path}{suffix}", f"{killed}{suffix}")
        connection.execute("ROLLBACK")
    assert killed.read_bytes() != path.read_bytes()
    with CampaignStore.open(killed, readonly=True) as reader:
        assert reader.last_generation() == 1
    assert files(killed) == ["campaign.db"]
    assert content_digest(killed) == content_digest(path)


def test_an_open_reader_holds_up_neither_the_drivers_end_nor_the_next_driver(
    path: Path, driver: ModuleType
) -> None:
    driver.run(path, n_generations=1)
    with CampaignStore.open(path, readonly=True) as reader:
        assert reader.last_generation() == 0
        driver.run(path, n_generations=2)
        assert reader.last_generation() == 1
    driver.run(path, n_generations=3)
    assert files(path) == ["campaign.db", "campaign.lock"]


def test_a_store_opened_to_read_refuses_to_write(path: Path, driver: ModuleType) -> None:
    driver.run(path, n_generations=1)
    with CampaignStore.open(path, readonly=True) as reader:
        with pytest.raises(StoreError, match=r"campaign 'first' .* not writable here"):
            reader.commit_generation(**driver.generation(1))
        assert reader.last_generation() == 0


def test_a_campaign_on_a_read_only_medium_can_be_read_but_not_continued(
    path: Path, driver: ModuleType
) -> None:
    driver.run(path, n_generations=1)
    path.with_name("campaign.lock").unlink()
    path.chmod(stat.S_IRUSR)
    path.parent.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        if os.access(path.parent, os.W_OK):
            pytest.skip("this user may write everywhere")
        with CampaignStore.open(path, readonly=True) as reader:
            assert len(reader.population(0)) == driver.N_CHILDREN
        with pytest.raises(StoreError, match=r"cannot lock .*campaign\.lock: Permission denied"):
            CampaignStore.open(path)
        with pytest.raises(StoreError, match="Permission denied; choose another --storage"):
            CampaignStore.create(path.parent / "inner" / "campaign.db", config_json="{}")
    finally:
        path.parent.chmod(stat.S_IRWXU)


def test_reading_brings_no_torch(path: Path, driver: ModuleType) -> None:
    driver.run(path, n_generations=1)
    script = (
        "import sys; from pathlib import Path; from evometa.store import CampaignStore, list_campaigns\n"
        f"path = Path({str(path)!r})\n"
        "assert list_campaigns(path.parent.parent)[0].n_generations == 1\n"
        "with CampaignStore.open(path, readonly=True) as store: store.front(0), store.evaluations()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
