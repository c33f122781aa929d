"""Where campaigns lie and what a listing says of them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import Popen
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evometa.errors import StoreError
from evometa.store import CampaignStore, campaign_path, list_campaigns, storage_root


def test_the_storage_is_the_option_then_the_environment_then_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert storage_root() == Path("populations/runs")
    monkeypatch.setenv("EVOMETA_STORAGE", "~/campaigns")
    assert storage_root() == Path.home() / "campaigns"
    assert storage_root(tmp_path) == tmp_path
    monkeypatch.setenv("EVOMETA_STORAGE", "")
    assert storage_root() == Path("populations/runs")


def test_a_storage_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.touch()
    with pytest.raises(StoreError, match="is a file; give a directory with --storage or EVOMETA_STORAGE"):
        storage_root(file)


@pytest.mark.parametrize("name", ["a", "digits-64", "2026.01_run", "A" * 100])
def test_plain_names_are_allowed(name: str) -> None:
    assert campaign_path(Path("root"), name) == Path("root") / name / "campaign.db"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "-x", ".hidden", "a b", "é", "a\n", "A" * 101]
)
def test_names_that_could_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(StoreError, match="is not allowed: use up to 100 letters"):
        campaign_path(Path("root"), name)


@given(st.text(max_size=6))
def test_a_campaign_always_lies_directly_under_the_root(name: str) -> None:
    try:
        path = campaign_path(Path("/root"), name)
    except StoreError:
        return
    assert path.resolve().parent.parent == Path("/root").resolve()


def test_a_listing_tells_state_size_and_best_values(tmp_path: Path, driver: ModuleType) -> None:
    started = datetime.now(UTC) - timedelta(seconds=5)
    driver.run(campaign_path(tmp_path, "done"), n_generations=2)
    with CampaignStore.create(campaign_path(tmp_path, "begun"), config_json="{}"):
        pass
    (tmp_path / "stray").mkdir()
    begun, done = list_campaigns(tmp_path)
    assert (begun.name, begun.state, begun.n_generations, begun.n_genomes) == ("begun", "interrupted", 0, 0)
    assert begun.best == {}
    assert (done.name, done.state, done.n_generations, done.n_genomes) == ("done", "finished", 2, 8)
    with CampaignStore.open(campaign_path(tmp_path, "done"), readonly=True) as store:
        assert done.best == store.best_values(1)
    assert list(done.best) == list(driver.OBJECTIVES)
    assert done.written is not None
    assert started < done.written <= datetime.now(UTC) + timedelta(seconds=5)


def test_a_running_campaign_is_listed_while_its_driver_lives(holder: Popen[str], path: Path) -> None:
    (summary,) = list_campaigns(path.parent.parent)
    assert summary.state == "running"


def test_one_broken_campaign_does_not_hide_the_others(tmp_path: Path, driver: ModuleType) -> None:
    driver.run(campaign_path(tmp_path, "good"), n_generations=1)
    bad = campaign_path(tmp_path, "bad")
    bad.parent.mkdir()
    bad.write_bytes(b"\0" * 5000)
    broken, good = list_campaigns(tmp_path)
    assert (broken.state, good.state) == ("unreadable", "finished")
    assert "not an SQLite database" in broken.problem


def test_a_storage_that_does_not_exist_has_no_campaigns(tmp_path: Path) -> None:
    assert list_campaigns(tmp_path / "nowhere") == []


def test_a_home_that_nobody_knows_is_refused() -> None:
    with pytest.raises(
        StoreError, match=r"^~nobody-of-that-name/x: there is no home .*write the path in full$"
    ):
        storage_root(Path("~nobody-of-that-name/x"))


def test_a_storage_that_the_system_refuses_to_look_up(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"^storage .* cannot be read \(.*\); give another directory"):
        list_campaigns(tmp_path / ("x" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_storage_that_may_not_be_read(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    try:
        with pytest.raises(StoreError, match=r"cannot be read \(Permission denied\)"):
            list_campaigns(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_directory_in_the_place_of_a_database(tmp_path: Path) -> None:
    place = tmp_path / "study" / "campaign.db"
    place.mkdir(parents=True)
    said = f"campaign 'study': {place} is a directory, expected a campaign database"
    with pytest.raises(StoreError) as raised:
        CampaignStore.open(place, readonly=True)
    assert str(raised.value) == said
    assert [(found.state, found.problem) for found in list_campaigns(tmp_path)] == [("unreadable", said)]
