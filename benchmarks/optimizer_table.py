"""The table of exported optimizers beside AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from benchmarks.groups.optimizers import REFERENCE, THREADS, Contest
from benchmarks.report import number, show


def show_optimizers(console: Console, found: Mapping[str, Contest]) -> dict[str, Any]:
    """A table a model, a row a contestant, three columns a number of threads."""
    of_threads = [
        header
        for n in THREADS
        for header in (
            f"ms a step, {n} thread{'s' * (n > 1)}",
            f"× {REFERENCE}",
            f"of the bound of {n} core{'s' * (n > 1)}",
        )
    ]
    for title, contest in found.items():
        rows = [
            [
                name,
                *[cell for n in THREADS for cell in _timing(contest, name, n)],
                f"{own.state_bytes:.1f}",
                "–" if own.peak_bytes is None else f"{own.peak_bytes:.1f}",
            ]
            for name, own in contest.steppers.items()
        ]
        headers = ["", *of_threads, "state, bytes a parameter", "peak beyond it"]
        show(console, f"{title}: {contest.n_params:,} parameters", headers, rows)
    return {title: contest.to_json() for title, contest in found.items()}


def _timing(contest: Contest, name: str, n_threads: int) -> list[str]:
    reached = contest.reached(name, n_threads)
    return [
        number(contest.seconds(name, n_threads) * 1e3),
        f"{contest.slowdown(name, n_threads):.2f}",
        "–" if reached is None else f"{reached:.0%}",
    ]
