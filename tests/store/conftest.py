"""The example campaign of ``driver.py``, in this process and in ones that are killed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("driver.py")


@pytest.fixture(scope="session")
def driver() -> ModuleType:
    """The functions of ``driver.py``."""
    spec = importlib.util.spec_from_file_location("store_driver", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's campaign goes."""
    return tmp_path / "runs" / "first" / "campaign.db"


@pytest.fixture
def in_other_process(path: Path) -> Callable[[str], dict[str, Any]]:
    """Runs a plan of ``driver.py`` on ``path`` in another process and returns its report."""

    def run(plan: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, SCRIPT, plan, path], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    return run


@pytest.fixture
def holder(path: Path) -> Any:
    """Another process that holds the campaign ``path`` until its standard input closes."""
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "hold", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.communicate(timeout=60)
