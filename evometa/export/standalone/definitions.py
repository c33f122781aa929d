"""What stands at the top level of a file: imports, constants, functions and classes."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from evometa.export.standalone.sources import Module, copy_comments
from evometa.export.standalone.values import Known, Later, Value

if TYPE_CHECKING:
    from evometa.export.standalone.program import Program


class Definition:
    """One thing with a name; it would like ``wanted`` and gets ``name`` when the file is put together."""

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted
        self.name = wanted
        self._walked: dict[int, list[ast.AST]] = {}

    def statements(self) -> list[ast.stmt]:
        """Its code so far; the names of other definitions in it are :class:`Reference` nodes."""
        return []

    def references(self) -> Iterator[Definition]:
        """The definitions that its code names, in order."""
        for node in self.nodes():
            if isinstance(node, Reference):
                yield node.definition

    def parts(self) -> Sequence[ast.AST]:
        """What its code is made of, in order, each the same object whenever it is asked for."""
        return self.statements()

    def nodes(self) -> Iterator[ast.AST]:
        """All nodes of its parts, which are walked through once until they have :meth:`changed`."""
        for part in self.parts():
            if id(part) not in self._walked:
                self._walked[id(part)] = list(in_order(part))  # the first is the part: its id stays its own
            yield from self._walked[id(part)]

    def changed(self) -> None:
        """Say that code has been edited in place."""
        self._walked.clear()


class Reference(ast.Name):
    """The name of a definition, which is settled last."""

    _fields = ast.Name._fields

    def __init__(self, definition: Definition) -> None:
        super().__init__(id=definition.wanted, ctx=ast.Load())
        self.definition = definition


class External(Definition):
    """A module of Python or PyTorch, or something in one."""

    def __init__(self, name: str, module: str, attribute: str | None) -> None:
        super().__init__(name)
        self.module = module
        self.attribute = attribute


class Written(Definition):
    """A definition that is given as text, which is made when all names are settled.

    ``needs`` are the definitions that it names; ``last`` puts it at the end of the file.
    """

    def __init__(
        self,
        wanted: str,
        lines: Callable[[], list[str]],
        needs: tuple[Definition, ...] = (),
        *,
        last: bool = False,
    ) -> None:
        super().__init__(wanted)
        self.lines = lines
        self.last = last
        self._needs = needs

    def references(self) -> Iterator[Definition]:
        yield from self._needs


class Constant(Definition):
    """A number, a text, a table of such or a type alias of a module's top level."""

    def __init__(self, wanted: str, statement: ast.stmt) -> None:
        super().__init__(wanted)
        self._statement = statement

    def statements(self) -> list[ast.stmt]:
        return [self._statement]


class FunctionVersion(Definition):
    """A function with some of its arguments filled in.

    Attributes:
        node: its code; arguments that are filled in or not used are gone.
        module: where it comes from.
        constant: what it returns, where that is known and there is nothing else to do.
        kind: type or hint of what it returns.
    """

    def __init__(
        self, wanted: str, module: Module, node: ast.FunctionDef, returned: list[Value], kind: object
    ) -> None:
        super().__init__(wanted)
        self.module = module
        self.node = node
        self.kind = kind
        self.constant: Known | None = None
        body = [s for s in node.body if not is_docstring(s)]
        if len(returned) == 1 and len(body) == 1 and isinstance(body[0], ast.Return):
            self.constant = returned[0] if isinstance(returned[0], Known) else None
        elif not returned and not [s for s in body if not isinstance(s, ast.Pass)]:
            self.constant = Known(None)
        if len(returned) == 1 and isinstance(returned[0], Later) and returned[0].kind is not None:
            self.kind = returned[0].kind

    def statements(self) -> list[ast.stmt]:
        return [self.node]


