"""``evometa rl2``: a study from a TOML file, its table, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evometa.cli.app import app
from evometa.config.rl2 import load_rl2
from evometa.errors import ConfigError

STUDIES = sorted((Path(__file__).parents[2] / "experiments" / "rl2").glob("*.toml"))
TINY = [
    "training.updates=2",
    "training.tasks=4",
    "training.rollouts=2",
    "training.hidden=4",
    "test_trials=50",
]


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_every_study_runs_and_tells_what_is_earned(study: Path) -> None:
    words = [word for setting in TINY for word in ("--set", setting)]
    done = CliRunner().invoke(app, ["rl2", str(study), *words, "--format", "json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["n_steps"] == load_rl2(study).family().n_steps
    for row in found["strategies"]:
        assert row["gain"] == pytest.approx(row["last_episode"] - row["first_episode"], abs=1e-5)
    names = [row["strategy"] for row in found["strategies"]]
    assert names[0] == "random"
    assert names[-2:] == ["RL², drawn", "RL², likeliest action"]
    if found["family"] == "trainings":
        assert names[1] == "constant rate"
    if found["family"] == "bandits":
        assert "Thompson sampling" in names
        assert all(0 <= row["total_reward"] <= found["n_steps"] for row in found["strategies"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("trials.use=chess", "trials.use"),
        ("training.update=3", "did you mean training.updates"),
        ("training.lr=-1.0", "training.lr"),
        ("training.rollouts=1", "training.rollouts"),
        ("trials.options.legs=3", "unknown option 'legs'"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        load_rl2(STUDIES[0], [override]).family()
    assert "\n" not in str(error.value)
