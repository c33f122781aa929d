"""Tasks that cannot be trained on end a campaign in one line: which source and split, which task, and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Outcome, run_command

from evometa.store import CampaignStore

CAMPAIGN = """
seed = 5
[[tasks]]
use = "faulty_tasks:Faulty"
n_tasks = 4
horizon = {horizon}
options = {{ fault = "{fault}", split = "{split}", n_tasks = {n_tasks} }}
[[tasks]]
use = "quadratic"
n_tasks = 2
horizon = {horizon}
options = {{ dim = 3 }}
[evolution]
population = {population}
generations = 1
families = [{families}]
seeds = []
[genes]
hidden = 4
layers = 1
schedule = "constant"
"meta.write_back" = "lamarckian"
"meta.estimator" = "tbptt"
"meta.second_order" = false
"meta.steps" = 2
"meta.unroll_length" = 10
"meta.truncation" = 5
[refinement]
n_tasks = 3
[final]
n_tasks = 1
test_tasks = 1
[baseline]
n_tasks = 2
n_points = 2
[execution]
backend = "inline"
device = "cpu"
"""
CANNOT = "tasks 'faulty_tasks:Faulty' ({split}) cannot be trained on: "
FAMILY = "task family 'faulty_tasks:Faulty' ({split}): "


def run(folder: Path, fault: str, split: str = "", n_tasks: int = 0, **others: object) -> Outcome:
    """A campaign on tasks with a fault and on quadratics."""
    given = {"horizon": 6, "population": 4, "families": '"adam", "recurrent"', **others}
    experiment = folder / "bad.toml"
    experiment.write_text(CAMPAIGN.format(fault=fault, split=split, n_tasks=n_tasks, **given))
    return run_command("run", experiment, "--storage", folder / "runs")


def ends_with(outcome: Outcome, line: str) -> None:
    """One line on the standard error, and the exit code of what a user can mend."""
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.endswith(f"{line}\n")


#: What is wrong in every split → what the one line says after the configuration's key, split by split.
REFUSED = {
    "raises when made": "task family 'faulty_tasks:Faulty' raised OSError: no such disk",
    "raises when drawn": CANNOT + f"TaskError: {FAMILY}sample() raised FileNotFoundError: the data is away",
    "raises in the loss": CANNOT + "ValueError: the sensor",
    "raises on the 50th step": CANNOT + "ValueError: the stream has ended, on each of 2 tasks",
    "raises in its second task": CANNOT + "ValueError: the sensor is off, on task 2 (linear 3-1) of 2",
    "has NaN in a row": FAMILY
    + "1 of 30 rows hold NaN or infinite values, such as row 7, and the loss on them is nan; "
    "remove or replace them",
    "has an infinite target": FAMILY
    + "1 of 30 rows hold NaN or infinite values, such as row 7, and the loss on them is inf; "
    "remove or replace them",
    "has int64 inputs": CANNOT + "RuntimeError: expected scalar type Long but found Float",
    "has a label out of range": CANNOT + "RuntimeError: index 5 is out of bounds for dimension 3 with size 2",
    "has a column too many": CANNOT
    + "RuntimeError: Expected size for first two dimensions of batch2 tensor to be: [1, 4] but got: [1, 3].",
    "has a row number too high": CANNOT + "IndexError: index out of range in self",
    "has a loss for each row": CANNOT
    + "RuntimeError: grad_and_value(f)(*args): Expected f(*args) to return a scalar Tensor, got tensor with "
    "1 dims. Maybe you wanted to use the vjp or jacrev APIs instead?",
    "has params of another shape": CANNOT
    + "TaskError: task family 'faulty_tasks:Faulty': init_params gave shape (1, 4), expected (tasks, "
    "coordinates) = (1, 3)",
    "has NaN params": CANNOT
    + "TaskError: task family 'faulty_tasks:Faulty': initial parameters are not finite",
    "has a task too few": CANNOT
    + "TaskError: task family 'faulty_tasks:Faulty': sample() gave 0 tasks, 1 were asked for",
}


@pytest.mark.parametrize("fault", REFUSED)
def test_broken_tasks_are_refused_before_the_campaign_begins(fault: str, tmp_path: Path) -> None:
    outcome = run(tmp_path, fault, horizon=60)
    ends_with(outcome, f"bad.toml: tasks.0: {REFUSED[fault].format(split='meta_train')}")
    assert not list(tmp_path.rglob("campaign.db*"))


@pytest.mark.parametrize("split", ["meta_train", "meta_valid", "meta_test"])
@pytest.mark.parametrize("fault", ["raises when drawn", "raises in the loss", "has NaN in a row"])
def test_the_split_that_is_broken_is_named(fault: str, split: str, tmp_path: Path) -> None:
    ends_with(run(tmp_path, fault, split), f"bad.toml: tasks.0: {REFUSED[fault].format(split=split)}")


#: What is wrong where so many tasks of a split are drawn → the line after which the campaign is not begun.
LATER = [
    (
        "raises in its second task",
        "meta_valid",
        4,
        CANNOT + "ValueError: the sensor is off, on task 2 (linear 3-1) of 4",
    ),
    ("raises in the loss", "meta_valid", 4, CANNOT + "ValueError: the sensor, on each of 4 tasks"),
    (
        "is hard to start in its second task",
        "meta_valid",
        4,
        "tasks 'faulty_tasks:Faulty' ({split}): the initial loss is inf on 1 of 4 tasks, such as linear 3-1; "
        "make it finite",
    ),
    ("raises when drawn", "meta_train", 3, FAMILY + "sample() raised FileNotFoundError: the data is away"),
]


@pytest.mark.parametrize(("fault", "split", "n_tasks", "line"), LATER)
def test_tasks_that_break_in_the_first_generation_leave_nothing_behind(
    fault: str, split: str, n_tasks: int, line: str, tmp_path: Path
) -> None:
    outcome = run(tmp_path, fault, split, n_tasks, families='"recurrent"')
    ends_with(outcome, f"error: {line.format(split=split)}")
    assert not list(tmp_path.rglob("campaign.db*"))


def test_tasks_that_all_genomes_fail_to_meta_train_on_are_named(tmp_path: Path) -> None:
    outcome = run(tmp_path, "raises in its second task", "meta_train", 3, families='"recurrent"')
    ends_with(
        outcome,
        "error: meta-training on tasks 'faulty_tasks:Faulty', 'quadratic': 4 of 4 genomes failed, more than "
        "execution.max_failed_fraction = 0.5 allows; 4 of them with 'error: ValueError: the sensor is off', "
        "on task 2 (linear 3-1) of 3 of 'faulty_tasks:Faulty'. Mend the cause and resume",
    )


@pytest.mark.parametrize(
    "fault",
    [
        "",
        "has float64 rows",
        "has int32 row numbers",
        "has fewer rows than its batches",
        "has labels in range",
    ],
)
def test_data_that_can_be_made_to_do_will_do(fault: str, tmp_path: Path) -> None:
    outcome = run(tmp_path, fault)
    assert (outcome.code, outcome.err) == (0, "")
    with CampaignStore.open(tmp_path / "runs" / "bad" / "campaign.db", readonly=True) as store:
        rows = store.evaluations(generation=0, purpose="fitness")
        assert store.status() == "finished"
    assert {one.status for one in rows} == {"complete"}
