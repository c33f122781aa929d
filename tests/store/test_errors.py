"""What a user reads when a campaign cannot be opened: one line that says what to do."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

from evometa.errors import StoreError
from evometa.store import CampaignStore, campaign_path, content_digest
from evometa.store.schema import SCHEMA_VERSION


def refusal(path: Path, *, readonly: bool = True) -> str:
    """The line of the error that opening ``path`` raises."""
    with pytest.raises(StoreError) as caught:
        CampaignStore.open(path, readonly=readonly)
    line = str(caught.value)
    assert "\n" not in line
    return line


def alter(path: Path, statement: str) -> None:
    """Run one SQL statement on the file, as another program might."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


@pytest.mark.parametrize("readonly", [True, False])
def test_a_missing_campaign_names_the_closest_and_all_that_there_are(
    readonly: bool, tmp_path: Path, driver: ModuleType
) -> None:
    for name in ("digits-small", "quadratic"):
        driver.run(campaign_path(tmp_path, name), n_generations=1)
    line = refusal(campaign_path(tmp_path, "digit-small"), readonly=readonly)
    assert line == (
        "unknown campaign 'digit-small'; did you mean 'digits-small'? (known: digits-small, quadratic) "
        f"in {tmp_path}"
    )
    assert not (tmp_path / "digit-small").exists()


def test_a_missing_file_is_named_by_its_path(tmp_path: Path) -> None:
    assert refusal(tmp_path / "copy.db") == f"there is no campaign database {tmp_path / 'copy.db'}"


def test_a_missing_storage_has_no_campaigns(tmp_path: Path) -> None:
    line = refusal(campaign_path(tmp_path / "nowhere", "x"))
    assert line == f"unknown campaign 'x' (known: none) in {tmp_path / 'nowhere'}"


@pytest.mark.parametrize("readonly", [True, False])
def test_a_file_of_another_kind(readonly: bool, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("a diary, and quite a long one\n" * 100)
    assert "it is not an SQLite database" in refusal(path, readonly=readonly)
    assert path.read_text().startswith("a diary")


@pytest.mark.parametrize("content", ["", "CREATE TABLE notes (text TEXT)"])
def test_an_empty_or_foreign_database(content: str, path: Path) -> None:
    path.parent.mkdir(parents=True)
    if content:
        alter(path, content)
    else:
        path.touch()
    before = path.read_bytes()
    for readonly in (True, False):
        assert "is not an evometa campaign" in refusal(path, readonly=readonly)
    assert path.read_bytes() == before


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_database(share: float, path: Path, driver: ModuleType) -> None:
    driver.run(path, n_generations=3)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    for readonly in (True, False):
        assert "it is truncated or damaged" in refusal(path, readonly=readonly)


def test_a_damaged_page_is_reported_when_it_is_read(path: Path, driver: ModuleType) -> None:
    driver.run(path, n_generations=3)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(StoreError, match="it is truncated or damaged"):
        content_digest(path)


def test_a_database_of_a_newer_version(path: Path, driver: ModuleType) -> None:
    driver.run(path, n_generations=1)
    alter(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    assert refusal(path) == (
        f"campaign 'first' was written by a newer evometa (schema {SCHEMA_VERSION + 1}, this one reads up to "
        f"{SCHEMA_VERSION}); upgrade with 'pip install --upgrade evometa'"
    )


def test_a_failed_opening_gives_the_lock_back(path: Path, driver: ModuleType) -> None:
    driver.run(path, n_generations=1)
    alter(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    refusal(path, readonly=False)
    alter(path, f"PRAGMA user_version = {SCHEMA_VERSION}")
    CampaignStore.open(path).close()


def test_a_campaign_is_not_created_twice(path: Path, driver: ModuleType) -> None:
    driver.run(path, n_generations=1)
    before = content_digest(path)
    with pytest.raises(StoreError) as caught:
        CampaignStore.create(path, config_json="{}")
    assert str(caught.value) == (
        f"campaign 'first' exists already in {path.parent.parent}; continue it with --resume or choose "
        "another --name"
    )
    assert content_digest(path) == before


def test_a_storage_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot make the directory .*: Not a directory; choose another"):
        CampaignStore.create(tmp_path / "file" / "x" / "campaign.db", config_json="{}")


def test_a_full_disk_wants_space_and_not_only_another_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(StoreError, match="No space left on device; free space there, or choose another"):
        CampaignStore.create(tmp_path / "runs" / "x" / "campaign.db", config_json="{}")


def test_leftovers_of_a_creation_that_was_killed_are_no_campaign(path: Path, driver: ModuleType) -> None:
    path.parent.mkdir(parents=True)
    path.with_name("campaign.db.partial").write_bytes(b"half")
    assert "unknown campaign 'first' (known: none)" in refusal(path)
    driver.run(path, n_generations=1)
    assert not path.with_name("campaign.db.partial").exists()


def test_a_locked_database_is_reported(
    path: Path, driver: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evometa.store.connection._BUSY_SECONDS", 0.05)
    driver.run(path, n_generations=1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "another program keeps it locked" in refusal(path)


def test_names_that_are_not_in_a_campaign(path: Path, driver: ModuleType) -> None:
    driver.run(path, n_generations=2)
    with CampaignStore.open(path, readonly=True) as store:
        with pytest.raises(StoreError, match=r"no genome '001-0003'; did you mean '001-003'\?"):
            store.genome("001-0003")
        with pytest.raises(StoreError, match=r"campaign 'first' has no genome 'zzz'$"):
            store.ancestors("zzz")
        for read in (
            store.population,
            store.front,
            store.objective_values,
            store.best_values,
            store.generation,
        ):
            with pytest.raises(StoreError, match=r"no generation 7 \(it has 0 to 1\)"):
                read(7)
        with pytest.raises(StoreError, match="holds no weights 'abc'"):
            store.weights_bytes("abc")
