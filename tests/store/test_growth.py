"""What a generation takes to store, by the instructions that SQLite counts."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from evometa.store import CampaignStore


def test_a_generation_takes_no_longer_to_store_for_those_before_it(path: Path, driver: ModuleType) -> None:
    counts: list[int] = []
    with CampaignStore.create(path, config_json="{}") as store:
        for index in range(60):
            counts.append(0)

            def counted() -> None:
                counts[-1] += 1

            store._connection.set_progress_handler(counted, 10)
            store.commit_generation(**driver.generation(index))
    assert counts[-1] < 1.1 * counts[5]
