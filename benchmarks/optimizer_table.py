"""The table of exported optimizers beside AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from benchmarks.groups.optimizers import REFERENCE, Contest
from benchmarks.report import number, show


def show_optimizers(console: Console, found: Mapping[str, Contest], *, on_gpu: bool) -> dict[str, Any]:
    """A table a model, a row a contestant, three columns a number of threads, or three on a GPU."""
    for title, contest in found.items():
        rows = [
            [
                name,
                *[cell for n in contest.threads for cell in _timing(contest, name, n)],
                f"{own.state_bytes:.1f}",
                "–" if own.peak_bytes is None else f"{own.peak_bytes:.1f}",
            ]
            for name, own in contest.steppers.items()
        ]
        timings = [header for n in contest.threads for header in _headers(n, on_gpu=on_gpu)]
        headers = ["", *timings, "state, bytes a parameter", "peak beyond it"]
        show(console, f"{title}: {contest.n_params:,} parameters", headers, rows)
    return {title: contest.to_json() for title, contest in found.items()}


def _headers(n_threads: int, *, on_gpu: bool) -> tuple[str, str, str]:
    if on_gpu:
        return "ms a step", f"× {REFERENCE}", "of the GPU's bound"
    many = "s" * (n_threads > 1)
    return (
        f"ms a step, {n_threads} thread{many}",
        f"× {REFERENCE}",
        f"of the bound of {n_threads} core{many}",
    )


def _timing(contest: Contest, name: str, n_threads: int) -> list[str]:
    reached = contest.reached(name, n_threads)
    return [
        number(contest.seconds(name, n_threads) * 1e3),
        f"{contest.slowdown(name, n_threads):.2f}",
        "–" if reached is None else f"{reached:.0%}",
    ]
