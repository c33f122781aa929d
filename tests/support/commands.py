"""The command line as a user gives it, in this process."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass

from evometa.cli.app import main


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


def run_command(*words: object) -> Outcome:
    """``evometa WORDS`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    arguments, sys.argv = sys.argv, ["evometa", *map(str, words)]
    code: object = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = arguments
    return Outcome(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())
