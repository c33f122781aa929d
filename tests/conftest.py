"""Settings that every test shares."""

from __future__ import annotations

import gc
import os

# Before torch is imported: two tests at a time on a few cores must not each start a thread for every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where a test asks for more, those that wait leave their core to those they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["MPLBACKEND"] = "Agg"
os.environ.pop("EVOMETA_STORAGE", None)

import pytest
from hypothesis import settings

# A shared machine's pauses are no failures; a fixed sequence of examples makes every failure repeatable.
settings.register_profile("evometa", deadline=None, derandomize=True)
settings.load_profile("evometa")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        metavar="NAME",
        default="cpu",
        help="where tests of rules, trainings, estimators and exported optimizers compute, such as cuda",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Before any test is collected: tests take the device from a constant of ``compute_device``."""
    name = config.getoption("--device")
    os.environ["EVOMETA_TEST_DEVICE"] = name
    if name == "cpu":
        return
    import torch

    try:
        torch.zeros(1, device=name).item()
    except (AssertionError, RuntimeError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise pytest.UsageError(f"--device {name}: torch cannot compute there ({first_line})") from error
    # A model's own gradients would differ from run to run, whatever optimizer is given them.
    torch.backends.cudnn.deterministic = True


def pytest_collection_finish() -> None:
    """Leave what is imported and collected by now out of garbage collection, as campaigns and workers do.

    Going through all of that takes a fifth of a second, and each campaign in this process would do it.
    """
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    mark = item.get_closest_marker("cpu_alone")
    if mark is not None and item.config.getoption("--device") != "cpu":
        pytest.skip(f"on a CPU alone: {mark.args[0]}")
