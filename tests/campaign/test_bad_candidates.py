"""Whatever one candidate does, the campaign ends well, its row says what it was, and no neighbour notices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import Outcome, run_command
from faulty_rules import registered, write_seed

from evometa.genome.genome import Genome
from evometa.store import CampaignStore, Evaluation

CAMPAIGN = """
seed = 5
[[tasks]]
use = "quadratic"
n_tasks = 2
horizon = 60
options = {{ dim = 3 }}
[evolution]
population = {population}
generations = 1
families = [{families}]
seeds = ["{folder}"]
[genes]
"meta.estimator" = "tbptt"
"meta.second_order" = false
"meta.steps" = 2
"meta.unroll_length" = 10
"meta.truncation" = 5
[refinement]
n_tasks = 2
[final]
n_tasks = 2
test_tasks = 2
[baseline]
n_tasks = 2
n_points = 2
[execution]
backend = "inline"
device = "cpu"
"""
#: What a candidate does → the status of its evaluation and its message.
FAULTS = {
    "diverges": ("diverged", ""),
    "gives NaN": ("diverged", ""),
    "has an exploding state": ("diverged", ""),
    "raises": ("error", "ValueError: no such step"),
    "raises on the 50th step": ("error", "ValueError: one step too many"),
    "asks for too much memory": ("out_of_memory", "RuntimeError: "),
}
#: What it does in meta-training alone → what becomes of its weights.
META_FAULTS = {
    "has NaN meta-gradients": "initialised; refined 2 meta-steps, 2 skipped for a non-finite meta-gradient",
    "raises in meta-training": "initialised; refinement failed (error: ValueError: no graph)",
}
REFINED = {"meta.write_back": "lamarckian"}
AS_BORN = {"meta.write_back": "none"}
#: Sound seeds: two that are meta-trained and two that are not, among which the bad ones stand.
SOUND = {
    "1-good": (3e-3, REFINED),
    "4-good": (1e-2, REFINED),
    "5-good": (2e-2, AS_BORN),
    "9-good": (5e-2, AS_BORN),
}


@dataclass(frozen=True)
class Ended:
    """A campaign that has come to its end."""

    storage: Path
    run: Outcome
    genomes: dict[str, Genome]
    evaluations: dict[str, Evaluation]

    def show(self, name: str, *words: str) -> Outcome:
        """``evometa show`` of a seed, by its name."""
        campaign = next(self.storage.iterdir())
        return run_command("show", campaign, self.genomes[name].id, *words)


def run(folder: Path, text: str, *overrides: str) -> Ended:
    """Run a campaign to its end in a folder of its own."""
    experiment = folder / "bad.toml"
    experiment.write_text(text, encoding="utf-8")
    settings = [word for override in overrides for word in ("--set", override)]
    outcome = run_command("run", experiment, "--storage", folder / "runs", *settings)
    assert outcome.code == 0, outcome.err
    (folder / "runs" / ".baselines.json").unlink(missing_ok=True)
    with CampaignStore.open(folder / "runs" / "bad" / "campaign.db", readonly=True) as store:
        assert store.status() == "finished"
        genomes = {genome.name: genome for genome in store.genomes() if genome.name}
        found = {one.genome_id: one for one in store.evaluations(generation=0, purpose="fitness")}
    evaluations = {name: found[genome.id] for name, genome in genomes.items() if genome.id in found}
    return Ended(folder / "runs", outcome, genomes, evaluations)


def what_was_found(ended: Ended, name: str) -> tuple[str, ...]:
    """Everything about a seed that must not depend on others, to the last bit."""
    genome, evaluation = ended.genomes[name], ended.evaluations[name]
    rows = [repr(tuple(row)) for row in evaluation.tasks]  # NaN equals NaN by its text
    return (str(genome.weights), genome.lineage.weights, evaluation.status, evaluation.message, *rows)


@pytest.fixture(scope="module", autouse=True)
def faulty_family() -> Iterator[None]:
    with registered():
        yield


def campaign_of(folder: Path, bad: dict[str, str]) -> Ended:
    """The sound seeds with ``bad`` ones, by name, each with its fault."""
    seeds = folder / "seeds"
    seeds.mkdir()
    for name, (rate, genes) in SOUND.items():
        write_seed(seeds, name, "faulty", fault="none", lr=rate, **genes)
    for name, fault in bad.items():
        write_seed(seeds, name, "faulty", fault=fault, **(REFINED if fault in META_FAULTS else AS_BORN))
    return run(folder, CAMPAIGN.format(population=len(SOUND) + len(bad), folder=seeds, families='"faulty"'))


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The sound seeds alone."""
    return campaign_of(tmp_path_factory.mktemp("without"), {})


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """All faults at once, so that chunks are halved again and again."""
    bad = {f"{3 if fault in META_FAULTS else 7}-{fault}": fault for fault in (*FAULTS, *META_FAULTS)}
    return campaign_of(tmp_path_factory.mktemp("disturbed"), bad)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_candidate_has_its_status_and_message(disturbed: Ended, fault: str) -> None:
    status, message = FAULTS[fault]
    evaluation = disturbed.evaluations[f"7-{fault}"]
    assert (evaluation.status, {row.status for row in evaluation.tasks}) == (status, {status})
    assert evaluation.message.startswith(message)
    assert bool(evaluation.message) == bool(message)
    assert "\n" not in evaluation.message


