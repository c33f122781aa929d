"""What the soak reports: its table on the terminal, and with ``--soak-report FILE`` in a guide."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from soak.tally import Fault, placed, report

_BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak-report", metavar="FILE", type=Path, help="write the soak's table between the marks of FILE"
    )


def told(reporter: Any, name: str) -> Iterator[Any]:
    """What the tests have recorded under ``name``."""
    for outcome in ("passed", "failed"):
        for test in reporter.stats.get(outcome, []):
            for key, value in getattr(test, "user_properties", []) if test.when == "call" else []:
                if key == name:
                    yield value


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    faults = [Fault(*fault) for found in told(terminalreporter, "faults") for fault in found]
    if not faults:
        return
    others = list(told(terminalreporter, "line"))
    text = report(faults, others, time.monotonic() - _BEGAN, config.rootpath)
    terminalreporter.write_sep("=", "faults")
    terminalreporter.write_line(text)
    file = config.getoption("--soak-report", None)
    if file is not None:
        file.write_text(placed(file.read_text(encoding="utf-8"), text), encoding="utf-8")
