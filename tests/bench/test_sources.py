"""Which tasks a bench takes where nobody names any: those that the genomes' files say they are of."""

from __future__ import annotations

import pytest

from evometa.bench.sources import recorded_sources
from evometa.bench.spec import GenomeFile
from evometa.config import TaskSource
from evometa.errors import BenchError, TaskError
from evometa.objectives.baseline import baseline_candidate


def evolved_on(tasks: object, options: object = None) -> GenomeFile:
    provenance = {"tasks": tasks} if options is None else {"tasks": tasks, "task_options": options}
    return GenomeFile("mine", baseline_candidate("adam", 0.1), 20, provenance)


def test_options_are_those_of_the_campaign() -> None:
    small = {"batch_size": 16, "widths": [8]}
    both = evolved_on(["digits", "tabular"], [small, {}])
    found = recorded_sources([both, evolved_on(["digits"], [small])])
    assert found == (TaskSource("digits", options=small), TaskSource("tabular"))


def test_files_without_options_have_the_families_defaults() -> None:
    assert recorded_sources([evolved_on(["digits"])]) == (TaskSource("digits"),)


@pytest.mark.parametrize("options", [[], [{}, {}], {"batch_size": 16}, ["batch_size"]], ids=repr)
def test_options_that_belong_to_no_task_are_refused(options: object) -> None:
    with pytest.raises(BenchError, match="mine records task options that are none; say which tasks"):
        recorded_sources([evolved_on(["digits"], options)])


def test_a_file_cannot_ask_for_tasks_that_fill_the_memory() -> None:
    with pytest.raises(BenchError, match=r"mine records task options as large as 1e\+08"):
        recorded_sources([evolved_on(["digits"], [{"widths": [100_000_000]}])])


def test_options_that_the_family_does_not_have_are_refused() -> None:
    with pytest.raises(TaskError, match=r"digits.*colour"):
        recorded_sources([evolved_on(["digits"], [{"colour": "red"}])])


@pytest.mark.parametrize("tasks", [None, [], ["mine:family"], ["digits", "mine:family"]], ids=repr)
def test_code_that_a_file_names_is_not_run(tasks: object) -> None:
    with pytest.raises(BenchError, match="mine names no registered tasks"):
        recorded_sources([evolved_on(tasks)])
