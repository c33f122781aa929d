"""Which tasks a bench is on: named on the command line, in an experiment's TOML, or by the genome's file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evometa.bench.spec import GenomeFile
from evometa.config import TaskSource, load_config
from evometa.errors import BenchError, clipped
from evometa.tasks import TASKS, build_family

#: The largest number among options that a file may record, such as a width or a batch.
_LARGEST = 10_000


def task_sources(texts: Sequence[str]) -> tuple[TaskSource, ...]:
    """The sources of ``digits``, ``digits:widths=[32],depths=[1]``, ``pkg.module:attribute`` or a TOML file.

    Code that is named is imported: only a user's own words may come here. Raises an EvometaError, one line,
    for what does not exist or is not allowed.
    """
    return tuple(source for text in texts for source in _sources(text))


def recorded_sources(genomes: Sequence[GenomeFile]) -> tuple[TaskSource, ...]:
    """The tasks that the genomes' files say they were evolved on: registered families, with their options.

    Raises BenchError where a file names none that will do, and what the family raises for wrong options.
    """
    found: list[TaskSource] = []
    for genome in genomes:
        given = genome.provenance.get("tasks")
        listed = given if isinstance(given, list) else []
        known = [name for name in listed if isinstance(name, str) and name in TASKS]
        if not known or len(known) < len(listed):
            raise BenchError(
                f"{genome.label} names no registered tasks that it was evolved on; say which with --tasks, "
                "as in --tasks digits"
            )
        for name, options in zip(known, _recorded_options(genome, len(known)), strict=True):
            source = _source(name, options, f"{genome.label}, tasks {name}")
            if source not in found:
                found.append(source)
    return tuple(found)


def _recorded_options(genome: GenomeFile, n: int) -> list[dict[str, Any]]:
    """Options of each of ``n`` families; none in files from before they were recorded.

    Raises BenchError for what would be more than a bench can train: the file may be a stranger's.
    """
    given = genome.provenance.get("task_options", [{}] * n)
    if not isinstance(given, list) or len(given) != n or not all(isinstance(one, dict) for one in given):
        raise BenchError(f"{genome.label} records task options that are none; say which tasks with --tasks")
    for number in _numbers(given):
        if abs(number) > _LARGEST:
            raise BenchError(
                f"{genome.label} records task options as large as {number:g}; say which tasks with --tasks"
            )
    return given


def _numbers(value: object) -> Iterator[float]:
    """All numbers in a tree of lists and dictionaries."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)


def _sources(text: str) -> tuple[TaskSource, ...]:
    if text.endswith(".toml"):
        return load_config(Path(text)).tasks
    name, _, rest = text.partition(":")
    if name not in TASKS and rest:  # pkg.module:attribute, and options after a second colon
        attribute, _, rest = rest.partition(":")
        name = f"{name}:{attribute}"
    return (_source(name, _options(rest, text), f"--tasks {clipped(text)}"),)


def _options(text: str, whole: str) -> dict[str, Any]:
    try:
        return dict(tomllib.loads(f"options = {{ {text} }}")["options"]) if text else {}
    except (ValueError, RecursionError) as error:
        raise BenchError(
            f"--tasks {clipped(whole)}: expected NAME or NAME:OPTION=VALUE,…, with values as in TOML"
        ) from error


def _source(use: str, options: dict[str, Any], where: str) -> TaskSource:
    try:
        source = TaskSource(use, options=options)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise BenchError(f"{where}: {clipped(problem)}") from error
    build_family(source.use, source.options)  # a wrong name or option is refused before anything is trained
    return source
