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


def test_totals_and_bests_are_those_of_the_records(path: Path, driver: ModuleType) -> None:
    driver.run(path, n_generations=5)
    with CampaignStore.open(path, readonly=True) as store:
        records, totals, best = store.generations(), store.totals(), store.best_by_generation()
        assert [vars(one) for one in totals] == [
            {name: getattr(record, name) for name in vars(totals[0])} for record in records
        ]
        assert best == {record.index: store.best_values(record.index) for record in records}
        assert [list(values) for values in best.values()] == [list(driver.OBJECTIVES)] * 5
        assert store.front_sizes() == {
            record.index: sum(candidate.in_front for candidate in record.candidates) for record in records
        }


def test_what_a_listing_asks_for_does_not_read_every_candidate(path: Path, driver: ModuleType) -> None:
    driver.run(path, n_generations=60)
    counts = []
    with CampaignStore.open(path, readonly=True) as store:
        for ask in (store.generations, store.totals, lambda: store.best_values(59), store.last_generation):
            counts.append(0)

            def counted() -> None:
                counts[-1] += 1

            store._connection.set_progress_handler(counted, 10)
            ask()
    everything, *listed = counts
    assert sum(listed) < 0.2 * everything
