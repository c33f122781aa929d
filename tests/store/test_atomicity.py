"""A generation lands whole or not at all, whatever happens to the driver."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

from evometa import store as store_package
from evometa.errors import StoreError
from evometa.genome.genome import Genome
from evometa.store import CampaignStore, Candidate, content_digest

Plan = Callable[[str], dict[str, Any]]


def undisturbed(tmp_path: Path, driver: ModuleType, n_generations: int) -> dict[str, str]:
    """The content of a campaign that nobody killed."""
    path = tmp_path / "undisturbed" / "campaign.db"
    driver.run(path, n_generations)
    return content_digest(path)


def test_a_driver_killed_inside_a_transaction_leaves_the_generation_before(
    path: Path, tmp_path: Path, driver: ModuleType, in_other_process: Plan
) -> None:
    assert in_other_process("kill_inside_commit")["end"] == "SIGKILL"
    left = sorted(path.parent.iterdir())
    with CampaignStore.open(path, readonly=True) as store:
        assert store.status() == "interrupted"
        assert store.generations() == [driver.generation(index)["record"] for index in range(2)]
        assert len(store.genomes()) == 2 * driver.N_CHILDREN
    assert sorted(path.parent.iterdir()) == left, "reading made a file"
    driver.run(path, n_generations=3)
    assert content_digest(path) == undisturbed(tmp_path, driver, 3)


def test_drivers_killed_at_random_moments_end_where_an_undisturbed_one_does(
    path: Path, tmp_path: Path, driver: ModuleType, in_other_process: Plan
) -> None:
    report = in_other_process("kill_at_random")
    reached = [-1 if last is None else last for last in report["seen"]]
    assert reached == sorted(reached)
    assert len(set(reached)) >= 2, "the kills did not fall into the run"
    with CampaignStore.open(path, readonly=True) as store:
        assert store.status() == "finished"
    assert report["digest"] == undisturbed(tmp_path, driver, driver.N_GENERATIONS)


def test_a_full_disk_loses_the_generation_and_nothing_else(
    driver: ModuleType, in_other_process: Plan
) -> None:
    report = in_other_process("disk_full")
    assert "\n" not in report["error"]
    assert "campaign 'first'" in report["error"]
    assert "then continue with --resume" in report["error"]
    assert report["last"] == 0


def broken_by(key: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A change of the record of a commit."""
    return lambda commit: commit | {"record": replace(commit["record"], **{key: value})}


