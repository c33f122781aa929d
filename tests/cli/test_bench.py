"""``evometa bench``: from files to a table, documents, figures and cards."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Outcome, run_command

import evometa
from evometa.bench import cache
from evometa.export import export_genome
from evometa.genome.codec import load_genome
from evometa.rules.seeds import load_seeds

SMALL = ("--trials", 4, "--seeds", 2, "--horizon", 12, "--n-tasks", 2)
QUICK = (*SMALL, "--baselines", "sgd,adam+cosine", "--no-generalise")
TASKS = ("--tasks", "digits:widths=[8],depths=[1]", "--tasks", "quadratic:dim=3")


def exported(path: Path, tasks: object = ("quadratic",)) -> Path:
    """Adam as the seed has it, in an exported file."""
    (genome,) = load_seeds([Path(__file__).parents[2] / "populations" / "seeds" / "adam.json"])
    export_genome(path, genome, {}, horizon=12, provenance={"campaign": "mine", "tasks": tasks})
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with one genome file, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    exported(tmp_path / "knee.safetensors")
    return tmp_path


def bench(*words: object) -> Outcome:
    return run_command("bench", *words)


def test_a_genome_file_becomes_a_table_a_card_figures_and_a_document(folder: Path) -> None:
    outcome = bench("knee.safetensors", *TASKS, *QUICK, "--out", "found", "--attach")
    assert outcome.code == 0, outcome.err
    assert "Speedup over tuned Adam: " in outcome.out
    for words in ("│ knee ", "│ adam ", "│ sgd ", "│ adam+cosine "):
        assert words in outcome.out
    written = {path.name for path in (folder / "found").iterdir()}
    figures = {"profile.png", "curves.png", "speedups.png", "card.png"}
    assert written == {"bench.json", "losses.npz", "card.md", *figures}
    assert all((folder / "found" / name).stat().st_size > 10_000 for name in figures)
    text = (folder / "found" / "card.md").read_text(encoding="utf-8")
    for part in ("## Where it loses", "## Where it wins", "Not recorded (campaign mine", "## How it was"):
        assert part in text
    assert load_genome(folder / "knee.safetensors")[2]["bench_card"] == text
    assert evometa.load_optimizer("knee.safetensors", [torch.nn.Parameter(torch.zeros(3))])
    assert run_command("export", "knee.safetensors", "--standalone", "home.py").code == 0
    (folder / "found" / "card.md").rename(folder / "card.md")
    assert run_command("export", "knee.safetensors", "--standalone", "same.py", "--card", "card.md").code == 0
    header = str(ast.get_docstring(ast.parse((folder / "home.py").read_text(encoding="utf-8"))))
    assert [line.strip() for line in header.splitlines()][-len(text.splitlines()) :] == text.splitlines()
    assert (folder / "same.py").read_text("utf-8").replace("from same", "from home") == (
        folder / "home.py"
    ).read_text("utf-8")
    losses = np.load(folder / "found" / "losses.npz")
    assert losses["genome/knee"].shape == losses["baseline/adam"].shape == (4, 2, 13)


def test_the_document_holds_every_figure_and_what_it_takes_to_find_them_again(folder: Path) -> None:
    assert bench("knee.safetensors", *TASKS, *QUICK, "--out", "found").code == 0
    whole = json.loads((folder / "found" / "bench.json").read_text(encoding="utf-8"))
    assert (whole["format"], whole["version"]) == ("evometa.bench", 1)
    assert whole["command"].startswith("evometa bench knee.safetensors --tasks")
    assert {"evometa", "torch", "numpy"} <= set(whole["versions"])
    assert whole["settings"]["sources"][0] == {"use": "digits", "options": {"widths": [8], "depths": [1]}}
    assert (whole["settings"]["horizon"], whole["settings"]["adam_horizon"]) == (12, 48)
    assert whole["pool"] == "part of evometa pool 1: adam, adam+cosine, sgd"
    assert [task["family"] for task in whole["tasks"]] == ["digits"] * 2 + ["quadratic"] * 2
    assert [one["label"] for one in whole["entrants"]] == ["knee", "adam", "sgd", "adam+cosine"]
    for one in whole["entrants"]:
        for name in ("speedup", "final_ratio", "probability_of_improvement"):
            assert one[name]["low"] <= one[name]["value"] <= one[name]["high"]
        assert [task["task"] for task in one["tasks"]] == [task["task"] for task in whole["tasks"]]
        assert 0 <= one["score"] <= 1
        assert one["divergence_rate"] == 0
        assert whole["seconds"][one["label"]]["overhead"] > 0
    knee, adam = whole["entrants"][:2]
    assert set(knee["against"]) == {"adam", "sgd", "adam+cosine"}
    assert knee["genome"]["family"] == "adam"
    assert knee["genome"]["provenance"]["campaign"] == "mine"
    assert (knee["state_bytes_per_param"], adam["state_bytes_per_param"]) == (8, 8)
    assert [len(tuned["scores"]) for tuned in adam["tuned"]] == [4, 4]


def test_a_second_bench_finds_the_same_and_trains_no_baseline(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench("knee.safetensors", *QUICK, "--out", "found").code == 0
    first = json.loads((folder / "found" / "bench.json").read_text(encoding="utf-8"))
    monkeypatch.setattr(cache.training, "train", None)
    assert bench("knee.safetensors", *QUICK, "--out", "found").code == 0
    second = json.loads((folder / "found" / "bench.json").read_text(encoding="utf-8"))
    assert first.pop("seconds").keys() == second.pop("seconds").keys()
    assert first == second
    assert first["settings"]["sources"] == [{"use": "quadratic", "options": {}}]  # as the file says


def test_without_a_cache_nothing_is_kept(folder: Path) -> None:
    assert bench("knee.safetensors", *QUICK, "--no-cache").code == 0
    assert not (folder / "cache").exists()
    assert (folder / "bench" / "knee" / "card.md").is_file()


def test_programs_get_numbers_and_several_genomes_a_card_each(folder: Path) -> None:
    exported(folder / "best.safetensors")
    files = ("knee.safetensors", "best.safetensors")
    outcome = bench(*files, *SMALL, "--baselines", "sgd", "--out", "found", "-f", "json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert [one["entrant"] for one in found["entrants"]][:2] == ["knee", "best"]
    assert found["entrants"][0]["speedup"] == found["entrants"][1]["speedup"]
    changed = {row["change"] for row in found["generalisation"] if row["label"] == "best"}
    assert {"10× the trained horizon", "another family: digits"} <= changed
    cards = sorted(path.name for path in (folder / "found").glob("card*"))
    assert cards == ["card-best.md", "card-best.png", "card-knee.md", "card-knee.png"]
    assert "tasks unlike these: " in (folder / "found" / "card-best.md").read_text(encoding="utf-8")


def test_tasks_may_be_those_of_an_experiment_or_of_ones_own(folder: Path, tiny_text: str) -> None:
    (folder / "tiny.toml").write_text(tiny_text, encoding="utf-8")
    outcome = bench("knee.safetensors", *QUICK, "--tasks", "tiny.toml", "--out", "found", "-f", "json")
    assert outcome.code == 0, outcome.err
    whole = json.loads((folder / "found" / "bench.json").read_text(encoding="utf-8"))
    assert whole["settings"]["sources"] == [{"use": "quadratic", "options": {"dim": 3}}]
    outcome = bench("knee.safetensors", *QUICK, "--tasks", "small_networks:family", "-f", "csv")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("entrant,kind,speedup,")


REFUSED = {
    "a missing file": (("none.safetensors",), "none.safetensors: no such file"),
    "an unknown family": (("knee.safetensors", "--tasks", "digit"), "did you mean 'digits'?"),
    "an unknown option": (("knee.safetensors", "--tasks", "digits:width=[3]"), "did you mean 'widths'?"),
    "options that are none": (("knee.safetensors", "--tasks", "digits:wide"), "NAME:OPTION=VALUE"),
    "an unknown baseline": (("knee.safetensors", "--baselines", "adan"), "did you mean 'adam'?"),
    "one genome twice": (("knee.safetensors", "knee.safetensors"), "two genome files are called 'knee'"),
    "a folder that is none": (("knee.safetensors", "--out", "knee.safetensors"), "name another --out"),
    "a seed that needs weights": (("learned.json",), "export it"),
    "a card for a seed": (("plain.json", "--tasks", "quadratic", "--attach"), "has no place for a card"),
    "a seed without tasks": (("plain.json",), "say which with --tasks"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_benched_is_one_line(what: str, folder: Path) -> None:
    seeds = Path(__file__).parents[2] / "populations" / "seeds"
    (folder / "learned.json").write_text((seeds / "l2l_lstm.json").read_text(encoding="utf-8"))
    (folder / "plain.json").write_text((seeds / "adam.json").read_text(encoding="utf-8"))
    words, problem = REFUSED[what]
    outcome = bench(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert problem in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lion_pytorch", None)
    outcome = bench("knee.safetensors")
    assert outcome.code == 2
    assert "comes with the package lion-pytorch, which is not installed" in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("tasks", [["trap:family"], ["quadratic", "trap:family"], "quadratic", [3], {}])
def test_code_that_a_file_names_is_never_imported(tasks: object, folder: Path) -> None:
    (folder / "trap.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    exported(folder / "theirs.safetensors", tasks)
    outcome = bench("theirs.safetensors", *QUICK)
    assert outcome.code == 2
    assert "say which with --tasks" in outcome.err
    assert "trap" not in sys.modules
