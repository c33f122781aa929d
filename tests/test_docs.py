"""The guides and the README say what is so: configurations load, code runs, commands and names exist."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import pkgutil
import re
import shlex
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from pydantic import TypeAdapter

import evometa
from evometa.campaign.ingredients import Ingredients
from evometa.cli.app import app
from evometa.config import CampaignConfig, TaskSource, load_config
from evometa.config.problems import allowed
from evometa.export import export_genome
from evometa.export.standalone import export_standalone
from evometa.genome.genome import Genome
from evometa.meta import ESTIMATORS
from evometa.objectives import OBJECTIVES
from evometa.plots.registry import FIGURES
from evometa.rng import torch_generator
from evometa.rules import RULES, SCHEDULES, Learner
from evometa.rules.symbolic_primitives import PRIMITIVES
from evometa.store.schema import SCHEMA
from evometa.tasks import TASKS, build_family

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CAMPAIGNS, HOW, RULE_PAGE, USE = (
    ROOT / "docs" / f"{name}.md"
    for name in ("campaigns", "how_it_works", "own_rules_and_objectives", "use_an_optimizer")
)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
GROUP: Any = typer.main.get_command(app)
VERBS = GROUP.commands
REGISTRIES = (TASKS, RULES, SCHEDULES, ESTIMATORS, OBJECTIVES, FIGURES)

#: Brings a campaign of the guides down to seconds.
TINY = [
    *("evolution.population=4", "evolution.generations=1", "evolution.seeds=[]"),
    *("tasks.0.n_tasks=2", "tasks.0.horizon=10", "refinement.n_tasks=2", "refinement.max_steps=2"),
    *("baseline.n_tasks=2", "baseline.n_points=2", "final.n_tasks=2", "final.test_tasks=2"),
    *('execution.backend="inline"', 'execution.device="cpu"'),
]

#: Several command lines in one process, which imports torch once.
RUN_LINES = """
import sys
from evometa.cli.app import main
for words in lines:
    sys.argv = ["evometa", *words]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block; one that begins with a comment like ``# mine.py`` is that file."""

    page: Path
    line: int
    kind: str
    text: str

    @property
    def file(self) -> str | None:
        found = re.match(r"# (\S+\.(?:py|toml))\n", self.text)
        return found[1] if found else None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(*kinds: str, pages: list[Path] = PAGES) -> list[Block]:
    found = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, match[1], match[2]))
    return [block for block in found if not kinds or block.kind in kinds]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def spans(page: Path) -> list[str]:
    """What stands in backticks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def table(page: Path, heading: str) -> list[list[str]]:
    """Cells of the first table under a heading, without its header."""
    _, _, below = prose(page).partition(f"\n{heading}\n")
    found = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert found, f"{page.name} has no table under {heading!r}"
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found[0].splitlines()]
    return [[cell.strip("| ") for cell in row] for row in rows[2:]]


def first_column(page: Path, heading: str) -> list[str]:
    return [name for row in table(page, heading) for name in re.findall(r"`([^`]+)`", row[0])]


def needs_user_code(block: Block) -> bool:
    document = tomllib.loads(block.text)
    named = [source["use"] for source in document["tasks"]]
    named += document.get("objectives", {}).get("use", [])
    families = document.get("evolution", {}).get("families", [])
    return any(":" in name for name in named) or any(family not in RULES for family in families)


CONFIGS = blocks("toml")
WORKED = [block for block in CONFIGS if needs_user_code(block)]


def commands(page: Path) -> Iterator[list[str]]:
    """The words after ``evometa`` of every command line in a shell block."""
    for block in blocks("sh", pages=[page]):
        for line in block.text.splitlines():
            words = shlex.split(line, comments=True)
            if "evometa" in words:
                yield words[words.index("evometa") + 1 :]


def test_every_block_says_what_it_is() -> None:
    assert {block.kind for block in blocks()} == {"toml", "toml snippet", "python", "sh", "text"}


@pytest.mark.parametrize("block", CONFIGS, ids=str)
def test_complete_configurations_load(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / (block.file or "unnamed.toml")
    path.write_text(block.text, encoding="utf-8")
    config = load_config(path)
    if block not in WORKED:
        monkeypatch.chdir(ROOT)
        Ingredients.of(config)


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles(block: Block) -> None:
    ast.parse(block.text, filename=str(block))


@every_page
def test_commands_in_the_text_exist(page: Path) -> None:
    for words in (span.split()[1:] for span in spans(page) if span.startswith("evometa ")):
        command = GROUP if words[0].startswith(("-", "…")) else VERBS[words[0]]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
        assert {word for word in words if word.startswith("-")} <= known, words


@every_page
def test_command_lines_are_accepted(page: Path, tmp_path: Path) -> None:
    for block in CONFIGS:
        if block.file:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
    for verb, *arguments in commands(page):
        # raises what the user would see
        options = VERBS[verb].make_context(verb, list(arguments)).params
        if verb == "run" and options["experiment"]:
            written = tmp_path / options["experiment"]
            experiment = written if written.is_file() else ROOT / options["experiment"]
            load_config(experiment, options["overrides"] or (), options["name"])


def sections() -> dict[str, tuple[tuple[str | int, ...], type]]:
    """Heading → key path and dataclass of every section."""
    found: dict[str, tuple[tuple[str | int, ...], type]] = {
        "### Top level": ((), CampaignConfig),
        "### `[[tasks]]`": (("tasks", 0), TaskSource),
    }
    for field in dataclasses.fields(CampaignConfig):
        made = default_of(field)
        if dataclasses.is_dataclass(made):
            found[f"### `[{field.name}]`"] = ((field.name,), type(made))
    return found


def default_of(field: dataclasses.Field[object]) -> object:
    """The default of a field of a pydantic dataclass; MISSING where there is none."""
    factory = getattr(field.default, "default_factory", None)
    return factory() if factory else field.default


@pytest.mark.parametrize("heading", sections())
def test_the_tables_of_keys_are_those_of_the_configuration(heading: str) -> None:
    path, section = sections()[heading]
    schema = TypeAdapter(CampaignConfig).json_schema()
    expected = []
    for field in dataclasses.fields(section):
        default, words = default_of(field), allowed((*path, field.name), schema)
        if dataclasses.is_dataclass(default):
            cells = ["its keys'", "a table"]
        elif field.name == "rungs":
            cells = ["two rungs", words]
        elif isinstance(default, dict):
            cells = ["{}", "a table"]
        elif default is dataclasses.MISSING:
            cells = ["the file's name" if field.name == "name" else "required", words]
        else:
            cells = [json.dumps(default), words]
        expected.append([f"`{field.name}`", *cells])
    assert [[row[0], *row[3:]] for row in table(CAMPAIGNS, heading)] == expected


def test_tables_of_names_are_complete() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid")
        tables = [name for (name,) in names if not name.startswith("sqlite_")]
    assert sorted(first_column(CAMPAIGNS, "## What is stored")) == sorted(tables)
    assert set(first_column(HOW, "## meta_loss")) == set(OBJECTIVES.names())
    rooms = {re.sub(r"\.py$", "", name) for name in first_column(HOW, "## The map")}
    assert rooms == {module.name for module in pkgutil.iter_modules(evometa.__path__)}
    assert set(FIGURES.names()) <= set(spans(CAMPAIGNS))
    groups = {f"evometa.{name}" for name in re.findall(r"`evometa\.(\w+)`", prose(RULE_PAGE))}
    assert {registry.entry_point_group for registry in REGISTRIES} <= groups


@every_page
def test_names_of_files_and_modules_exist(page: Path) -> None:
    groups = {registry.entry_point_group for registry in REGISTRIES}
    for span in spans(page):
        path = re.fullmatch(r"(?:evometa|docs|tests|experiments)/[\w/.]+", span)
        if path:
            assert (ROOT / span).exists(), span
        dotted = re.match(r"(?:help\()?(evometa(?:\.\w+)+)", span)
        if dotted and dotted[1] not in groups:
            pkgutil.resolve_name(dotted[1])


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file) if file else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", prose(there), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, target


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file of the guides, in which it is as if their packages were installed."""
    folder = tmp_path_factory.mktemp("workshop")
    points: list[str] = []
    for block in blocks("python", "toml", "toml snippet"):
        if block.file == "pyproject.toml":
            for group, entries in tomllib.loads(block.text)["project"]["entry-points"].items():
                points += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
        elif block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
    facts = folder / "guides-0.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: guides\nVersion: 0.1\n", encoding="utf-8")
    (facts / "entry_points.txt").write_text("\n".join(points), encoding="utf-8")
    return folder


