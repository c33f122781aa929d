"""A genome as one Python file that needs PyTorch alone, made from the code that evolved it.

The rule's and the schedule's functions, the optimizer's class and what they use are collected from evometa's
modules and specialised to the genome: what its genes decide is decided, so that the rule of Adam reads like
Adam. Nothing is written twice, and a rule that is registered needs nothing of its own for this.
"""

from __future__ import annotations

import json
import keyword
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import evometa
from evometa import native
from evometa.errors import GenomeError, clipped, one_line
from evometa.export import recorded
from evometa.export.file import check_weights, learner_of
from evometa.export.optimizer import EvolvedOptimizer
from evometa.export.standalone.assembly import assembled
from evometa.export.standalone.definitions import Definition, External, Reference, Written
from evometa.export.standalone.expression_text import expression
from evometa.export.standalone.printer import docstring
from evometa.export.standalone.program import Program
from evometa.export.standalone.sources import Module, Sources
from evometa.export.standalone.values import Known, Later, Unwritable, plain_node
from evometa.export.standalone.weights import (
    MOST_IN_TEXT,
    MOST_LISTED,
    as_file,
    as_text,
    common_dtype,
    from_file,
    from_lists,
    from_text,
    listed,
    n_numbers,
)
from evometa.export.standalone.wrapping import WIDTH, wrapped
from evometa.genome.genome import Genome
from evometa.rules.learner import Learner
from evometa.trees import Tree

_HOW_TO_USE = """\
How to use it, with this file beside your script:

    from {module} import EvolvedOptimizer

    optimizer = EvolvedOptimizer(model.parameters(), lr=1.0, horizon=1000)
{begin}    for x, y in batches:
        optimizer.zero_grad()
        loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step(loss=loss)

``lr`` multiplies the evolved step; ``horizon`` is the number of steps you plan: {horizon} if left out.
{past_it}"""


@dataclass(frozen=True)
class Standalone:
    """The text of a file and, where its weights are many, what belongs beside it under ``weights_name``."""

    text: str
    weights_name: str
    weights: bytes | None


def export_standalone(
    path: Path,
    genome: Genome,
    weights: Tree,
    *,
    horizon: int,
    provenance: Mapping[str, object],
    card: str | None = None,
) -> list[Path]:
    """Write the Python file and, for very many weights, a file of them beside it; returns the paths.

    Arguments as :func:`~evometa.export.file.export_genome`. Raises GenomeError for a genome or weights that
    are not valid, for a rule whose code needs more than PyTorch, and where no file can be written.
    """
    if path.suffix != ".py" or not path.stem.isidentifier() or keyword.iskeyword(path.stem):
        raise GenomeError(f"{path}: the file must be named like a Python module, such as best.py")
    if path.stem in (*sys.stdlib_module_names, "torch"):
        raise GenomeError(
            f"{path}: a file of this name would hide Python's or PyTorch's own module {path.stem!r}"
        )
    made = standalone(path.stem, genome, weights, horizon=horizon, provenance=provenance, card=card)
    files = {path: made.text.encode()}
    if made.weights is not None:
        files[path.with_name(made.weights_name)] = made.weights
    try:
        if not path.parent.is_dir():
            raise GenomeError(f"{path}: the directory {str(path.parent)!r} does not exist; create it first")
        for target, content in files.items():
            target.write_bytes(content)
    except OSError as error:
        raise GenomeError(f"{path}: cannot be written ({error.strerror})") from error
    return list(files)


def standalone(
    module: str,
    genome: Genome,
    weights: Tree,
    *,
    horizon: int,
    provenance: Mapping[str, object],
    card: str | None = None,
) -> Standalone:
    """The file's text, for a module of this name. Raises GenomeError as :func:`export_standalone`."""
    learner = learner_of(genome)
    check_weights(learner, weights)
    genome, learner, weights = _readable(genome, learner, weights)
    hyper = Written("HYPER", lambda: _hyper(learner))
    packages = {
        "evometa",
        *(type(part).__module__.partition(".")[0] for part in (learner.rule, learner.schedule)),
    }
    program = Program(
        Sources(frozenset(packages)),
        {
            learner_of: lambda _: Known(learner),
            check_weights: lambda _: Known(None),
            # The file has PyTorch alone, where a kernel's equal in PyTorch serves.
            native.serves: lambda _: Known(False),
            type(learner.rule).has_kernel: lambda _: Known(False),
            # So does a step made as it is, where a GPU would replay it.
            recorded.serves: lambda _: Known(False),
        },
        [(learner.hyper, hyper)],
        [learner, learner.rule, learner.schedule, learner.initialisation],
    )
    whole = Written("GENOME", lambda: _genome(genome))
    planned = Written(
        "HORIZON", lambda: ["#: number of steps that it was evolved for", f"HORIZON = {horizon}"]
    )
    numbers, beside = _weights(program, module, weights)
    filled = {"genome": Later(Reference(whole)), "weights": Later(Reference(numbers))}
    optimizer = program.class_version(EvolvedOptimizer, dict(filled))
    optimizer.defaults["horizon"] = Reference(planned)
    if learner.initialisation is not None:
        optimizer.for_users.add("initialise")
    try:
        roots = [whole, hyper, planned, numbers, optimizer]
        imports, lines = assembled(program, roots, _is_rule)
    except Unwritable as error:
        raise GenomeError(
            f"the code of {genome.family!r} holds an object without a form as text ({error})"
        ) from error
    header = _header(module, genome, learner.as_trained(weights), horizon, provenance, card)
    return Standalone("\n".join([*header, "", *imports, *lines]) + "\n", f"{module}.weights.pt", beside)


