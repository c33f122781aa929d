"""The fuzzer's targets: valid files are read, and inputs that once broke something no longer do."""

from __future__ import annotations

from pathlib import Path

import pytest
from strangers import TARGETS

FOUND = sorted((Path(__file__).parent / "found").iterdir())


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_reads_its_seeds(name: str) -> None:
    seeds = TARGETS[name].seeds()
    assert seeds
    for data in seeds:
        TARGETS[name].read(data)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_an_input_that_once_broke_something(path: Path) -> None:
    TARGETS[path.name.partition("-")[0]].read(path.read_bytes())
