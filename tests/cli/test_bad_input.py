"""What a user gets wrong: one line on the standard error, exit code 2, nothing written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from evometa.genome.codec import save_genome
from evometa.genome.genome import Genome

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")

#: (what is replaced in the TOML, by what, what the line must say)
MISTAKES = [
    ("population = 4", "populaton = 4", ["evolution.populaton", "did you mean evolution.population"]),
    ("population = 4", 'population = "4"', ["evolution.population", '"4"', "whole number of at least 4"]),
    ("population = 4", "population = 3", ["evolution.population = 3", "of at least 4"]),
    ("[evolution]", "[evolution", ["not valid TOML"]),
    ('use = "quadratic"', 'use = "quadratics"', ["tasks.0", "quadratics", "did you mean 'quadratic'"]),
    ('use = "quadratic"', 'use = "no_such_module:family"', ["tasks.0", "no_such_module"]),
    ("dim = 3", "dims = 3", ["tasks.0", "'dims'", "did you mean 'dim'"]),
    ("dim = 3", "dim = 0", ["tasks.0", "'dim' is 0", "allowed"]),
    ('"adam", "recurrent"', '"adan"', ["evolution.families", "'adan'", "did you mean 'adam'"]),
    ("hidden = 4", "hiden = 4", ["genes", "'hiden'", "did you mean 'hidden'"]),
    ("hidden = 4", "hidden = 4000", ["genes", "'hidden'", "4000", "a whole number from"]),
    ("seeds = []", 'seeds = ["nowhere"]', ["evolution.seeds", "nowhere"]),
    ("[final]", '[objectives]\nuse = ["meta_los"]\n[final]', ["objectives.use", "did you mean 'meta_loss'"]),
    pytest.param('"cpu"', '"cuda:9"', ["execution.device", "no CUDA GPU"], marks=NO_GPU),
]


def one_line(outcome, *fragments: str) -> None:
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    for fragment in fragments:
        assert fragment in line


@pytest.mark.parametrize(("good", "bad", "said"), MISTAKES)
def test_a_mistake_in_the_toml(evometa, tiny_text: str, tmp_path: Path, good, bad, said) -> None:
    assert good in tiny_text
    experiment = tmp_path / "mine.toml"
    experiment.write_text(tiny_text.replace(good, bad, 1), encoding="utf-8")
    one_line(evometa("run", experiment, "--storage", tmp_path / "runs"), str(experiment), *said)
    assert list(tmp_path.iterdir()) == [experiment]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("evolution.populaton=4", "evolution.populaton"),
        ("evolution.population=many", "evolution.population"),
        ("population", "KEY=VALUE"),
        ("tasks.7.horizon=5", "tasks.0"),
    ],
)
def test_a_mistake_in_an_override(evometa, finished, tmp_path: Path, setting: str, said: str) -> None:
    outcome = evometa("run", finished.experiment, "--set", setting, "--storage", tmp_path / "runs")
    one_line(outcome, f"--set {setting}", said)
    assert not (tmp_path / "runs").exists()


MODEL = """
import torch
from evometa.tasks import supervised

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x):
        {forward}

data = torch.ones(80, 2), torch.ones(80, 1)
family = supervised(name="mine", model=Model, loss=torch.nn.functional.mse_loss, train=data, valid=data,
                    batch_size=4)
"""


NO_TEST_DATA = """
from dataclasses import dataclass
from evometa.tasks import TaskFamily, build_family

@dataclass(frozen=True)
class Family(TaskFamily):
    name = "mine"
    summary = "quadratics, but not for the test"

    def sample(self, split, n_tasks, generator):
        if split == "meta_test":
            raise FileNotFoundError("the test data is away")
        return build_family("quadratic", {"dim": 3}).sample(split, n_tasks, generator)

family = Family()
"""


@pytest.fixture
def users_task(evometa, tiny_text: str, tmp_path: Path, monkeypatch):
    """Runs the tiny campaign on ``family`` of a user's module of the given source."""

    def run(source: str):
        (tmp_path / "mine.py").write_text(source, encoding="utf-8")
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        text = tiny_text.replace('"quadratic"', '"mine:family"').replace("options = { dim = 3 }", "")
        (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
        return evometa("run", "mine.toml", "--storage", "runs")

    return run


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        ("raise ValueError('the sensor is off')", "the sensor is off"),
        ("return self.layer(x) * float('nan')", "is nan"),
        ("return self.layer(x[:, :1])", "mat1 and mat2"),
    ],
)
def test_a_users_model_that_cannot_be_trained(users_task, tmp_path: Path, forward: str, said: str) -> None:
    one_line(users_task(MODEL.format(forward=forward)), "mine.toml", "tasks.0", "mine:family", said)
    assert not (tmp_path / "runs").exists()


def test_a_users_task_that_lacks_a_split(users_task, tmp_path: Path) -> None:
    one_line(users_task(NO_TEST_DATA), "tasks.0", "meta_test", "the test data is away")
    assert not (tmp_path / "runs").exists()


def test_no_experiment(evometa) -> None:
    one_line(evometa("run"), "TOML")
    one_line(evometa("run", "--resume"), "--name NAME")
    one_line(evometa("run", "nowhere.toml"), "nowhere.toml", "no such file")