def _readable(genome: Genome, learner: Learner, weights: Tree) -> tuple[Genome, Learner, Tree]:
    """An equal genome that is shorter, where there is one; what the weights say then stands in its genes."""
    if not learner.rule_family.is_formula:
        return genome, learner, weights
    genes, left = learner.absorbed(weights)
    plain = learner.rule_family.simplified(genes)
    if plain == genes:
        return genome, learner, weights
    shorter = Learner.of(genome.family, plain)
    fresh = shorter.init_weights(torch.Generator())
    kept = {
        name: value
        for name, value in left.items()
        if not name.startswith("rule.") or (name in fresh and value.shape == fresh[name].shape)
    }
    return replace(genome, genes=dict(shorter.genes)), shorter, {**fresh, **kept}


def _header(
    module: str,
    genome: Genome,
    learner: Learner,
    horizon: int,
    provenance: Mapping[str, object],
    card: str | None,
) -> list[str]:
    called = f" {clipped(genome.name)}" if genome.name else ""
    past_it = "Past it, steps become smaller and smaller." if learner.is_guarded else ""
    begin = "" if learner.initialisation is None else "    optimizer.initialise()\n"
    facts = json.dumps(dict(provenance), ensure_ascii=True, indent=4)
    paragraphs = [
        f"An optimizer that was evolved:{called} {genome.family}, genome {clipped(genome.id)}.",
        f"Made by evometa {evometa.__version__} from the code that evolved it. It needs PyTorch alone.",
        _HOW_TO_USE.format(module=module, horizon=horizon, past_it=past_it, begin=begin).rstrip(),
        "What it does:",
        "\n".join(_indented(learner.describe())),
        "\n".join(line for formula in learner.formula().splitlines() for line in _indented(formula)),
        "Where it comes from:",
        textwrap.indent(facts, "    "),
    ]
    if card is not None:
        page = "\n".join(map(one_line, card.splitlines()))
        paragraphs += ["Its bench card:", textwrap.indent(page, "    ")]
    return docstring("\n\n".join(paragraphs), 0)


def _indented(text: str) -> list[str]:
    return _filled(f"    {text}", "        ", WIDTH)


def _filled(text: str, following: str, width: int) -> list[str]:
    """Lines with as many words as they hold."""
    return textwrap.wrap(
        text, width, subsequent_indent=following, break_long_words=False, break_on_hyphens=False
    )


def _is_rule(module: Module) -> bool:
    return module.name.startswith("evometa.rules.") or not module.name.startswith("evometa.")


def _hyper(learner: Learner) -> list[str]:
    """The continuous genes, one a line, with what each means."""
    if not learner.hyper:
        return ["HYPER: dict[str, float] = {}"]
    lines = ["#: its continuous genes: edit them to try others", "HYPER = {"]
    for name, value in learner.hyper.items():
        note = learner.space.note(name)
        lines.append(f'    "{name}": {value!r},' + (f"  # {note}" if note else ""))
    return [*lines, "}"]


def _genome(genome: Genome) -> list[str]:
    lines = ["GENOME = {", f'    "family": {expression(plain_node(genome.family))},']
    for name, value in genome.genes.items():
        lines += wrapped(f"{expression(plain_node(name))}: {expression(plain_node(value))},", 4)
    return [*lines, "}"]


def _weights(program: Program, module: str, weights: Tree) -> tuple[Written, bytes | None]:
    """The definition of the weights, and the content of the file of them, if there is one."""
    if not weights:
        return Written("WEIGHTS", lambda: ["WEIGHTS: dict[str, Tensor] = {}"], (_tensor(program),)), None
    dtype = common_dtype(weights)
    torch = program.external("torch", "torch", None)

    def defined(reader: Definition, middle: list[str], last: str) -> list[str]:
        call = [f"WEIGHTS = {reader.name}(", *(f"    {line}" for line in middle), f"    {last},", ")"]
        return ["# fmt: off", *call, "# fmt: on"] if len(middle) > 1 else call

    size = n_numbers(weights)
    if size <= MOST_LISTED:
        reader: Definition = program.generic(from_lists)
        entries = [
            line
            for name, values in listed(weights).items()
            for line in _filled(f'    "{name}": {expression(plain_node(values))},', "      ", WIDTH - 4)
        ]
        make = lambda: defined(reader, ["{", *entries, "},"], str(dtype))  # noqa: E731
        return Written("WEIGHTS", make, (reader, torch), last=True), None
    if size <= MOST_IN_TEXT:
        reader = program.generic(from_text)
        shapes = [f'    "{name}": {expression(plain_node(tuple(w.shape)))},' for name, w in weights.items()]
        text = ['"""', *as_text(weights), '""",']

        def in_text() -> list[str]:
            lines = defined(reader, ["{", *shapes, "},"], str(dtype))
            return [*lines[:-3], f"    {text[0]}", *text[1:], *lines[-3:]]

        return Written("WEIGHTS", in_text, (reader, torch), last=True), None
    reader = program.generic(from_file)
    content, digest = as_file(weights)
    path = program.external("Path", "pathlib", "Path")
    place = f'Path(__file__).with_name("{module}.weights.pt"),'
    return Written(
        "WEIGHTS", lambda: defined(reader, [place], f'"{digest}"'), (reader, path), last=True
    ), content


def _tensor(program: Program) -> External:
    return program.external("Tensor", "torch", "Tensor")