CONTRADICTIONS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "order": (broken_by("index", 2), "generation 2 is not stored, the next is 1"),
    "repeated": (broken_by("index", 0), "generation 0 is not stored, the next is 1"),
    "stranger in the population": (
        broken_by("population", ("ghost",)),
        "'ghost' is in the population but not",
    ),
    "survivor twice": (broken_by("population", ("001-000",) * 2), "a genome stands twice in the population"),
    "reference point": (broken_by("reference_point", (1.0,)), "2 objectives, a reference point of 1 values"),
    "values": (broken_by("candidates", (Candidate("001-000", (1.0,)),)), "'001-000' has 1 values for 2"),
    "unknown candidate": (
        broken_by("candidates", (Candidate("001-000", (1.0, 1.0)), Candidate("ghost", (1.0, 1.0)))),
        "population but not|FOREIGN KEY",
    ),
    "genome twice": (
        lambda commit: commit | {"genomes": [*commit["genomes"], Genome("000-000", "adam", {})]},
        r"UNIQUE constraint failed: genomes.id\); nothing was written",
    ),
    "parent that is not there": (
        lambda commit: commit | {"genomes": commit["genomes"][1:]},
        "FOREIGN KEY constraint failed",
    ),
    "weights that are not there": (lambda commit: commit | {"weights": {}}, "FOREIGN KEY constraint failed"),
    "weights under a false name": (lambda commit: commit | {"weights": {"0": b"x"}}, "not the SHA-256"),
    "gene that is no plain value": (
        lambda commit: commit | {"genomes": [replace(commit["genomes"][0], genes={"lr": float("nan")})]},
        "genome '001-000' is not stored: its genes are not plain values",
    ),
    "evaluation of another generation": (
        lambda commit: commit | {"evaluations": [replace(commit["evaluations"][0], generation=0)]},
        "an evaluation of '000-000' says generation 0 and comes with generation 1",
    ),
    "evaluation twice": (
        lambda commit: commit | {"evaluations": commit["evaluations"][:1] * 2},
        "UNIQUE constraint failed: evaluations.genome_id",
    ),
    "seed that is no number": (
        lambda commit: commit | {"streams": {"tasks": object()}},
        "a value of type object",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_refused_generation_leaves_nothing_and_the_right_one_still_lands(
    name: str, path: Path, tmp_path: Path, driver: ModuleType
) -> None:
    spoil, message = CONTRADICTIONS[name]
    with CampaignStore.create(path, config_json=driver.CONFIG) as store:
        store.commit_generation(**driver.generation(0))
        before = content_digest(path)
        with pytest.raises(StoreError, match=message) as caught:
            store.commit_generation(**spoil(driver.generation(1)))
        assert "\n" not in str(caught.value)
        assert content_digest(path) == before
        store.commit_generation(**driver.generation(1))
        assert store.last_generation() == 1


def test_an_error_raised_while_rows_are_made_undoes_the_transaction(path: Path, driver: ModuleType) -> None:
    def failing() -> Any:
        yield driver.evaluation("000-000", 0)
        raise KeyboardInterrupt

    with CampaignStore.create(path, config_json=driver.CONFIG) as store:
        with pytest.raises(KeyboardInterrupt):
            store.commit_generation(**driver.generation(0) | {"evaluations": failing()})
        assert store.last_generation() is None
        assert store.genomes() == []
        store.commit_generation(**driver.generation(0))


def test_an_interruption_at_any_line_closes_the_campaign_whole(tmp_path: Path, driver: ModuleType) -> None:
    before = undisturbed(tmp_path, driver, 1)
    n_lines, came, contents = 0, True, []
    while came:
        path = tmp_path / str(n_lines) / "campaign.db"
        driver.run(path, 1)
        came = interrupted_after(n_lines, path, driver)
        n_lines += came
        contents.append(content_digest(path))
        assert sorted(file.name for file in path.parent.iterdir()) == ["campaign.db", "campaign.lock"]
    assert n_lines > 30, "the lines of a commit were not seen"
    assert contents[0] == before != contents[-1]
    assert all(content in (before, contents[-1]) for content in contents)


def interrupted_after(n_lines: int, path: Path, driver: ModuleType) -> bool:
    """Commit another generation and close; Ctrl-C comes where a further line of the store's code would be
    run for the first time. Whether there was one."""
    home, seen = str(Path(store_package.__file__).parent), set()

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(home):
            return None
        if event == "line":
            seen.add((frame.f_code, frame.f_lineno))
            if len(seen) > n_lines:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    with CampaignStore.open(path) as store:
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            store.commit_generation(**driver.generation(1))
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
    return False


def test_final_evaluations_finish_a_campaign_and_a_further_generation_reopens_it(
    path: Path, driver: ModuleType
) -> None:
    with CampaignStore.create(path, config_json=driver.CONFIG) as store:
        with pytest.raises(StoreError, match="has no generation to finish with"):
            store.commit_final([])
        store.commit_generation(**driver.generation(0))
        baseline = Genome("baseline-adam", "adam", {"lr": 0.1}, name="adam")
        report = driver.evaluation(baseline.id, 0, split="meta_test", purpose="report")
        store.commit_final([report], genomes=[baseline], streams={"tasks/meta_test": 5})
        assert store.status() == "finished"
        assert store.genome("baseline-adam") == baseline
        assert store.streams(0)["tasks/meta_test"] == 5
        store.commit_generation(**driver.generation(1))
        assert store.status() == "running"


def test_a_campaign_given_more_generations_is_unfinished_again(path: Path, driver: ModuleType) -> None:
    driver.run(path, n_generations=1)
    with CampaignStore.open(path) as store:
        store.replace_config('{"seed": 1}')
        assert (store.config(), store.status()) == ('{"seed": 1}', "running")
    driver.run(path, n_generations=2)
    with CampaignStore.open(path, readonly=True) as store:
        assert (store.last_generation(), store.status()) == (1, "finished")
        assert {made.generation for made in store.evaluations(purpose="report")} == {0, 1}
