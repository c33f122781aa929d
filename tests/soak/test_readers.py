"""Whoever looks at a running campaign neither waits for it nor disturbs it. With ``make soak``."""

from __future__ import annotations

import json
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from processes import MAIN
from soak.campaigns import KINDS
from soak.driver import Driver

from evometa.store import content_digest

#: Every way to look at a campaign.
LOOKS = {
    "plot": ["--out", "figures"],  # the slowest first: the campaign must not end before it
    "status": ["--format", "json"],
    "pareto": [],
    "show": [],
    "doctor": [],
}
_N_GENERATIONS = 96
_MOST_SECONDS = 60.0


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_looking_at_a_running_campaign_disturbs_nothing(tmp_path: Path, record_property: Any) -> None:
    experiment = tmp_path / "watched.toml"
    experiment.write_text(KINDS["an LSTM by PES, two workers"].toml)

    def driver(root: Path) -> Driver:
        generations = f"evolution.generations={_N_GENERATIONS}"
        words = ["run", experiment, "--storage", root, "--set", generations]
        return Driver(words, root.with_suffix(".log"))

    with driver(tmp_path / "alone") as alone:
        assert alone.wait(600) == 0, alone.said()
    took: dict[str, list[float]] = defaultdict(list)
    with driver(tmp_path / "watched") as watched:
        assert watched.reaches("breeding", 1, 300), watched.said()
        while watched.process.poll() is None:
            for verb, options in LOOKS.items():
                began = time.monotonic()
                done = subprocess.run(
                    [*MAIN, verb, "watched", "--storage", "watched", *options],
                    cwd=tmp_path,
                    capture_output=True,
                    text=True,
                    timeout=_MOST_SECONDS,
                    check=False,
                )
                if watched.process.poll() is not None:
                    break
                took[verb].append(time.monotonic() - began)
                assert (done.returncode, done.stderr) == (0, ""), verb
                if verb == "status":
                    assert json.loads(done.stdout)["state"] == "running"
        assert watched.wait() == 0, watched.said()
    assert set(took) == set(LOOKS)
    paths = [tmp_path / root / "watched" / "campaign.db" for root in ("alone", "watched")]
    assert content_digest(paths[0]) == content_digest(paths[1])
    counts = ", ".join(f"{len(seconds)} × `{verb}`" for verb, seconds in took.items())
    record_property(
        "line", f"Beside a running campaign, one after another: {counts}. Its content is the same."
    )
