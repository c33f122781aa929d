"""``evometa adapt``: a table of held-out losses after some steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import run_command

from evometa.export import export_genome
from evometa.genome.genome import Genome
from evometa.layout import Layout
from evometa.rules import Learner
from evometa.rules.initialisation import by_tensor
from evometa.rules.learner_structure import learner_space
from evometa.rules.registry import RULES

OPTIONS = {"shots": 3, "width": 4, "depth": 1}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    genes = {**learner_space(RULES["sgd"]).complete({"schedule": "constant"}), "init": "learned"}
    genes |= {"init.rates": "shared", "init.adapts": "all"}
    layout = Layout.of({"0.weight": (4, 1), "0.bias": (4,), "1.weight": (1, 4), "1.bias": (1,)})
    weights = Learner.of("sgd", genes).init_weights(torch.Generator(), 0.1 * torch.ones(layout.size))
    path = tmp_path / "maml.safetensors"
    provenance = {"tasks": ["sinusoid"], "task_options": [OPTIONS]}
    export_genome(
        path, Genome("0", "sgd", genes), by_tensor(weights, layout), horizon=1, provenance=provenance
    )
    return path


def test_a_table_for_people_and_json_for_programs(file: Path) -> None:
    words = ("adapt", file.name, "--steps", "0,2", "--n-tasks", 4, "--with", "sgd", "--points", 2)
    outcome = run_command(*words)
    assert outcome.code == 0, outcome.err
    assert "Held-out rows of 4 meta_test tasks of sinusoid" in outcome.out
    rows = json.loads(run_command(*words, "--format", "json").out)
    assert [row["steps"] for row in rows] == [0, 2, 0, 2]
    assert all(row["loss"]["low"] <= row["loss"]["value"] <= row["loss"]["high"] for row in rows)
    assert rows[0]["difference"] is None
    assert rows[2]["difference"]["value"] == pytest.approx(
        rows[2]["loss"]["value"] - rows[0]["loss"]["value"]
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--steps", "1,-2"), "allowed are whole numbers from 0"),
        (("--split", "test"), "allowed is one of meta_train"),
        (("--tasks", "sinusoid"), "is for a model of 13 parameters, not 1,761"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(file: Path, words: tuple[str, ...], line: str) -> None:
    outcome = run_command("adapt", file.name, "--n-tasks", 2, *words)
    assert outcome.code == 2
    assert line in outcome.err
