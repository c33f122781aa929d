"""A genome as one Python file: it needs PyTorch alone, reads well, and steps as the library does."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from awkward_rule import AwkwardFamily
from standalone_driver import DTYPES, command, trained
from torch import Tensor, nn

from evometa import native
from evometa.errors import GenomeError
from evometa.export import EvolvedOptimizer
from evometa.export.standalone import export_standalone, standalone
from evometa.export.standalone import weights as stored
from evometa.genome.genome import Genome
from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.rules import RULES, SCHEDULES
from evometa.rules.base import Hyper, RuleFamily, StepContext, UpdateRule
from evometa.trees import Tree

Drawn = Callable[..., tuple[Genome, Tree]]
Case = tuple[str, str, int]

#: Every rule with a schedule, and every schedule with a rule.
CASES: list[Case] = [
    *((family, SCHEDULES.names()[i % len(SCHEDULES.names())], i) for i, family in enumerate(RULES.names())),
    *(("sgd", schedule, 0) for schedule in SCHEDULES.names()),
]
#: Random genomes of learned rules with every schedule, which take minutes.
MORE_CASES: list[Case] = [
    (name, schedule, 1000 + 10 * i + seed)
    for name, family in RULES
    if family.learned
    for i, schedule in enumerate(SCHEDULES.names())
    for seed in range(4)
]


def module_name(case: Case) -> str:
    return "_".join(map(str, case))


def write_all(cases: list[Case], drawn: Drawn, folder: Path) -> Path:
    """Standalone files of some genomes, and what training with them by themselves came to."""
    for case in cases:
        genome, weights = drawn(*case)
        export_standalone(
            folder / f"{module_name(case)}.py", genome, weights, horizon=77, provenance={"campaign": "test"}
        )
    run = subprocess.run(command(folder), capture_output=True, text=True, timeout=1500)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture(scope="module")
def files(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(CASES, drawn, tmp_path_factory.mktemp("standalone"))


def is_shortened(genome: Genome) -> bool:
    """Whether the file has another formula, in which nothing cancels out."""
    family = RULES[genome.family]
    return family.simplified(genome.genes) != genome.genes


def assert_steps_as_the_library(drawn: Drawn, folder: Path, case: Case) -> None:
    genome, weights = drawn(*case)
    reached: dict[str, Tensor] = torch.load(folder / f"{module_name(case)}.trained.pt", weights_only=True)
    with native.disabled():  # kernels add up in another order
        for dtype in DTYPES:
            expected = trained(
                lambda params, **options: EvolvedOptimizer(params, genome, weights, **options),
                dtype,
                interrupted=False,
            )
            if is_shortened(genome):
                torch.testing.assert_close(reached[str(dtype)], expected, rtol=1e-4, atol=1e-5)
            else:
                assert torch.equal(reached[str(dtype)], expected)
            assert not torch.equal(expected[0], expected[-1])


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look for it
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[path.stem]
    return module


def written(path: Path, genome: Genome, weights: Tree) -> ModuleType:
    export_standalone(path, genome, weights, horizon=50, provenance={})
    return load(path)


def one_step(optimizer_class: type[torch.optim.Optimizer]) -> float:
    """Where a step of gradient 1 takes a parameter that was 0."""
    parameter = nn.Parameter(torch.zeros((), dtype=torch.float64))
    parameter.grad = torch.ones_like(parameter)
    optimizer_class([parameter]).step()
    return parameter.item()


@pytest.mark.parametrize("case", CASES, ids=module_name)
def test_it_steps_as_the_library_bit_for_bit(files: Path, drawn: Drawn, case: Case) -> None:
    assert_steps_as_the_library(drawn, files, case)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_random_genomes_step_as_the_library(drawn: Drawn, tmp_path: Path) -> None:
    write_all(MORE_CASES, drawn, tmp_path)
    for case in MORE_CASES:
        assert_steps_as_the_library(drawn, tmp_path, case)


@pytest.mark.parametrize("case", CASES, ids=module_name)
def test_it_imports_nothing_but_python_and_torch(files: Path, case: Case) -> None:
    tree = ast.parse((files / f"{module_name(case)}.py").read_text())
    packages = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages.add(str(node.module).partition(".")[0])
    assert "torch" in packages
    assert packages - {"torch"} <= sys.stdlib_module_names - {"pickle"}


@pytest.mark.cpu_alone("nothing is computed, and ruff need not be where the GPU is")
def test_files_are_formatted_as_our_own_code(files: Path) -> None:
    ruff = [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "110", str(files)]
    run = subprocess.run(ruff, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_file_is_written_the_same_every_time(drawn: Drawn) -> None:
    genome, weights = drawn("mlp", "recurrent", 3)
    one, again = (standalone("best", genome, weights, horizon=5, provenance={}) for _ in range(2))
    assert one == again


def test_what_the_genome_does_not_do_is_not_in_the_file(drawn: Drawn) -> None:
    genome, weights = drawn("adam", "constant")
    text = standalone("best", genome, weights, horizon=5, provenance={}).text
    for foreign in ("guard", "lookahead", "sign()", "Signals", "has_kernel", "evometa.", "Space"):
        assert foreign not in text.split('"""', 2)[2], foreign


