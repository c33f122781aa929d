"""Tables for people and one JSON document for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.rounds import Timing
from evometa.cli.tables import FittedTable

TITLES = {
    "evometa": "evometa",
    "naive": "naive loop",
    "vmap": "eager vmap",
    "jax": "JAX",
    "jax-tuned": "JAX, tuned",
}


def number(value: float) -> str:
    """Three significant digits, thousands separated."""
    if abs(value) >= 100:
        digits = max(0, len(str(int(abs(value)))) - 3)
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}"


def show(
    console: Console,
    title: str,
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
) -> None:
    """One table, with notes below."""
    console.print()
    numeric = [False, *[True] * (len(headers) - 1)]
    console.print(FittedTable(headers, rows, numeric, title))
    for note in notes:
        console.print(note, style="dim", soft_wrap=True)


def rates_of(timing: Timing | None) -> str:
    """A rate with its spread; what stands for a contestant that is not there."""
    if timing is None:
        return "–"
    return f"{number(timing.rate)} ±{timing.spread:.0%}"


def machine_lines(machine: Mapping[str, Any]) -> list[str]:
    """The machine in a few lines."""
    caches = ", ".join(f"{name} {size}" for name, size in machine["caches"].items())
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    gpu = machine.get("gpu")
    return [
        *([] if gpu is None else [f"GPU: {gpu['name']}, {gpu['memory_gib']} GiB, CUDA {gpu['cuda']}"]),
        f"{machine['cpu']} (family/model/stepping {machine['family_model_stepping']}), "
        f"{machine['cores']} cores, {caches}, {machine['memory_gib']} GiB",
        f"{' '.join(machine['instruction_sets'])}; {machine['system']}",
        f"{versions}; load average at the start {machine['load_average']}",
    ]


def write(path: Path, document: Mapping[str, Any]) -> None:
    """The JSON document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
