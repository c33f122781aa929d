"""Interrupting a campaign and going on with it."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import MAIN, children

from evometa.cli.run import _interruptible
from evometa.store import CampaignStore, content_digest


def begin(finished, storage: Path, *words: str) -> subprocess.Popen[str]:
    """The tiny campaign in a process of its own, as a terminal would start it."""
    return subprocess.Popen(
        [*MAIN, "run", str(finished.experiment), "--storage", str(storage), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(process: subprocess.Popen[str], beginning: str) -> None:
    """Until the process has printed a line that begins so."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return
    raise AssertionError(f"ended before {beginning!r}: {process.communicate()}")


def test_an_interruption_before_the_first_generation(evometa, finished, fresh_storage: Path) -> None:
    process = begin(finished, fresh_storage)
    database = fresh_storage / "tiny" / "campaign.db"
    while not database.exists():
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "no generation yet" in err
    assert "Traceback" not in err
    assert evometa("run", finished.experiment, "--storage", fresh_storage, "--resume").code == 0
    assert content_digest(database) == content_digest(finished.database)


def test_an_interruption_that_falls_into_a_destructor_is_not_lost() -> None:
    class Careless:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM), sys.unraisablehook

    def work() -> None:
        Careless()
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt), _interruptible():
        work()
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before


def test_an_interruption_keeps_whole_generations_and_says_how_to_go_on(
    evometa, finished, fresh_storage: Path
) -> None:
    process = begin(finished, fresh_storage)
    wait_for(process, "generation 0")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    first, command = err.splitlines()
    assert re.search(r"whole generations stored: [1-3]\b", first)
    program, *words = shlex.split(command)
    assert (program, words[-1]) == ("evometa", "--resume")
    assert evometa(*words).code == 0
    assert content_digest(fresh_storage / "tiny" / "campaign.db") == content_digest(finished.database)


def test_workers_of_a_killed_campaign_end_and_it_resumes_to_the_same_content(
    evometa, finished, fresh_storage: Path
) -> None:
    words = ("--set", "execution.backend=loky", "--set", "execution.workers=2")
    process = begin(finished, fresh_storage, *words)
    wait_for(process, "generation 0")
    workers = children(process.pid)
    assert workers
    process.kill()
    process.communicate(timeout=120)
    for worker in workers:
        wait_until_gone(worker)
    outcome = evometa("run", finished.experiment, "--storage", fresh_storage, "--resume")
    assert outcome.code == 0, outcome.err
    assert content_digest(fresh_storage / "tiny" / "campaign.db") == content_digest(finished.database)


def wait_until_gone(pid: int) -> None:
    """Until ``pid`` has ended; pytest's timeout is the limit."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
            time.sleep(0.1)


def test_a_finished_campaign_is_left_as_it_is(evometa, finished) -> None:
    before = content_digest(finished.database)
    outcome = evometa("run", finished.experiment, "--resume")
    assert (outcome.code, outcome.err) == (0, "")
    assert "finished already" in outcome.out
    assert content_digest(finished.database) == before


def test_resume_without_the_file_takes_the_stored_configuration(evometa, finished) -> None:
    outcome = evometa("run", "--resume", "--name", "tiny")
    assert outcome.code == 0
    assert "finished already" in outcome.out
    refused = evometa("run", "--resume", "--name", "tiny", "--set", "execution.workers=2")
    assert (refused.code, "TOML" in refused.err) == (2, True)


def test_a_copied_campaign_resumes_under_its_folders_name(evometa, finished, tmp_path: Path) -> None:
    shutil.copytree(finished.database.parent, tmp_path / "runs" / "copied")
    outcome = evometa("run", "--resume", "--name", "copied", "--storage", tmp_path / "runs")
    assert (outcome.code, outcome.err) == (0, "")
    assert "Campaign copied is finished already" in outcome.out
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["copied"]


def test_resume_begins_a_campaign_that_is_not_there(evometa, finished, fresh_storage: Path) -> None:
    outcome = evometa("run", finished.experiment, "--storage", fresh_storage, "--resume")
    assert outcome.code == 0
    assert content_digest(fresh_storage / "tiny" / "campaign.db") == content_digest(finished.database)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["evolution.population=6"], "evolution.population = 4, not 6"),
        (["seed=4", "evolution.population=6"], "seed = 3, not 4"),
        (["tasks.0.options.dim=5"], "tasks.0.options.dim = 3, not 5"),
        (["genes.lr=0.1"], "genes.lr = nothing, not 0.1"),
        (["evolution.generations=1"], "evolution.generations = 4: allowed is to raise it"),
    ],
)
def test_resume_refuses_another_configuration(evometa, finished, settings: list[str], said: str) -> None:
    before = content_digest(finished.database)
    words = [word for setting in settings for word in ("--set", setting)]
    outcome = evometa("run", finished.experiment, "--resume", *words)
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert said in line
    assert content_digest(finished.database) == before


def test_generations_may_be_raised_and_execution_may_differ(
    evometa, finished, fresh_storage: Path, tiny_text: str
) -> None:
    run = ("run", finished.experiment, "--storage", fresh_storage)
    assert evometa(*run, "--set", "evolution.generations=3").code == 0
    assert "finished already" in evometa(*run, "--set", "evolution.generations=3", "--resume").out
    outcome = evometa(*run, "--resume", "--set", "execution.device=auto")
    assert (outcome.code, outcome.err) == (0, "")
    with (
        CampaignStore.open(fresh_storage / "tiny" / "campaign.db", readonly=True) as ours,
        CampaignStore.open(finished.database, readonly=True) as theirs,
    ):
        assert ours.status() == "finished"
        assert ours.config() == theirs.config()
        assert ours.generations() == theirs.generations()
