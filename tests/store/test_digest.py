"""Equal content has an equal digest; a difference in any one value shows in its table."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

from evometa.errors import StoreError
from evometa.store import CampaignStore, content_digest
from evometa.store.schema import NOT_CONTENT


def tables(path: Path) -> dict[str, list[str]]:
    """Table → columns."""
    with closing(sqlite3.connect(path)) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")] for name in names}


def test_two_runs_of_one_configuration_differ_in_their_timings_only(
    tmp_path: Path, driver: ModuleType
) -> None:
    whole, halted = tmp_path / "whole" / "campaign.db", tmp_path / "halted" / "campaign.db"
    driver.run(whole, n_generations=4)
    with CampaignStore.create(halted, config_json=driver.CONFIG) as store:
        store.commit_generation(**driver.generation(0))
        assert content_digest(halted) != content_digest(whole)
    driver.run(halted, n_generations=4)
    with CampaignStore.open(whole, readonly=True) as a, CampaignStore.open(halted, readonly=True) as b:
        assert a.timings() != b.timings()
    assert content_digest(halted) == content_digest(whole)


def test_every_column_of_every_table_counts(path: Path, driver: ModuleType) -> None:
    driver.run(path, n_generations=2)
    whole = content_digest(path)
    columns = tables(path)
    assert set(whole) == set(columns) - NOT_CONTENT
    with closing(sqlite3.connect(path)) as connection:
        for table in whole:
            for column in columns[table]:
                connection.execute("PRAGMA foreign_keys = OFF")
                connection.execute("PRAGMA ignore_check_constraints = ON")
                key = connection.execute(f"SELECT max({column}) FROM {table}").fetchone()[0]
                changed = key + 1 if isinstance(key, int | float) else b"other"
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (changed, key))
                connection.commit()
                differing = {name for name, value in content_digest(path).items() if value != whole[name]}
                assert differing == {table}, (table, column)
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (key, changed))
                connection.commit()
                assert content_digest(path) == whole


def test_a_missing_row_a_null_and_a_type_show(path: Path, driver: ModuleType) -> None:
    driver.run(path, n_generations=1)
    whole = content_digest(path)
    with closing(sqlite3.connect(path)) as connection:
        for statement in (
            "UPDATE streams SET seed = CAST(seed AS TEXT) || 'x'",
            "UPDATE task_results SET final_loss = NULL WHERE final_loss IS NOT NULL AND position = 0",
            "DELETE FROM baselines",
        ):
            table = next(name for name in whole if name in statement)
            connection.execute(statement)
            connection.commit()
            assert content_digest(path)[table] != whole[table]


def test_a_missing_campaign_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="unknown campaign"):
        content_digest(tmp_path / "x" / "campaign.db")


def test_where_a_campaign_ran_is_no_part_of_its_content(tmp_path: Path) -> None:
    digests = []
    for workers, seed in ((1, 0), (2, 0), (1, 1)):
        path = tmp_path / f"{workers}-{seed}" / "campaign.db"
        config = json.dumps({"seed": seed, "execution": {"workers": workers}})
        CampaignStore.create(path, config_json=config).close()
        digests.append(content_digest(path))
    assert digests[0] == digests[1] != digests[2]
