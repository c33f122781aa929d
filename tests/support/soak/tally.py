"""What became of the faults: a table of phases, kinds of fault, survived and lost."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

#: The phases of a campaign, and the kinds of fault, in the order of the report.
PHASES = (
    "start-up",
    "creation",
    "migration",
    "refinement",
    "evaluation",
    "commit",
    "breeding",
    "final",
    "end",
)
KINDS = (
    "SIGKILL driver",
    "SIGKILL all",
    "SIGKILL worker",
    "SIGKILL instruction",
    "SIGTERM driver",
    "SIGTERM all",
    "SIGTERM worker",
)
#: Between these lines of a guide stands the last report.
BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"


class Fault(NamedTuple):
    """One that was injected.

    Attributes:
        kind: which signal, to whom; one of KINDS.
        phase: in which it struck; one of PHASES.
        survived: whether nothing was lost by it.
    """

    kind: str
    phase: str
    survived: bool


def table(faults: Iterable[Fault]) -> str:
    """Injected faults of each kind in each phase, and how many were survived and lost, in Markdown.

    Phases and kinds that no fault belongs to are left out. Raises ValueError for a phase or kind that is not
    known.
    """
    faults = list(faults)
    for fault in faults:
        if fault.phase not in PHASES or fault.kind not in KINDS:
            raise ValueError(f"unknown kind or phase: {fault}")
    kinds = [kind for kind in KINDS if any(fault.kind == kind for fault in faults)]
    rows = [["struck in", *kinds, "injected", "survived", "lost"]]
    rows.append(["---", *["---:"] * (len(kinds) + 3)])
    for phase in PHASES:
        struck = [fault for fault in faults if fault.phase == phase]
        if struck:
            rows.append([phase, *_counts(struck, kinds)])
    rows.append(["**all**", *_counts(faults, kinds)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _counts(faults: Sequence[Fault], kinds: Sequence[str]) -> list[str]:
    n_survived = sum(fault.survived for fault in faults)
    of_kinds = [sum(fault.kind == kind for fault in faults) for kind in kinds]
    return [str(n) if n else "" for n in of_kinds] + [
        str(n) for n in (len(faults), n_survived, len(faults) - n_survived)
    ]


def machine() -> str:
    """This machine in words: processor, cores, memory."""
    processor = "a processor of unknown name"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
    n_cores = Path("/proc/cpuinfo").read_text().count("processor\t")
    kib = int(Path("/proc/meminfo").read_text().split()[1])
    return f"{n_cores} cores ({processor}), {kib / 2**20:.0f} GiB of memory"


def commit(folder: Path) -> str:
    """The commit that ``folder`` is at, in words."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not under version control"
    return f"commit {found}"


def report(faults: Sequence[Fault], others: Sequence[str], seconds: float, folder: Path) -> str:
    """The table with when, where and of what it was made, and ``others``, lines about other trials."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [f"`make soak`, {now}, {commit(folder)}, {machine()}; {seconds / 60:.0f} minutes.", ""]
    return "\n".join([*lines, table(faults), *(f"\n{line}" for line in others)])


def placed(text: str, body: str) -> str:
    """``text`` with ``body`` between the marker lines. Raises ValueError where it has none."""
    before, found, rest = text.partition(f"{BEGIN}\n")
    _, also_found, after = rest.partition(END)
    if not (found and also_found):
        raise ValueError(f"no lines {BEGIN} and {END} to put the report between")
    return f"{before}{BEGIN}\n{body}\n{END}{after}"
