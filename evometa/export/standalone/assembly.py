"""Puts the definitions of a program together: which are needed, in which order, under which names."""

from __future__ import annotations

import ast
import builtins
import keyword
import sys
from collections.abc import Callable, Iterator, Sequence

from evometa.errors import GenomeError
from evometa.export.standalone.definitions import (
    ClassVersion,
    Constant,
    Definition,
    External,
    FunctionVersion,
    Reference,
    Written,
    in_order,
)
from evometa.export.standalone.printer import block
from evometa.export.standalone.program import Program
from evometa.export.standalone.sources import Module
from evometa.export.standalone.wrapping import WIDTH

#: Packages of others that a file may import.
ALLOWED = ("torch",)


def assembled(
    program: Program, roots: Sequence[Definition], ahead: Callable[[Module], bool]
) -> tuple[list[str], list[str]]:
    """The lines of the imports, and those of ``roots`` and all that they need.

    Functions of modules that are to be ``ahead``, with what they need, come first. Raises GenomeError where
    another package than PyTorch is needed.
    """
    _grow(roots)
    while _prune(roots):
        _grow(roots)
    first = [d for d in _ordered(roots) if isinstance(d, FunctionVersion) and ahead(d.module)]
    roots = [*(root for root in roots if isinstance(root, Written) and not root.last), *first, *roots]
    classes = {d.cls: d for d in _ordered(roots) if isinstance(d, ClassVersion)}
    for definition in _ordered(roots):
        if isinstance(definition, FunctionVersion | ClassVersion):
            hints = _Hints(program, definition.module, classes)
            for statement in definition.statements():
                hints.visit(statement)
            definition.changed()
    definitions = _ordered(roots)
    _give_names(definitions)
    early = [d for d in definitions if _is_early(d)]
    lines = ["", *(line for d in early for line in _lines(d))]
    rule = {id(d) for d in _ordered(first)}
    late = [d for d in definitions if d not in early and not isinstance(d, External)]
    for title, part in (
        ("The rule and its schedule, as they were evolved.", [d for d in late if id(d) in rule]),
        ("The optimizer around them.", [d for d in late if id(d) not in rule and not _is_last(d)]),
        ("Its weights.", [d for d in late if _is_last(d)]),
    ):
        lines += ["", "", f"# {title}"] if part else []
        for definition in part:
            lines += ["", "", *_lines(definition)]
    return _imports([d for d in definitions if isinstance(d, External)]), lines


def _grow(roots: Sequence[Definition]) -> None:
    """Take in the members of classes that anything names, which may name others."""
    growing = True
    while growing:
        definitions = _ordered(roots)
        everywhere: set[str] = set()
        of_class: dict[type, set[str]] = {}
        for definition in definitions:
            for node in definition.nodes():
                if isinstance(node, ast.Attribute):
                    receiver = getattr(node, "receiver", None)
                    if receiver is None:
                        everywhere.add(node.attr)
                    elif isinstance(receiver, type):
                        of_class.setdefault(receiver, set()).add(node.attr)
        growing = False
        for definition in definitions:
            if isinstance(definition, ClassVersion):
                own = [names for cls, names in of_class.items() if issubclass(cls, definition.cls)]
                growing = definition.include(everywhere.union(*own)) or growing