@pytest.mark.parametrize("fault", FAULTS)
def test_show_tells_of_a_bad_candidate(disturbed: Ended, fault: str) -> None:
    status, message = FAULTS[fault]
    told = disturbed.show(f"7-{fault}")
    assert (told.code, told.err) == (0, "")
    assert f"2 {status}" in told.out
    assert message in told.out
    (row,) = json.loads(disturbed.show(f"7-{fault}", "--format", "json").out)["evaluations"]
    assert row["runs"] == {status: 2}
    assert row["message"] == disturbed.evaluations[f"7-{fault}"].message


@pytest.mark.parametrize("fault", META_FAULTS)
def test_a_candidate_that_cannot_be_meta_trained_keeps_its_weights(disturbed: Ended, fault: str) -> None:
    name = f"3-{fault}"
    assert disturbed.genomes[name].lineage.weights == META_FAULTS[fault]
    assert disturbed.genomes[name].weights == disturbed.genomes["9-good"].weights, "as all were born"
    assert disturbed.evaluations[name].status == "complete"
    assert META_FAULTS[fault] in " ".join(disturbed.show(name).out.split())


def test_status_tells_why_genomes_failed(disturbed: Ended) -> None:
    told = json.loads(run_command("status", next(disturbed.storage.iterdir()), "--format", "json").out)
    reasons = [value for name, value in told.items() if name.startswith("failed.")]
    known = {genome.id: name for name, genome in disturbed.genomes.items()}
    first = {why.partition(" × ")[2].rpartition(", first ")[0]: known[why[-7:]] for why in reasons}
    assert (
        first.pop(next(why for why in first if why.startswith("out_of_memory")))
        == "7-asks for too much memory"
    )
    assert first == {
        "error: ValueError: no such step": "7-raises",
        "error: ValueError: one step too many": "7-raises on the 50th step",
        "refinement failed (error: ValueError: no graph)": "3-raises in meta-training",
    }


@pytest.mark.parametrize("name", SOUND)
def test_neighbours_do_not_notice(disturbed: Ended, without: Ended, name: str) -> None:
    """They share a structure with the bad ones, and so a chunk."""
    assert what_was_found(disturbed, name) == what_was_found(without, name)
    assert without.evaluations[name].status == "complete"


@pytest.mark.parametrize("fault", [*FAULTS, *META_FAULTS])
@pytest.mark.slow
def test_neighbours_do_not_notice_any_of_them_alone(without: Ended, fault: str, tmp_path: Path) -> None:
    ended = campaign_of(tmp_path, {f"3-{fault}": fault})
    for name in SOUND:
        assert what_was_found(ended, name) == what_was_found(without, name)


Seeds = dict[str, tuple[str, dict[str, object]]]


