"""One driver at a time."""

from __future__ import annotations

import gc
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from types import ModuleType
from typing import Any

import pytest

from evometa.errors import StoreError
from evometa.store import CampaignStore


@pytest.mark.parametrize("enter", ["open", "create"])
def test_a_second_driver_is_told_who_holds_the_campaign(enter: str, holder: Popen[str], path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        CampaignStore.open(path) if enter == "open" else CampaignStore.create(path, config_json="{}")
    assert str(caught.value) == (
        f"campaign 'first' is being written by process {holder.pid} on {socket.gethostname()}; "
        "wait for it, stop it, or choose another --name"
    )


def test_a_second_driver_in_the_same_process_is_refused_too(path: Path) -> None:
    with CampaignStore.create(path, config_json="{}"), pytest.raises(StoreError, match="is being written by"):
        CampaignStore.open(path)
    CampaignStore.open(path).close()


def test_status_tells_running_from_interrupted_by_the_living_driver(holder: Popen[str], path: Path) -> None:
    with CampaignStore.open(path, readonly=True) as reader:
        assert reader.status() == "running"
        holder.kill()
        holder.wait(timeout=60)
        assert reader.status() == "interrupted"
    with CampaignStore.open(path) as store:
        assert store.status() == "running"


def test_readers_that_ask_for_the_status_never_keep_a_driver_out(path: Path) -> None:
    CampaignStore.create(path, config_json="{}").close()
    with CampaignStore.open(path, readonly=True) as reader:
        for _ in range(50):
            assert reader.status() == "interrupted"
            CampaignStore.open(path).close()


def test_a_worker_that_outlives_its_driver_does_not_hold_the_lock(
    in_other_process: Callable[[str], dict[str, Any]],
) -> None:
    report = in_other_process("orphan")
    assert (report["status"], report["end"]) == ("running", "SIGKILL")


def test_a_forgotten_store_does_not_keep_the_campaign_locked(path: Path) -> None:
    store = CampaignStore.create(path, config_json="{}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del store
        gc.collect()
    CampaignStore.open(path).close()


def test_closing_twice_is_harmless_and_frees_the_campaign(path: Path, driver: ModuleType) -> None:
    store = CampaignStore.create(path, config_json="{}")
    store.close()
    store.close()
    with CampaignStore.open(path) as again:
        again.commit_generation(**driver.generation(0))
