"""What a running campaign shows: a live table on a terminal, else one line a generation."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from evometa.campaign import GenerationSummary, Silent
from evometa.cli.output import duration, shown
from evometa.config import CampaignConfig
from evometa.execution import UnitResult
from evometa.objectives import find_objective
from evometa.store import JournalEntry

#: The loop's phases in a watcher's words.
_PHASES = {
    "kernels": "compiling kernels, once",
    "compilation": "trying to compile the gradient",
    "baselines": "tuning hand-designed rules",
    "refinement": "meta-training",
    "evaluation": "evaluating",
    "precision": "evaluating in float32 as well",
    "final": "final values on meta_valid",
    "report": "report on meta_test",
}


@dataclass
class Pace:
    """How fast a campaign goes, and how long it will take."""

    began: float = field(default_factory=lambda: time.monotonic())
    _last: float = 0.0
    _seconds: list[float] = field(default_factory=list)
    _to_come: int = 0

    def note(self, summary: GenerationSummary) -> None:
        """A generation is done."""
        self._last = time.monotonic()
        self._seconds.append(summary.seconds)
        self._to_come = summary.n_generations - 1 - summary.generation

    @property
    def elapsed(self) -> float:
        """Seconds since this run of the command began."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float | None:
        """Seconds until the last generation, at the mean pace so far; None before the first is done."""
        if not self._seconds:
            return None
        expected = self._to_come * sum(self._seconds) / len(self._seconds)
        return max(0.0, expected - (time.monotonic() - self._last))


class Lines(Silent):
    """One line a generation, for files and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pace = Pace()

    def phase(self, name: str, n_runs: int) -> None:
        """Only work outside the generations is worth a line."""
        if n_runs and name not in ("refinement", "evaluation"):
            self._console.print(_PHASES[name])

    def note(self, entry: JournalEntry) -> None:
        """The entry's line."""
        self._console.print(entry.line)

    def generation(self, summary: GenerationSummary) -> None:
        """The generation in one line."""
        self._pace.note(summary)
        left = self._pace.left
        parts = [
            f"generation {summary.generation} ({summary.generation + 1} of {summary.n_generations})",
            *(f"{one.name} best {shown(one.best)} median {shown(one.median)}" for one in summary.objectives),
            f"hypervolume {shown(summary.hypervolume)}",
            f"front {summary.front_size}",
            f"failures {summary.n_failures}",
            _speed(summary),
            f"elapsed {duration(self._pace.elapsed)}",
            f"left {duration(left)}" if left else "",
        ]
        self._console.print("  ".join(part for part in parts if part))


class Screen:
    """A live display: generations and units done, and the table of the latest generation."""

    def __init__(self, console: Console, config: CampaignConfig) -> None:
        self._pace = Pace()
        self._units = {one.name: one.unit for one in map(find_objective, config.objectives.use)}
        self._latest: GenerationSummary | None = None
        self._title = Text.assemble("Campaign ", (config.name, "bold"), f"  {config.description}")
        self._bars = Progress(
            TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), console=console
        )
        self._generations = self._bars.add_task("generations", total=config.evolution.generations)
        self._phase = self._bars.add_task("starting", total=None)
        self._live = Live(get_renderable=self._view, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def phase(self, name: str, n_runs: int) -> None:
        """A new bar for the phase."""
        self._bars.remove_task(self._phase)
        self._phase = self._bars.add_task(_PHASES[name], total=n_runs)

    def unit(self, result: UnitResult) -> None:
        """The bar counts candidates."""
        self._bars.advance(self._phase, max(1, len(result.unit.candidates)))

    def note(self, entry: JournalEntry) -> None:
        """The entry's line stays above the live display."""
        self._live.console.print(entry.line)

    def generation(self, summary: GenerationSummary) -> None:
        """The table shows the latest generation."""
        self._pace.note(summary)
        self._latest = summary
        self._bars.update(self._generations, completed=summary.generation + 1)

    def _view(self) -> RenderableType:
        left = self._pace.left
        clock = f"elapsed {duration(self._pace.elapsed)}"
        if left:
            clock += f" · about {duration(left)} left"
        parts: list[RenderableType] = [self._title]
        if self._latest is not None:
            parts += [self._table(self._latest), self._facts(self._latest)]
        return Group(*parts, self._bars, Text(clock, style="dim"))

    def _facts(self, latest: GenerationSummary) -> Text:
        facts = [
            f"hypervolume {shown(latest.hypervolume)}",
            f"front {latest.front_size}",
            f"failures {latest.n_failures}",
            _speed(latest),
        ]
        return Text(" · ".join(facts))

    def _table(self, latest: GenerationSummary) -> Table:
        title = f"Generation {latest.generation}"
        table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
        for column in ("objective", "unit"):
            table.add_column(column)
        for column in ("best", "median"):
            table.add_column(column, justify="right")
        for one in latest.objectives:
            table.add_row(one.name, self._units[one.name], shown(one.best), shown(one.median))
        return table


def _speed(summary: GenerationSummary) -> str:
    return f"{summary.inner_steps / max(summary.seconds, 1e-9):,.0f} inner steps/s"