class ClassVersion(Definition):
    """A class whose objects live while the file runs, with only the members that something names.

    ``filled`` are the arguments of its constructor that are filled in; ``static`` are attributes that are
    known, so that nothing sets or reads them in the file; ``defaults`` are defaults of parameters by name.
    ``for_users`` are members that are there for whoever imports the file.
    """

    def __init__(
        self, program: Program, cls: type, filled: dict[str, Value], wanted: str | None = None
    ) -> None:
        super().__init__(wanted or cls.__name__)
        self.cls = cls
        self.filled = filled
        self.static: dict[str, Known] = {}
        self.defaults: dict[str, ast.expr] = {}
        self.for_users: set[str] = set()
        self.module, self.node = program.sources.class_definition(cls)
        self._program = program
        self._members: dict[str, ast.stmt] = {}
        self._included: set[str] = set()
        self._bases = [program.decorator(self.module, base) for base in self.node.bases]
        self._decorators = [program.decorator(self.module, one) for one in self.node.decorator_list]

    def include(self, mentioned: set[str]) -> bool:
        """Take in the members that are in ``mentioned`` or always needed; whether there were any."""
        grown = False
        for statement in self._member_statements():
            name = member_name(statement)
            if name is None or name in self._included or name in self.static:
                continue
            if not (isinstance(statement, ast.AnnAssign) or self._always(name) or name in mentioned):
                continue
            grown = True
            self._included.add(name)
            if name in self._members:
                continue
            if isinstance(statement, ast.FunctionDef):
                self._members[name] = self._program.method(self, statement)
            else:
                self._members[name] = self._program.field(self.module, statement)
        return grown

    def prune(self, read: set[str]) -> bool:
        """Leave out what the constructor sets and nothing reads; whether there was any. Forgets the rest."""
        constructor = self._members.get("__init__")
        if not isinstance(constructor, ast.FunctionDef) or self._foreign_bases():
            return False
        kept = [s for s in constructor.body if set_attribute(s) is None or set_attribute(s) in read]
        pruned = len(kept) < len(constructor.body)
        constructor.body = kept or [ast.Pass()]
        self.changed()
        return pruned

    def forget(self) -> None:
        """Start anew with the members that are taken in."""
        self._included.clear()

    def statements(self) -> list[ast.stmt]:
        body = self._body() or [ast.Pass()]
        made = ast.ClassDef(self.name, self._bases, [], body, self._decorators)
        return copy_comments(self.node, [made])

    def parts(self) -> list[ast.AST]:
        return [*self._bases, *self._body(), *self._decorators]

    def _body(self) -> list[ast.stmt]:
        """Its docstring and the members that are taken in."""
        names = [member_name(statement) for statement in self._member_statements()]
        docstring = [s for s in self.node.body[:1] if is_docstring(s)]
        return [*docstring, *(self._members[name] for name in names if name in self._included)]

    def _always(self, name: str) -> bool:
        """Whether users, Python or the base class from another library call a member."""
        called = name in self.for_users or name.startswith("__")
        return called or any(hasattr(base, name) for base in self._foreign_bases())

    def _foreign_bases(self) -> list[type]:
        return [
            base
            for base in self.cls.__mro__[1:]
            if base is not object and not self._program.sources.own(base)
        ]

    def _member_statements(self) -> list[ast.stmt]:
        own = [s for s in self.node.body if member_name(s) is not None]
        # The constructor first: what it sets to something known is known in the others.
        return sorted(own, key=lambda s: not isinstance(s, ast.AnnAssign) and member_name(s) != "__init__")


def member_name(statement: ast.stmt) -> str | None:
    """The name that a statement of a class's body gives."""
    if isinstance(statement, ast.FunctionDef):
        return statement.name
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.target.id
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return None


def set_attribute(statement: ast.stmt) -> str | None:
    """The attribute that a statement sets, where it does nothing else."""
    target: ast.expr | None = None
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign):
        target = statement.target
    return target.attr if isinstance(target, ast.Attribute) else None


def is_docstring(statement: ast.stmt) -> bool:
    """Whether a statement is a text alone."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def in_order(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, as they stand in the text."""
    yield node
    for child in ast.iter_child_nodes(node):
        yield from in_order(child)


def snake_case(name: str) -> str:
    """``HandDesignedRule`` → ``hand_designed_rule``, ``MLPRule`` → ``mlp_rule``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
