"""A registry of named members: built in, found through entry points, or named as ``pkg.module:attribute``."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar, cast

from evometa.errors import EvometaError, UnknownNameError, quoted, unknown

Member = TypeVar("Member")
Made = TypeVar("Made")


#: What names members in this context where that is not the user, see :func:`without_code`.
_NAMED_BY: ContextVar[str | None] = ContextVar("named_by", default=None)


@contextmanager
def without_code(whose: str) -> Iterator[None]:
    """Inside, a name such as ``pkg.module:attribute`` is refused: a file names it (``whose``), not the user.

    Members that are registered, those of installed entry points among them, are found as ever.
    """
    before = _NAMED_BY.set(whose)
    try:
        yield
    finally:
        _NAMED_BY.reset(before)


class Registry(Generic[Member]):
    """Members of one kind by name, in the order in which they were registered."""

    def __init__(self, kind: str, entry_point_group: str | None = None) -> None:
        self.kind = kind
        self.entry_point_group = entry_point_group
        self._members: dict[str, Member] = {}

    def add(self, name: str, member: Member) -> Member:
        """Register ``member`` under ``name``; a name is taken once."""
        if name in self._members:
            raise EvometaError(f"{self.kind} {name!r} is registered twice")
        self._members[name] = member
        return member

    @property
    def built_in(self) -> list[str]:
        """Names of the members that come with evometa."""
        return list(self._members)

    @property
    def built_in_members(self) -> Mapping[str, Member]:
        """Those members, by name."""
        return self._members

    def names(self) -> list[str]:
        """Built-in names first, then those of installed entry points."""
        plugged = [name for name in self._plugins if name not in self._members]
        return [*self._members, *plugged]

    def __iter__(self) -> Iterator[tuple[str, Member]]:
        return ((name, self[name]) for name in self.names())

    def __contains__(self, name: str) -> bool:
        return name in self._members or name in self._plugins

    def __getitem__(self, name: str) -> Member:
        if name in self._members:
            return self._members[name]
        if name in self._plugins:
            return cast(Member, _checked_load(f"{self.kind} {name!r}", self._plugins[name].value))
        if ":" in name:
            if (whose := _NAMED_BY.get()) is not None:
                raise UnknownNameError(
                    f"{self.kind} {quoted(name)} is code, and it is {whose} that names it: it would be "
                    "imported and run. Where you trust it, say so with --allow-code or EVOMETA_ALLOW_CODE=1"
                )
            if (here := str(Path.cwd())) not in sys.path:
                sys.path.insert(0, here)  # a module beside the user's TOML is found when run there
            return cast(Member, _checked_load(self.kind, name))
        raise UnknownNameError(unknown(self.kind, name, self.names()))

    @cached_property  # reading every installed distribution's entry points takes some 20 ms
    def _plugins(self) -> dict[str, importlib.metadata.EntryPoint]:
        if self.entry_point_group is None:
            return {}
        found = importlib.metadata.entry_points(group=self.entry_point_group)
        return {point.name: point for point in found}


class MadeOf(Generic[Member, Made]):
    """What is made of all members of a registry: made once, and again when other members are in it.

    Every genome of a campaign asks, so it must cost next to nothing.
    """

    def __init__(self, registry: Registry[Member], make: Callable[[list[tuple[str, Member]]], Made]) -> None:
        self._registry = registry
        self._make = make
        self._made: tuple[dict[str, Member], Made] | None = None

    def __call__(self) -> Made:
        # Those of entry points were found once and for all.
        built_in = self._registry.built_in_members
        if self._made is None or self._made[0] != built_in:
            self._made = dict(built_in), self._make(list(self._registry))
        return self._made[1]


def _checked_load(what: str, path: str) -> object:
    """The object at ``pkg.module:attribute``; user code runs here, which the user named or installed."""
    module_name, _, attribute = path.partition(":")
    try:
        target: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    except (Exception, SystemExit) as error:  # user code may raise anything; the cause is named and chained
        reason = " ".join(f"{type(error).__name__}: {error}".split())  # a user's message may span lines
        raise UnknownNameError(f"{what}: cannot load {path!r}: {reason}") from error
    return target