def with_and_mended(
    folder: Path, text: str, seeds: Seeds, bad: str, *overrides: str, **genes: object
) -> Ended:
    """The campaign of ``seeds``; the others are asserted to fare as they do where ``genes`` mend ``bad``."""
    found = []
    for own in ({}, genes):
        place = folder / f"{len(own)} mended"
        (place / "seeds").mkdir(parents=True)
        for name, (family, given) in seeds.items():
            write_seed(place / "seeds", name, family, **{**given, **(own if name == bad else {})})
        families = ", ".join(sorted({f'"{family}"' for family, _ in seeds.values()}))
        whole = text.format(population=len(seeds), folder=place / "seeds", families=families)
        found.append(run(place, whole, *overrides))
    first, mended = found
    assert {one.status for one in mended.evaluations.values()} == {"complete"}
    for name in seeds.keys() - {bad}:
        assert what_was_found(first, name) == what_was_found(mended, name)
    return first


def test_a_slow_candidate_has_timed_out(tmp_path: Path) -> None:
    seeds: Seeds = {  # the slow one shares its chunk with a sound one
        "1-sound": ("faulty", {"fault": "none", **AS_BORN}),
        "2-slow": ("faulty", {"fault": "is slow", **AS_BORN}),
        "3-adam": ("adam", {"lr": 1e-2}),
        "4-large": ("recurrent", {"layers": 2, "hidden": 32, **AS_BORN}),
    }
    text = CAMPAIGN.replace("horizon = 60", "horizon = 30")
    ended = with_and_mended(tmp_path, text, seeds, "2-slow", "execution.timeout_seconds=0.5", fault="none")
    evaluation = ended.evaluations["2-slow"]
    assert (evaluation.status, evaluation.message) == ("timeout", "OutOfTime: not done after 0.5 s")
    told = ended.show("2-slow").out
    assert "2 timeout" in told
    assert evaluation.message in told


def test_a_candidate_with_a_hidden_size_that_does_not_fit_is_out_of_memory(tmp_path: Path) -> None:
    """On a model of 76,810 parameters two layers of 32 units keep 40 MB of state for a single task."""
    seeds: Seeds = {
        "1-adam": ("adam", {"lr": 1e-2}),
        "2-large": ("recurrent", {"layers": 2, "hidden": 32, **AS_BORN}),
        "3-small": ("recurrent", {"layers": 1, "hidden": 4, **AS_BORN}),
        "4-mlp": ("mlp", {"layers": 1, "hidden": 4, "features": ["gradient"], **AS_BORN}),
    }
    text = CAMPAIGN.replace("horizon = 60", "horizon = 2").replace('use = "quadratic"', 'use = "digits"')
    text = text.replace("dim = 3", "widths = [1024], depths = [1], batch_size = 8")
    memory = f"execution.max_memory_bytes={2**27}"
    ended = with_and_mended(tmp_path, text, seeds, "2-large", memory, layers=1, hidden=5)
    evaluation = ended.evaluations["2-large"]
    assert evaluation.status == "out_of_memory"
    assert evaluation.message.startswith(
        "MemoryError: training on one task of 'recurrent' on digits MLP 64-1024-10"
    )
    assert evaluation.message.endswith("raise execution.max_memory_bytes or run fewer workers")
    told = ended.show("2-large").out
    assert "2 out_of_memory" in told
    assert evaluation.message in told


def test_rules_that_cannot_even_be_measured_are_errors(tmp_path: Path) -> None:
    """Chunks are planned, and the objective ``flops`` is told, by what an update costs."""
    (tmp_path / "seeds").mkdir()
    for name, broken in {"1-good": False, "2-broken": True, "3-broken": True, "4-good": False}.items():
        genes = {"fault": "none", "broken": broken, "lr": 10.0 ** -int(name[0]), **AS_BORN}
        write_seed(tmp_path / "seeds", name, "faulty", **genes)
    text = CAMPAIGN.format(population=4, folder=tmp_path / "seeds", families='"faulty"')
    ended = run(tmp_path, text, 'objectives.use=["meta_loss", "flops"]')
    for name, evaluation in ended.evaluations.items():
        status, message = (
            ("error", "KeyError: 'a number of its own'") if "broken" in name else ("complete", "")
        )
        assert (evaluation.status, evaluation.message) == (status, message)
    told = ended.show("2-broken")
    assert (told.code, told.err) == (0, "")
    assert "KeyError: 'a number of its own'" in told.out
