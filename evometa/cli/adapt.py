"""``evometa adapt FILE…``: held-out loss after a few steps, as few-shot learning is measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evometa.cli.compare import parse_rival
from evometa.cli.output import Column, Format, Listing, emit, shown
from evometa.cli.parameters import FormatOption

if TYPE_CHECKING:
    from evometa.bench.adaptation import Adapted


def adapt(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Files of `evometa export`, or JSON seeds without weights."),
    ],
    steps: Annotated[str, typer.Option(help="Numbers of steps, 0 for none, with commas.")] = "0,1,5,10",
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:OPTION=VALUE,…]",
            help="A task family with rows held out.  [default: the one the genomes were evolved on]",
            show_default=False,
        ),
    ] = None,
    rivals: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="RULE[:GENE=VALUE]",
            help="A hand-designed rule from the params that tasks draw, tuned for the last of the steps; may "
            "be repeated.",
            show_default=False,
        ),
    ] = None,
    n_tasks: Annotated[int, typer.Option(min=2, help="Tasks to adapt to.")] = 600,
    n_points: Annotated[int, typer.Option("--points", min=2, help="Learning rates to tune over.")] = 15,
    split: Annotated[str, typer.Option(help="Split of the tasks.")] = "meta_test",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the tuning and the tasks.")] = 0,
    device: Annotated[str, typer.Option(help='"cpu", "cuda", "cuda:N" or "auto".')] = "cpu",
    form: FormatOption = Format.TABLE,
) -> None:
    """Measure exported genomes on held-out rows of new tasks after a few steps.

    A genome with a learned initialisation begins there. Differences are to the first file, task by task:
    above zero the first is better. Intervals are 95 % bootstrap intervals over tasks.
    """
    from evometa.bench.adaptation import Entrant, tuned
    from evometa.bench.adaptation import adapt as adapted
    from evometa.bench.sources import recorded_sources, task_sources
    from evometa.bench.spec import read_genome
    from evometa.execution import pick_device
    from evometa.tasks import SPLITS

    counts = _counts(steps)
    if split not in SPLITS:
        raise typer.BadParameter(f"--split is {split!r}: allowed is one of {', '.join(SPLITS)}")
    genomes = tuple(read_genome(path) for path in files)
    sources = task_sources([tasks]) if tasks else recorded_sources(genomes)
    if len(sources) > 1:
        raise typer.BadParameter("the genomes were evolved on different tasks; name some with --tasks")
    where = pick_device(device)
    entrants = [Entrant(genome.label, genome.candidate, genome.horizon) for genome in genomes]
    entrants += [
        tuned(
            parse_rival(text),
            sources[0],
            max(1, *counts),
            n_tasks=n_tasks,
            n_points=n_points,
            seed=seed,
            device=where,
        )
        for text in rivals or []
    ]
    found = adapted(entrants, sources[0], counts, split=split, n_tasks=n_tasks, seed=seed, device=where)
    title = f"Held-out rows of {n_tasks} {split} tasks of {sources[0].use}"
    emit(Listing(title, _COLUMNS, [_row(row) for row in found]), form)


def _row(found: Adapted) -> dict[str, object]:
    estimates = {key: value and vars(value) for key, value in vars(found).items() if key in _ESTIMATES}
    return {**vars(found), **estimates}


def _interval(found: dict[str, float] | None) -> str:
    if found is None:
        return shown(None)
    return f"{found['value']:.3g} ({found['low']:.3g} to {found['high']:.3g})"


_ESTIMATES = ("loss", "measure", "difference")


_COLUMNS = (
    Column("label", "entrant"),
    Column("steps"),
    Column("loss", "loss", _interval),
    Column("measure", "the family's\nmeasure", _interval),
    Column("difference", "more than\nthe first", _interval),
    Column("n_lost", "diverged"),
)


def _counts(text: str) -> tuple[int, ...]:
    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        found = ()
    if not found or min(found) < 0 or max(found) > 1_000_000:
        raise typer.BadParameter(f"--steps is {text!r}: allowed are whole numbers from 0, as in 0,1,5,10")
    return found