def test_the_header_says_what_it_is_and_where_it_comes_from(drawn: Drawn) -> None:
    genome, weights = drawn("adam", "cosine", lr=0.0125)
    provenance = {
        "campaign": 'a "name"\\ """',
        "seed": 3,
        "evometa": "9.8.7",
        "meta_valid": {"meta_loss": 0.5},
    }
    text = standalone("best", genome, weights, horizon=321, provenance=provenance).text
    header = ast.get_docstring(ast.parse(text))
    assert header is not None
    for said in (
        "adam",
        genome.id,
        "from best import EvolvedOptimizer",
        "0.0125",
        "cos",
        "9.8.7",
        '"seed": 3',
    ):
        assert said in header
    assert "321 if left out" in header
    assert '"meta_loss": 0.5' in header


CARD = """# Bench card: best

**Final loss 0.9 (0.8–1.1) times tuned Adam's.**

| figure | value |
|---|---|
| rule | mlp \\| "quoted" |
"""


@pytest.mark.parametrize("schedule", ["cosine", "recurrent"])
def test_the_header_says_that_steps_fade_where_anything_is_learned(drawn: Drawn, schedule: str) -> None:
    genome, weights = drawn("adam", schedule)
    header = ast.get_docstring(ast.parse(standalone("b", genome, weights, horizon=5, provenance={}).text))
    assert ("Past it, steps become smaller" in str(header)) == (schedule == "recurrent")


