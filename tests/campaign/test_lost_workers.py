"""Workers that are killed while a campaign runs change nothing of what it finds."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from commands import run_command
from processes import MAIN, workers_of

from evometa.store import content_digest


@pytest.fixture
def experiment(small, tmp_path: Path) -> Path:
    """The TOML of the small campaign, with tasks that keep workers busy for a while."""
    path = tmp_path / "small.toml"
    text = path.read_text().replace("horizon = 10", "horizon = 400").replace("n_tasks = 3", "n_tasks = 24")
    path.write_text(text + '[execution]\ndevice = "cpu"\nworkers = 2\n')
    return path


def run(experiment: Path, root: Path, n_kills: int = 0, seed: int = 0) -> tuple[dict[str, str], int, str]:
    """The campaign's content after so many workers were killed, or as many as it had time for; its words."""
    draw = random.Random(seed)
    command = [*MAIN, "run", experiment, "--storage", root]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    n_done = 0
    while process.poll() is None:
        time.sleep(draw.uniform(1.0, 8.0) if n_kills > 3 else draw.uniform(0.2, 0.6))
        with suppress(OSError):
            workers = workers_of(process.pid)
            if workers and n_done < n_kills:
                os.kill(draw.choice(workers), signal.SIGKILL)
                n_done += 1
    assert process.stdout is not None
    words = process.stdout.read()
    assert process.returncode == 0, words
    return content_digest(root / "small" / "campaign.db"), n_done, words


def test_a_campaign_whose_workers_are_killed_finds_the_same(experiment: Path, tmp_path: Path) -> None:
    whole = run_command("run", experiment, "--storage", tmp_path / "whole")
    assert whole.code == 0, whole.err
    assert "lost" not in whole.out
    killed, n_done, words = run(experiment, tmp_path / "killed", n_kills=2)
    assert n_done == 2
    assert killed == content_digest(tmp_path / "whole" / "small" / "campaign.db")
    assert re.search(r"lost and replaced \(killed by SIGKILL, as where memory runs out\)", words)
    told = run_command("status", "small", "--storage", tmp_path / "killed").out
    assert "lost and replaced" in " ".join(told.split())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_campaign_whose_workers_are_killed_all_the_time_finds_the_same(
    experiment: Path, tmp_path: Path, seed: int
) -> None:
    undisturbed, _, _ = run(experiment, tmp_path / "whole")
    killed, n_done, _ = run(experiment, tmp_path / "killed", n_kills=10, seed=seed)
    assert n_done >= 3
    assert killed == undisturbed