@pytest.mark.parametrize("verb", ["status", "show", "pareto", "plot", "export --knee --out x.safetensors"])
def test_a_missing_campaign(evometa, tmp_path: Path, verb: str) -> None:
    one_line(evometa(*verb.split(), "tiyn"), "unknown campaign 'tiyn'", "did you mean 'tiny'")
    assert not any(tmp_path.iterdir())


def test_a_missing_genome(evometa) -> None:
    one_line(evometa("show", "tiny", "000-009"), "no genome '000-009'", "did you mean '000-00")


def test_a_file_that_is_no_campaign(evometa, tmp_path: Path) -> None:
    foreign = tmp_path / "campaign.db"
    foreign.write_bytes(b"no database at all" * 100)
    one_line(evometa("status", foreign), "not an SQLite database")


def test_an_unknown_figure_is_refused_before_anything_is_drawn(evometa, tmp_path: Path) -> None:
    outcome = evometa("plot", "tiny", "--figure", "genealogy", "--figure", "pareto_frontt")
    one_line(outcome, "unknown figure 'pareto_frontt'", "did you mean 'pareto_front'")
    assert not any(tmp_path.iterdir())


def test_a_campaign_that_exists_is_not_run_over(evometa, finished) -> None:
    before = finished.database.read_bytes()
    one_line(evometa("run", finished.experiment), "'tiny' exists already", "--resume")
    assert finished.database.read_bytes() == before


@pytest.mark.parametrize("selectors", ["", "--knee --genome 000-000", "--best meta_loss --knee"])
def test_export_wants_exactly_one_selector(evometa, tmp_path: Path, selectors: str) -> None:
    outcome = evometa("export", "tiny", *selectors.split(), "--out", "x.safetensors")
    assert (outcome.code, outcome.out) == (2, "")
    assert "exactly one" in outcome.err
    assert not any(tmp_path.iterdir())


def test_export_wants_a_file_to_write(evometa, tmp_path: Path) -> None:
    outcome = evometa("export", "tiny", "--knee")
    assert (outcome.code, outcome.out) == (2, "")
    assert "--out" in outcome.err
    assert "--standalone" in outcome.err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [
        ("--out", "absent/x.safetensors", "create it first"),
        ("--out", ".", "is a directory"),
        ("--standalone", "absent/x.py", "create it first"),
        ("--standalone", "x.safetensors", "best.py"),
        ("--standalone", "to-day.py", "best.py"),
    ],
)
def test_export_to_where_it_cannot_be_written(
    evometa, tmp_path: Path, option: str, name: str, said: str
) -> None:
    one_line(evometa("export", "tiny", "--knee", option, name), name, said)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("selectors", ["--knee", "--best meta_loss", "--genome 000-000"])
def test_an_exported_file_holds_one_genome(evometa, tmp_path: Path, selectors: str) -> None:
    outcome = evometa("export", "it.safetensors", *selectors.split(), "--standalone", "it.py")
    one_line(outcome, "it.safetensors", "leave out --knee, --best and --genome")
    assert not any(tmp_path.iterdir())


def test_export_of_a_file_that_is_missing_or_something_else(evometa, tmp_path: Path) -> None:
    one_line(evometa("export", "it.safetensors", "--standalone", "it.py"), "it.safetensors", "no such file")
    (tmp_path / "it.safetensors").write_bytes(b"no tensors")
    one_line(evometa("export", "it.safetensors", "--standalone", "it.py"), "truncated or foreign")
    outcome = evometa("export", "it.safetensors")
    assert outcome.code == 2
    assert "--standalone" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["it.safetensors"]


def test_export_of_a_file_that_names_no_horizon(evometa, tmp_path: Path) -> None:
    genes = {"lr": 0.1, "schedule": "constant"}
    save_genome(tmp_path / "it.safetensors", Genome("1", "sgd", genes), {})
    one_line(evometa("export", "it.safetensors", "--standalone", "it.py"), "names no trained horizon")
    assert [path.name for path in tmp_path.iterdir()] == ["it.safetensors"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("folder", "is a directory"),
        (b"x" * 70_000, "longer than 65,536 bytes"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
    ],
)
@pytest.mark.parametrize("option", ["--out it.safetensors", "--standalone it.py"])
def test_a_card_that_is_none(
    evometa, tmp_path: Path, option: str, content: bytes | str | None, said: str
) -> None:
    card = tmp_path / "card.md"
    if content == "folder":
        card.mkdir()
    elif isinstance(content, bytes):
        card.write_bytes(content)
    there = list(tmp_path.iterdir())
    one_line(evometa("export", "tiny", "--knee", *option.split(), "--card", "card.md"), "card.md", said)
    assert list(tmp_path.iterdir()) == there


def test_export_by_an_unknown_objective(evometa, tmp_path: Path) -> None:
    outcome = evometa("export", "tiny", "--best", "state_float", "--out", "x.safetensors")
    one_line(outcome, "'state_float'", "did you mean 'state_floats'")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("status", "tiny", "--storage"), ("list", "--storage")])
@pytest.mark.parametrize("storage", ["x" * 300, "~nobody-of-that-name/x"])
def test_a_storage_that_cannot_be_looked_up(evometa, words: tuple[str, ...], storage: str) -> None:
    one_line(evometa(*words, storage), storage)


@pytest.mark.parametrize("campaign", ["x" * 300, f"there/{'x' * 300}", "~nobody-of-that-name"])
def test_a_campaign_that_cannot_be_looked_up(evometa, campaign: str) -> None:
    one_line(evometa("status", campaign), Path(campaign).name[:60])  # a long one is cut