def _prune(roots: Sequence[Definition]) -> bool:
    """Leave out attributes that objects are given and nothing reads; whether there were any."""
    definitions = _ordered(roots)
    read = {
        node.attr
        for definition in definitions
        for node in definition.nodes()
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    classes = [d for d in definitions if isinstance(d, ClassVersion)]
    pruned = [version.prune(read) for version in classes]
    if any(pruned):
        for version in classes:
            version.forget()
    return any(pruned)


def _ordered(roots: Sequence[Definition]) -> list[Definition]:
    """All that is needed, each after what it names."""
    found: dict[int, Definition] = {}
    entered: set[int] = set()

    def enter(definition: Definition) -> None:
        if id(definition) in entered:
            return
        entered.add(id(definition))
        for other in definition.references():
            enter(other)
        found[id(definition)] = definition

    for root in roots:
        enter(root)
    return list(found.values())


class _Hints(ast.NodeTransformer):
    """Writes type hints with the names of the file; those that name what is not in it are left out."""

    def __init__(self, program: Program, module: Module, classes: dict[type, ClassVersion]) -> None:
        self._program = program
        self._module = module
        self._classes = classes

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if node.returns is not None:
            node.returns = self._hint(node.returns)
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        if node.annotation is not None:
            node.annotation = self._hint(node.annotation)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        hint = self._hint(node.annotation)
        if hint is None and node.value is not None:
            made = ast.Assign([node.target], node.value)
            made.comments = getattr(node, "comments", [])  # type: ignore[attr-defined]
            return self.generic_visit(made)
        node.annotation = hint or ast.Name("object", ast.Load())
        return self.generic_visit(node)

    def _hint(self, node: ast.expr) -> ast.expr | None:
        if any(isinstance(part, Reference) for part in ast.walk(node)):
            return node
        return self._program.annotation(self._module, node, self._classes)


def _give_names(definitions: Sequence[Definition]) -> None:
    """A name of its own for each, which no function hides that uses it."""
    hidden: dict[int, set[str]] = {}
    for definition in definitions:
        local = set(_local_names(definition.nodes()))
        for other in definition.references():
            hidden.setdefault(id(other), set()).update(local)
    taken = {*keyword.kwlist, *dir(builtins)}
    for definition in sorted(definitions, key=lambda d: not isinstance(d, External)):
        name, n = definition.wanted, 2
        while name in taken or name in hidden.get(id(definition), ()):
            name, n = f"{definition.wanted}_{n}", n + 1
        taken.add(name)
        definition.name = name


def _local_names(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


def _imports(externals: Sequence[External]) -> list[str]:
    lines = ["from __future__ import annotations"]
    python = [d for d in externals if d.module.partition(".")[0] in sys.stdlib_module_names]
    others = [d for d in externals if d not in python]
    for definition in others:
        package = definition.module.partition(".")[0]
        if package not in ALLOWED:
            raise GenomeError(f"the rule's code imports {package!r}, but a standalone file has PyTorch alone")
    for group in (python, others):
        whole = sorted(
            f"import {d.module}" + (f" as {d.name}" if d.name != d.module.partition(".")[0] else "")
            for d in group
            if d.attribute is None
        )
        parts: dict[str, list[str]] = {}
        for d in group:
            if d.attribute is not None:
                same = d.name == d.attribute
                parts.setdefault(d.module, []).append(d.attribute if same else f"{d.attribute} as {d.name}")
        froms = [
            line for module, names in sorted(parts.items()) for line in _from(module, _import_order(names))
        ]
        if whole or froms:
            lines += ["", *dict.fromkeys(whole), *froms]
    return lines


def _from(module: str, names: list[str]) -> list[str]:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= WIDTH:
        return [line]
    return [f"from {module} import (", *(f"    {name}," for name in names), ")"]


def _import_order(names: list[str]) -> list[str]:
    return sorted(set(names), key=lambda name: (not name.isupper(), not name[0].isupper(), name))


def _is_last(definition: Definition) -> bool:
    return isinstance(definition, Written) and definition.last


def _is_early(definition: Definition) -> bool:
    if isinstance(definition, Written):
        return not definition.last
    needs = list(definition.references())
    return isinstance(definition, Constant) and all(isinstance(d, External) or _is_early(d) for d in needs)


def _lines(definition: Definition) -> list[str]:
    if isinstance(definition, Written):
        return definition.lines()
    statements = definition.statements()
    for statement in statements:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            statement.name = definition.name
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            for node in in_order(target):
                if isinstance(node, ast.Name):
                    node.id = definition.name
    return block(statements)
