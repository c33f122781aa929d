"""From a finished campaign to figures and to an optimizer in somebody's training loop."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import pytest
import torch

from evometa import load_optimizer
from evometa.campaign import read_front
from evometa.genome.codec import load_genome, weights_to_bytes
from evometa.store import CampaignStore
from evometa.tasks.metric import PSNR
from evometa.tasks.quadratic import Quadratic


@pytest.fixture
def store(finished):
    with CampaignStore.open(finished.database, readonly=True) as opened:
        yield opened


def test_run_reports_every_generation_and_ends_with_the_front(evometa, finished) -> None:
    lines = finished.run.out.splitlines()
    generations = [line for line in lines if line.startswith("generation ")]
    assert [line.split(" (")[0] for line in generations] == [f"generation {i}" for i in range(4)]
    for line in generations:
        for word in ("meta_loss best", "median", "hypervolume", "failures", "inner steps/s"):
            assert word in line
    assert evometa("pareto", "tiny").out in finished.run.out
    assert finished.run.err == ""


def test_the_commands_that_run_suggests_work(evometa, finished) -> None:
    suggested = finished.run.out.split("Next:")[1].split("\n  evometa ")[1:]
    assert [command.split()[0] for command in suggested] == ["show", "plot", "export"]
    for command in suggested:
        if not command.startswith("plot"):  # drawing every figure takes long; see below
            assert evometa(*command.split()).code == 0


def test_plot_writes_the_figures_asked_for_and_names_the_files(evometa, tmp_path: Path) -> None:
    outcome = evometa("plot", "tiny", "--figure", "pareto_front", "--figure", "hypervolume_history")
    assert (outcome.code, outcome.err) == (0, "")
    files = [Path(line) for line in outcome.out.splitlines()]
    assert {file.stem for file in files} == {"pareto_front", "hypervolume_history"}
    assert {file.parent for file in files} == {Path("plots/tiny")}
    assert all((tmp_path / file).stat().st_size > 0 for file in files)


def test_an_exported_genome_is_the_stored_one_and_trains_a_model(
    evometa, store: CampaignStore, tmp_path: Path
) -> None:
    genome = next(one for one in store.genomes() if one.weights)
    outcome = evometa("export", "tiny", "--genome", genome.id, "--out", "it.safetensors")
    assert (outcome.code, outcome.err) == (0, "")
    assert 'evometa.load_optimizer("it.safetensors"' in outcome.out

    exported, weights, extra = load_genome(tmp_path / "it.safetensors")
    assert exported == genome
    assert extra["provenance"]["search"]["inner_steps"] == store.n_inner_steps() > 0
    assert extra["provenance"]["search"]["seconds"] > 0
    assert weights_to_bytes(weights) == store.weights_bytes(str(genome.weights))
    assert extra["horizon"] == 6
    assert extra["provenance"]["campaign"] == "tiny"
    assert extra["provenance"]["seed"] == 3

    model = torch.nn.Linear(3, 1)
    before = model.weight.detach().clone()
    optimizer = load_optimizer("it.safetensors", model.parameters(), lr=1.0)
    model(torch.ones(4, 3)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)
    assert torch.isfinite(model.weight).all()


def test_an_exported_genome_is_a_python_file_that_trains_a_model(
    evometa, store: CampaignStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genome = next(one for one in store.genomes() if one.weights)
    outcome = evometa("export", "tiny", "--genome", genome.id, "--standalone", "taken_home.py")
    assert (outcome.code, outcome.err) == (0, "")
    assert "from taken_home import EvolvedOptimizer" in outcome.out
    text = (tmp_path / "taken_home.py").read_text()
    for said in (genome.id, '"campaign": "tiny"', '"seed": 3', "HORIZON = 6"):
        assert said in text

    monkeypatch.syspath_prepend(str(tmp_path))
    model = torch.nn.Linear(3, 1)
    before = model.weight.detach().clone()
    optimizer = importlib.import_module("taken_home").EvolvedOptimizer(model.parameters(), lr=1.0)
    model(torch.ones(4, 3)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)


def test_both_files_in_one_go(evometa, tmp_path: Path) -> None:
    files = ("--out", "it.safetensors", "--standalone", "it.py")
    assert evometa("export", "tiny", "--knee", *files).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it.py", "it.safetensors"]


def test_an_exported_file_becomes_python_with_its_provenance_and_its_card(
    evometa, store: CampaignStore, tmp_path: Path
) -> None:
    (tmp_path / "card.md").write_text("# Bench card: it\n\n| rule | “a” |\n", encoding="utf-8")
    genome = next(one for one in store.genomes() if one.weights)
    straight = ("--out", "it.safetensors", "--standalone", "straight.py", "--card", "card.md")
    assert evometa("export", "tiny", "--genome", genome.id, *straight).code == 0
    outcome = evometa("export", "it.safetensors", "--standalone", "taken.py", "--out", "again.safetensors")
    assert (outcome.code, outcome.err) == (0, "")
    assert "from taken import EvolvedOptimizer" in outcome.out
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "it.safetensors").read_bytes()
    text = (tmp_path / "taken.py").read_text(encoding="utf-8")
    assert text.replace("from taken", "from straight") == (tmp_path / "straight.py").read_text("utf-8")
    for said in (genome.id, '"campaign": "tiny"', '"seed": 3', "# Bench card: it", "| rule | “a” |"):
        assert said in text


def test_a_card_can_be_added_to_a_file_and_replaced(evometa, tmp_path: Path) -> None:
    assert evometa("export", "tiny", "--knee", "--out", "it.safetensors").code == 0
    before = load_genome(tmp_path / "it.safetensors")
    for text in ("# One\n", "# Another\n"):
        (tmp_path / "card.md").write_text(text, encoding="utf-8")
        added = ("--out", "it.safetensors", "--card", "card.md")
        assert evometa("export", "it.safetensors", *added).code == 0
        genome, weights, extra = load_genome(tmp_path / "it.safetensors")
        assert extra.pop("bench_card") == text
        assert (genome, extra) == (before[0], before[2])
        assert weights_to_bytes(weights) == weights_to_bytes(before[1])


def test_knee_and_best_are_those_of_the_front(evometa, store: CampaignStore, tmp_path: Path) -> None:
    front = read_front(store)
    chosen = {"--knee": front.knee, "--best=state_floats": front.best("state_floats")}
    for selector, index in chosen.items():
        assert evometa("export", "tiny", selector, "--out", "chosen.safetensors").code == 0
        genome, _, extra = load_genome(tmp_path / "chosen.safetensors")
        assert genome == front.genomes[index]
        assert extra["provenance"]["meta_valid"]["meta_loss"] == front.values[index, 0]
        assert extra["provenance"]["meta_test"]["meta_loss"] == front.test_values[index, 0]


def test_compare_tells_which_is_better_and_by_how_much(evometa) -> None:
    rivals = ("--with", "momentum", "--with", "sgd:lr=1.0")
    outcome = evometa("compare", "tiny", "--knee", *rivals, "--tasks", 8, "--points", 3, "-f", "json")
    assert outcome.code == 0, outcome.err
    rows = json.loads(outcome.out)
    assert [row["rival"] for row in rows] == ["momentum", "sgd:lr=1.0"]
    for row in rows:
        low, high = row["interval"]
        assert low <= row["difference"] <= high
        assert row["wins_interval"][0] <= row["wins"] <= row["wins_interval"][1]
        assert row["verdict"] in ("better", "worse", "undecided")


def test_compare_on_tasks_that_the_campaign_has_not_seen(evometa) -> None:
    arguments = ("compare", "tiny", "--knee", "--with", "sgd", "--tasks", 4, "--points", 2, "-f", "json")
    (own,) = json.loads(evometa(*arguments).out)
    (same,) = json.loads(evometa(*arguments, "--on", "quadratic:dim=3").out)
    (longer,) = json.loads(evometa(*arguments, "--horizon", 40).out)
    (elsewhere,) = json.loads(evometa(*arguments, "--on", "rosenbrock:dims=[2]", "--horizon", 9).out)
    assert same == own
    assert [row["horizon"] for row in (own, longer, elsewhere)] == [6, 40, 9]
    assert longer["rival_mean"] < own["rival_mean"]  # tuned for the longer training
    assert elsewhere["tasks"] == "rosenbrock"


def test_a_family_with_a_metric_is_told_in_it(
    evometa, store: CampaignStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = read_front(store).genomes[0].id
    plain = json.loads(evometa("show", "tiny", best, "-f", "json").out)
    assert "metrics" not in plain
    arguments = ("compare", "tiny", "--genome", best, "--with", "sgd", "--tasks", 4, "--points", 2)
    assert "PSNR" not in evometa(*arguments).out
    monkeypatch.setattr(Quadratic, "metric", PSNR)
    (row,) = json.loads(evometa(*arguments, "-f", "json").out)
    assert row["metric"] == "PSNR [dB]"
    assert row["genome_metric"] >= -10 * math.log10(row["genome_mean"])  # the logarithm is concave
    assert "in other" in evometa(*arguments).out
    told = json.loads(evometa("show", "tiny", best, "-f", "json").out)["metrics"]
    runs = [run for one in store.evaluations(genome_ids=[best], split="meta_test") for run in one.tasks]
    finals = [-10 * math.log10(run.final_loss) for run in runs]
    (tested,) = [row for row in told if row["split"] == "meta_test"]
    assert (tested["family"], tested["metric"], tested["runs"]) == ("quadratic", "PSNR [dB]", len(runs))
    assert tested["final_loss"] == pytest.approx(sum(finals) / len(finals))
    assert tested["valid_loss"] is None  # quadratics hold nothing out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--with", "momentun"), "did you mean 'momentum'"),
        (("--with", "recurrent"), "expected a hand-designed rule"),
        (("--with", "sgd:lr"), "'lr' is not GENE=VALUE"),
        (("--with", "sgd:momentun=0.9"), "unknown gene 'momentun'"),
        (("--with", "sgd", "--split", "train"), "meta_train, meta_valid, meta_test"),
        (("--with", "sgd", "--on", "quadratics"), "did you mean 'quadratic'"),
        (("--with", "sgd", "--on", "quadratic:size=3"), "'size'"),
    ],
)
def test_compare_refuses_what_it_cannot_compare_with(evometa, arguments, problem) -> None:
    outcome = evometa("compare", "tiny", "--knee", *arguments)
    assert outcome.code == 2
    assert problem in " ".join(outcome.err.replace("│", " ").split())
