"""A campaign that is killed again and again; as a script, so that the test's process never forks.

``python killed.py EXPERIMENT ROOT WORKERS KILL_AT…`` runs the experiment undisturbed under ROOT/whole. Then
it runs it under ROOT/killed in forked processes, of which the first kills itself with SIGKILL at its
KILL_AT[0]-th event, the next, resuming, at its KILL_AT[1]-th, and so on; the last goes to the end. Prints
as JSON how many were killed, and the content digests of both databases.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

from evometa.campaign.session import run_campaign
from evometa.config import CampaignConfig, load_config
from evometa.store import content_digest


class KillAt:
    """A listener that kills its process at the n-th event; n = 0: never."""

    def __init__(self, n: int) -> None:
        self._left = n

    def _tick(self, *_: object) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    phase = unit = note = generation = _tick


def killed_at(n: int, config: CampaignConfig, root: Path) -> bool:
    """Run or resume the campaign in a child; whether it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run_campaign(config, root, resume=True, listener=KillAt(n))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status) == signal.SIGKILL
    if os.WEXITSTATUS(status):
        raise RuntimeError("the campaign failed")
    return False


def main(experiment: str, root: str, workers: str, *kill_at: str) -> None:
    config = load_config(experiment)
    whole, killed = Path(root, "whole"), Path(root, "killed")
    undisturbed = run_campaign(config, whole)
    killed.mkdir()
    shutil.copy(whole / ".baselines.json", killed)
    execution = dataclasses.replace(
        config.execution, backend="inline" if workers == "1" else "loky", workers=int(workers)
    )
    disturbed = dataclasses.replace(config, execution=execution)
    n_killed = sum(killed_at(int(n), disturbed, killed) for n in kill_at)
    killed_at(0, disturbed, killed)
    digests = content_digest(undisturbed), content_digest(killed / config.name / "campaign.db")
    print(json.dumps([n_killed, *digests]))


if __name__ == "__main__":
    main(*sys.argv[1:])