@pytest.mark.cpu_alone("nothing is computed, and ruff need not be where the GPU is")
def test_the_header_holds_the_bench_card(drawn: Drawn, tmp_path: Path) -> None:
    genome, weights = drawn("mlp")
    plain = standalone("best", genome, weights, horizon=5, provenance={}).text
    assert "bench card" not in plain
    files = export_standalone(
        tmp_path / "best.py", genome, weights, horizon=5, provenance={"campaign": "mine"}, card=CARD
    )
    header = load(files[0]).__doc__
    assert header is not None
    _, _, page = header.partition("Its bench card:\n\n")
    assert [line.strip() for line in page.rstrip().splitlines()] == CARD.splitlines()
    assert '"campaign": "mine"' in header
    ruff = [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "110", str(files[0])]
    run = subprocess.run(ruff, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_example_in_the_header_trains_a_model(
    drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genome, weights = drawn("adam", "recurrent", lr=0.03)
    module = written(tmp_path / "taken_home.py", genome, weights)
    lines = str(module.__doc__).split("How to use it")[1].split("``lr``")[0].splitlines()[1:]
    monkeypatch.syspath_prepend(str(tmp_path))
    model, x = nn.Linear(3, 1), torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    y, loss_function = x.sum(1, keepdim=True), nn.MSELoss()
    before = loss_function(model(x), y).item()
    names = {"model": model, "batches": [(x, y)] * 100, "loss_function": loss_function}
    exec("\n".join(line.removeprefix("    ") for line in lines), names)
    assert loss_function(model(x), y).item() < 0.5 * before


def test_without_a_horizon_it_takes_the_one_it_was_evolved_for(drawn: Drawn, tmp_path: Path) -> None:
    module = written(tmp_path / "best.py", *drawn("sgd", "cosine"))
    assert module.HORIZON == 50
    parameter = nn.Parameter(torch.zeros(2))
    ours = module.EvolvedOptimizer([parameter])
    assert int(ours.state_dict()["param_groups"][0]["schedule"]["horizon"]) == 50


def test_the_library_and_the_file_continue_each_other(drawn: Drawn, tmp_path: Path) -> None:
    genome, weights = drawn("recurrent", "recurrent")
    alone = written(tmp_path / "best.py", genome, weights).EvolvedOptimizer

    def library(params: list[nn.Parameter], **options: object) -> EvolvedOptimizer:
        return EvolvedOptimizer(params, genome, weights, **{"horizon": 50, **options})  # type: ignore[arg-type]

    for one, other in ((alone, library), (library, alone)):
        parameter = nn.Parameter(torch.ones(3, 2))
        parameter.grad = torch.full_like(parameter, 0.5)
        before = one([parameter])
        before.step()
        after = other([parameter], horizon=7)
        after.load_state_dict(before.state_dict())
        start = parameter.detach().clone()
        reached = []
        with native.disabled():
            for optimizer in (before, after):
                parameter.data.copy_(start)
                optimizer.step()
                reached.append(parameter.detach().clone())
        assert torch.equal(*reached)
        assert not torch.equal(reached[0], start)


def test_edited_genes_are_obeyed(drawn: Drawn, tmp_path: Path) -> None:
    genome, weights = drawn("sgd", lr=0.25)
    assert one_step(written(tmp_path / "best.py", genome, weights).EvolvedOptimizer) == -0.25
    edited = tmp_path / "edited.py"
    edited.write_text((tmp_path / "best.py").read_text().replace('"lr": 0.25,  #', '"lr": 0.5,  #'))
    assert one_step(load(edited).EvolvedOptimizer) == -0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("listed", "in_text"), [(10**6, 0), (0, 10**6), (0, 0)], ids=["lists", "text", "file"]
)
def test_weights_come_through_unchanged(
    drawn: Drawn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    listed: int,
    in_text: int,
) -> None:
    genome, weights = drawn("sgd", "recurrent", 1)
    weights = {name: value.to(dtype) for name, value in weights.items()}
    monkeypatch.setattr("evometa.export.standalone.file.MOST_LISTED", listed)
    monkeypatch.setattr("evometa.export.standalone.file.MOST_IN_TEXT", in_text)
    module = written(tmp_path / "best.py", genome, weights)
    assert (tmp_path / "best.weights.pt").exists() == (listed == in_text == 0)
    assert module.WEIGHTS.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(module.WEIGHTS[name].to(dtype), value)


def test_many_weights_are_beside_the_file_and_checked(
    drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genome, weights = drawn("recurrent")
    monkeypatch.setattr("evometa.export.standalone.file.MOST_LISTED", 0)
    monkeypatch.setattr("evometa.export.standalone.file.MOST_IN_TEXT", 0)
    files = export_standalone(tmp_path / "best.py", genome, weights, horizon=5, provenance={})
    assert files == [tmp_path / "best.py", tmp_path / "best.weights.pt"]
    torch.save({name: value + 1 for name, value in weights.items()}, files[1])
    with pytest.raises(ValueError, match="belongs to another optimizer"):
        load(files[0])


def test_no_registered_rule_has_more_weights_than_text_holds_by_default(drawn: Drawn) -> None:
    genome, weights = drawn("recurrent", hidden=20, layers=2, cell="lstm")
    assert stored.n_numbers(weights) <= stored.MOST_IN_TEXT
    assert standalone("best", genome, weights, horizon=5, provenance={}).weights is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("best.txt", "named like a Python module"),
        ("to-day.py", "named like a Python module"),
        ("lambda.py", "named like a Python module"),
        ("math.py", "hide Python's or PyTorch's own module 'math'"),
        ("torch.py", "hide Python's or PyTorch's own module 'torch'"),
        ("absent/best.py", "create it first"),
        ("folder.py", "Is a directory"),
    ],
)
def test_nothing_is_written_where_the_target_is_wrong(
    drawn: Drawn, tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(GenomeError, match=said) as caught:
        export_standalone(tmp_path / name, *drawn("adam"), horizon=5, provenance={})
    assert len(str(caught.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder.py"]


@pytest.mark.parametrize(("depth", "memory"), [(0, True), (1, False), (2, False), (2, True), (4, False)])
def test_a_rule_in_much_of_python_steps_as_the_library(
    drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int, memory: bool
) -> None:
    monkeypatch.setitem(RULES._members, "awkward", AwkwardFamily(depth, memory))
    genome, weights = drawn("awkward", "cosine")
    module = written(tmp_path / "best.py", genome, weights)
    reached = trained(module.EvolvedOptimizer, torch.float64, interrupted=True)
    expected = trained(
        lambda params, **options: EvolvedOptimizer(params, genome, weights, **options),
        torch.float64,
        interrupted=False,
    )
    assert torch.equal(reached, expected)
    assert torch.isfinite(reached).all()


class SignRule(UpdateRule):
    """Steps against signs, of which it keeps count, as a user might write it."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def init_weights(self, generator: torch.Generator) -> Tree:
        return {}

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        return {"seen": torch.zeros_like(params)}

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        return -self.scale * grads.sign(), {"seen": state["seen"] + 1}


class NumpyRule(SignRule):
    """The same with NumPy."""

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        return torch.from_numpy(np.sign(-grads.numpy())), state


class OwnFamily(RuleFamily):
    """The registry row of a user's rule."""

    name = "own"
    summary = "signs"

    def __init__(self, rule: type[SignRule]) -> None:
        self._rule = rule

    @property
    def space(self) -> Space:
        return Space(())

    def build(self, genes: Genes) -> UpdateRule:
        return self._rule(0.125)

    def describe(self, genes: Genes) -> str:
        return "Steps against signs."

    def formula(self, genes: Genes) -> str:
        return "Δ = −sgn g/8"


def test_text_from_a_genome_does_not_become_code(drawn: Drawn, tmp_path: Path) -> None:
    genome, weights = drawn("sgd")
    hostile = '"""\\\n}\nraise SystemExit("run")\n#'
    genes = {**genome.genes, f"meta.{hostile}": hostile}
    named = replace(genome, id=hostile, name=hostile, genes=genes)
    facts = {hostile: hostile, "evometa": hostile, "campaign": hostile}
    export_standalone(tmp_path / "best.py", named, weights, horizon=5, provenance=facts, card=hostile)
    assert load(tmp_path / "best.py").GENOME[f"meta.{hostile}"] == hostile


QUOTES = ['"""', "'''", '"' * 7, '\\"""', '\\\\"""', '\x00"""', '"\u202e""', "\\", '"']


@pytest.fixture(scope="module")
def plain(drawn: Drawn) -> ast.Module:
    """A file without a card."""
    return ast.parse(standalone("best", *drawn("sgd"), horizon=5, provenance={}).text)


@pytest.mark.parametrize(
    ("end", "last"),
    [
        ("\n", '"'),
        ("\r", "\\"),
        ("\r\n", '"""'),
        ("\x0c", '\\"'),
        ("\u2028", "#"),
        ("\\\n", '\\"""'),
        ("", '""'),
    ],
)
def test_a_card_stays_text(drawn: Drawn, plain: ast.Module, end: str, last: str) -> None:
    """It may end lines and quotes as it likes; what does not print is there as an escape."""
    hostile = end.join(
        ["# Card", *(f'{quotes}{end}raise SystemExit("run"){end}#' for quotes in QUOTES), last]
    )
    text = standalone("best", *drawn("sgd"), horizon=5, provenance={}, card=hostile).text
    found = ast.parse(text)
    assert str(ast.get_docstring(found)).count('raise SystemExit("run")') == len(QUOTES)
    assert list(map(ast.dump, found.body[1:])) == list(map(ast.dump, plain.body[1:]))
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_users_rule_comes_along(drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__, ModuleType(__name__)))
    monkeypatch.setitem(RULES._members, "own", OwnFamily(SignRule))
    module = written(tmp_path / "best.py", *drawn("own"))
    assert one_step(module.EvolvedOptimizer) == -0.125


def test_a_rule_that_needs_another_package_is_refused(
    drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RULES._members, "own", OwnFamily(NumpyRule))
    with pytest.raises(GenomeError, match="imports 'numpy'"):
        export_standalone(tmp_path / "best.py", *drawn("own"), horizon=5, provenance={})
    assert not any(tmp_path.iterdir())
