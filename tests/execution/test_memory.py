"""How a machine's memory is dealt to the workers of a campaign."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evometa.errors import ConfigError
from evometa.execution import memory
from evometa.execution.memory import LEAST_BYTES, machine_bytes, pick_max_bytes

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GB = 2**30
INSTALLED = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
def limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Where this machine's containers would tell their limits; no such file is there yet."""
    files = (tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes")
    monkeypatch.setattr(memory, "_LIMIT_FILES", files)
    return files


@given(st.integers(1, 64), st.integers(0, 2**40))
def test_workers_share_what_was_asked_for_and_no_more(n_workers: int, beyond: int) -> None:
    wanted = n_workers * LEAST_BYTES + beyond
    for device in (CPU, GPU):
        each = pick_max_bytes(wanted, n_workers, device)
        assert each is not None
        assert each >= LEAST_BYTES
        assert wanted - n_workers < each * n_workers <= wanted


@pytest.mark.parametrize("n_workers", [1, 2, 7])
def test_half_of_the_machine_unless_something_is_asked_for(
    n_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "machine_bytes", lambda: 16 * GB)
    assert pick_max_bytes(0, n_workers, CPU) == 8 * GB // n_workers


def test_a_small_machine_leaves_every_worker_the_least_that_one_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "machine_bytes", lambda: GB)
    assert pick_max_bytes(0, 100, CPU) == LEAST_BYTES


def test_a_gpu_has_no_limit_unless_one_is_asked_for() -> None:
    assert pick_max_bytes(0, 4, GPU) is None
    assert pick_max_bytes(4 * GB, 4, GPU) == GB


@pytest.mark.parametrize(("wanted", "n_workers"), [(1, 1), (LEAST_BYTES - 1, 1), (2 * LEAST_BYTES, 3)])
def test_too_little_is_refused_in_one_line_that_says_what_would_do(wanted: int, n_workers: int) -> None:
    with pytest.raises(ConfigError) as refused:
        pick_max_bytes(wanted, n_workers, CPU)
    line = str(refused.value)
    assert "\n" not in line
    assert f"execution.max_memory_bytes = {wanted}" in line
    assert str(n_workers * LEAST_BYTES) in line
    assert pick_max_bytes(n_workers * LEAST_BYTES, n_workers, CPU) == LEAST_BYTES


def test_a_machine_has_what_is_installed_or_what_its_container_may_use(limits: tuple[Path, Path]) -> None:
    assert machine_bytes() == INSTALLED
    for file in limits:
        file.write_text(f"{INSTALLED // 3}\n")
        assert machine_bytes() == INSTALLED // 3
        file.unlink()
    limits[0].write_text(f"{INSTALLED // 2}\n")
    limits[1].write_text(f"{INSTALLED // 4}\n")
    assert machine_bytes() == INSTALLED // 4


@pytest.mark.parametrize("said", [b"max\n", b"", b"9223372036854771712\n", b"-1\n", b"\xff\xfe", b"1 GB\n"])
def test_what_is_no_limit_is_none(said: bytes, limits: tuple[Path, Path]) -> None:
    for file in limits:
        file.write_bytes(said)
    assert machine_bytes() == INSTALLED
