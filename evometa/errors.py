"""Every exception evometa raises on purpose.

Each carries one line a user can act on: what was wrong, what was expected, what to do.
The command line prints that line and exits with code 2; it never shows a traceback for these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EvometaError(Exception):
    """Base of all errors a user can cause and mend."""


class ConfigError(EvometaError):
    """A campaign configuration has a wrong key, type or value."""


class UnknownNameError(EvometaError):
    """A name is not in a registry."""


class GenomeError(EvometaError):
    """A genome is malformed: unknown family, gene out of range, file truncated or from a newer version."""


class TaskError(EvometaError):
    """A task family cannot be built or trained on (wrong shapes, hidden buffers, NaN data)."""


class StoreError(EvometaError):
    """A campaign database is missing, foreign, locked or from a newer version."""


class ExecutionError(EvometaError):
    """Workers cannot be reached or do not work."""


class ObjectiveError(EvometaError):
    """An objective cannot be computed."""


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name``, or None when nothing is near."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for a name that is not known: what was given, the closest one, what is allowed."""
    names = sorted(known)
    near = closest(name, names)
    hint = f"; did you mean {near!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (known: {', '.join(names) or 'none'})"
