"""Children that would make the updates of a genome that is there already are stored and not evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from evometa.campaign import loop
from evometa.campaign.equals import without_equals
from evometa.campaign.session import run_campaign
from evometa.config import CampaignConfig, ExecutionConfig
from evometa.evolution.reproduction import Child, next_generation
from evometa.genome.genome import Genome
from evometa.rules import RULES
from evometa.rules.learner_structure import learner_space
from evometa.store import CampaignStore, content_digest
from evometa.store.examination import examine


def genome(identity: str) -> Genome:
    return Genome(identity, "sgd", {"lr": 0.1})


def test_the_first_of_equals_stays_unless_it_was_there_before() -> None:
    children = [genome(name) for name in "abcdef"]
    hashes = {"a": "1", "b": "2", "c": "1", "d": "3", "f": "2"}  # e could not be hashed
    assert [one.id for one in without_equals(children, hashes, ["3"])] == ["a", "b", "e"]
    assert without_equals(children, {}, ["3"]) == children


@pytest.fixture
def alone(small: CampaignConfig) -> CampaignConfig:
    evolution = replace(small.evolution, families=("sgd", "momentum"))
    inline = ExecutionConfig(device="cpu", backend="inline")
    return replace(small, evolution=evolution, execution=inline, genes={})


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every brood the last two children are the first one under another name."""

    def bred(*arguments: object) -> list[Child]:
        children: Sequence[Child] = next_generation(*arguments)  # type: ignore[arg-type]
        plain = {"lr": 0.05 + 0.01 * int(arguments[-1]), "schedule": "constant"}  # type: ignore[call-overload]
        genes = [
            learner_space(RULES[family]).complete({**plain, **own})
            for family, own in (("sgd", {}), ("momentum", {"one_minus_momentum": 1.0}))
        ]
        first = replace(children[0], family="sgd", genes=genes[0])
        same = [replace(one, family="momentum", genes=genes[1]) for one in children[-2:]]
        return [first, *children[1:-2], *same]

    monkeypatch.setattr(loop, "next_generation", bred)


@pytest.mark.usefixtures("copies")
def test_they_take_no_steps_and_no_place_in_the_population(alone: CampaignConfig, tmp_path: Path) -> None:
    path = run_campaign(alone, tmp_path)
    assert examine(path) == []
    with CampaignStore.open(path, readonly=True) as store:
        for record in store.generations()[1:]:
            born = [f"{record.index:03d}-{number:03d}" for number in range(alone.evolution.population)]
            evaluated = {
                one.genome_id for one in store.evaluations(generation=record.index, purpose="fitness")
            }
            assert set(born[:-2]) <= evaluated
            assert not set(born[-2:]) & (evaluated | {one.genome_id for one in record.candidates})
            assert [store.first_with_updates_of(one) for one in born[-2:]] == [born[0]] * 2
            assert len(record.population) == alone.evolution.population


@pytest.mark.usefixtures("copies")
def test_they_are_evaluated_where_that_is_asked_for(alone: CampaignConfig, tmp_path: Path) -> None:
    everyone = replace(alone, evolution=replace(alone.evolution, skip_equal=False))
    with CampaignStore.open(run_campaign(everyone, tmp_path), readonly=True) as store:
        for record in store.generations()[1:]:
            assert len(record.candidates) == 2 * alone.evolution.population
        assert store.first_with_updates_of("001-004") is None


def test_looking_for_equals_changes_nothing_where_there_are_none(
    small: CampaignConfig, tmp_path: Path
) -> None:
    inline = replace(small, seed=4, execution=ExecutionConfig(device="cpu", backend="inline"))
    careless = replace(inline, evolution=replace(inline.evolution, skip_equal=False))
    with CampaignStore.open(run_campaign(inline, tmp_path / "careful"), readonly=True) as store:
        assert all(store.first_with_updates_of(one.id) is None for one in store.genomes())
    whole = content_digest(store.path)
    other = content_digest(run_campaign(careless, tmp_path / "careless"))
    assert {name for name in whole if whole[name] != other[name]} == {"campaign", "genomes"}