def python(workshop: Path, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Python with the workshop's modules and entry points."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(workshop), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_worked_campaigns_run(workshop: Path, tmp_path: Path) -> None:
    settings = [word for setting in TINY for word in ("--set", setting)]
    lines = [["run", block.file, "--storage", str(tmp_path / "runs"), *settings] for block in WORKED]
    done = python(workshop, "-c", f"lines = {lines!r}\n{RUN_LINES}", cwd=workshop)
    assert (done.returncode, done.stderr) == (0, "")
    for block in WORKED:
        assert f"Campaign {str(block.file).removesuffix('.toml')} is finished" in done.stdout


def test_worked_members_pass_the_conformance_suite(workshop: Path) -> None:
    members = ("momentum_mixture", "inverse_root", "sines")
    chosen = " or ".join(members)
    done = python(
        workshop, "-m", "pytest", "-v", "-p", "no:cacheprovider", "tests/conformance", "-k", chosen, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout
    assert all(f"[{member}" in done.stdout for member in members)


@pytest.fixture
def in_workshop(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process finds the workshop's modules; what registries remember of entry points is forgotten."""

    def forget() -> None:
        for registry in REGISTRIES:
            vars(registry).pop("_plugins", None)

    monkeypatch.syspath_prepend(workshop)
    forget()
    yield
    forget()


@pytest.mark.usefixtures("in_workshop")
def test_families_in_snippets_can_be_built() -> None:
    sources = [
        source for block in blocks("toml snippet") for source in tomllib.loads(block.text).get("tasks", [])
    ]
    assert sources
    assert all(build_family(source["use"], source.get("options", {})).name for source in sources)


@pytest.mark.parametrize("page", [ROOT / "README.md", USE], ids=lambda page: page.name)
def test_code_that_uses_an_optimizer_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    learner = Learner.of("mlp", {"schedule": "recurrent", "nominal": "adam"})
    weights = learner.init_weights(torch_generator(0, "docs"))
    genome = Genome("000-000", learner.family, dict(learner.genes))
    for path in (Path("best.safetensors"), Path("populations/runs/quickstart/knee.safetensors")):
        path.parent.mkdir(parents=True, exist_ok=True)
        export_genome(path, genome, weights, horizon=100, provenance={"campaign": "docs"})
    export_standalone(Path("best.py"), genome, weights, horizon=100, provenance={"campaign": "docs"})
    other = Learner.of("lion", {"schedule": "cosine"})
    lion, path = Genome("000-001", other.family, dict(other.genes)), Path("hand_designed.safetensors")
    export_genome(path, lion, {}, horizon=100, provenance={"campaign": "docs"})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "best", raising=False)
    code = [block for block in blocks("python", pages=[page]) if block.file is None]
    assert code
    names: dict[str, object] = {}
    with torch.random.fork_rng(devices=[]):
        for block in code:
            exec(compile(block.text, str(block), "exec"), names)


def test_the_page_on_formulas_has_every_symbol() -> None:
    named = {re.sub(r"\(.*", "", span) for span in spans(ROOT / "docs" / "read_a_rule.md")}
    assert named.issuperset(PRIMITIVES.mapping)
