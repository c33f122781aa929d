"""What is stored comes back."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evometa.errors import StoreError
from evometa.genome.genome import Genome, Lineage
from evometa.store import (
    Baseline,
    CampaignStore,
    Candidate,
    Evaluation,
    GenerationRecord,
    TaskResult,
    Timing,
)

any_float = st.floats(allow_nan=True, allow_infinity=True, width=64)
counts = st.integers(0, 2**62)
text = st.text(max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
gene_values = finite | st.integers() | text | st.booleans() | st.lists(text, max_size=3).map(tuple)
genomes = st.builds(
    Genome,
    id=st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=8),
    family=text,
    genes=st.dictionaries(text, gene_values, max_size=6),
    name=text,
    lineage=st.builds(Lineage, operator=text, generation=st.integers(0, 99), weights=text),
)
task_results = st.builds(
    TaskResult, text, text, st.sampled_from(["complete", "diverged", "error"]), *[any_float] * 6
)
evaluations = st.builds(
    Evaluation,
    genome_id=st.just("a"),
    generation=st.just(0),
    split=st.sampled_from(["meta_valid", "meta_test"]),
    purpose=st.sampled_from(["fitness", "final", "report"]),
    inner_steps=counts,
    status=text,
    message=text,
    tasks=st.lists(task_results, max_size=4).map(tuple),
)
baselines = st.builds(
    Baseline,
    text,
    text,
    counts,
    finite,
    st.lists(st.tuples(finite, any_float), max_size=4).map(tuple),
    counts,
)


def record(*ids: str, **changes: Any) -> GenerationRecord:
    """A generation of the genomes ``ids``, all of which survive."""
    fields: dict[str, Any] = {
        "index": 0,
        "objectives": ("meta_loss",),
        "reference_point": (1.0,),
        "candidates": tuple(Candidate(one, (0.5,)) for one in ids),
        "population": ids,
    }
    return GenerationRecord(**fields | changes)


@pytest.fixture
def store(path: Path, driver: ModuleType) -> Any:
    """Three generations and the final evaluations of the example campaign, reopened for reading."""
    driver.run(path, n_generations=3)
    with CampaignStore.open(path, readonly=True) as opened:
        yield opened


@settings(max_examples=40)
@given(st.lists(genomes, max_size=4, unique_by=lambda genome: genome.id), st.data())
def test_genomes_come_back_with_types_order_and_lineage(born: list[Genome], data: st.DataObject) -> None:
    ids = [genome.id for genome in born]
    parents = st.lists(st.sampled_from(ids), max_size=3).map(tuple) if ids else st.just(())
    born = [
        Genome(g.id, g.family, g.genes, lineage=Lineage(data.draw(parents), g.lineage.operator), name=g.name)
        for g in born
    ]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "c", "campaign.db")
        with CampaignStore.create(path, config_json="{}") as store:
            store.commit_generation(record(*ids), genomes=born)
        with CampaignStore.open(path, readonly=True) as store:
            assert repr(store.genomes()) == repr(born)  # True is not 1, 1 is not 1.0, genes stay in order
            assert store.population(0) == born
            backwards = ids[::-1]
            assert [genome.id for genome in store.genomes(backwards)] == backwards


@settings(max_examples=40)
@given(
    st.lists(evaluations, max_size=4, unique_by=lambda e: (e.split, e.purpose)),
    st.lists(baselines, max_size=3, unique_by=lambda b: (b.task, b.rule, b.horizon)),
    st.dictionaries(text, st.integers(0, 2**63 - 1), max_size=3),
    st.lists(any_float, min_size=2, max_size=2),
    st.none() | any_float,
)
def test_results_come_back_with_nan_where_a_number_was_not_finite(
    made: list[Evaluation],
    tuned: list[Baseline],
    streams: dict[str, int],
    values: list[float],
    hypervolume: float | None,
) -> None:
    generation = record(
        objectives=("loss", "flops"),
        reference_point=tuple(values),
        candidates=(Candidate("a", tuple(values), in_front=True),),
        population=("a",),
        hypervolume=hypervolume,
        n_failures=3,
        refinement_inner_steps=5,
        evaluation_inner_steps=7,
    )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "c", "campaign.db")
        with CampaignStore.create(path, config_json="{}") as store:
            store.commit_generation(
                generation,
                genomes=[Genome("a", "adam", {})],
                evaluations=made,
                streams=streams,
                baselines=tuned,
            )
        with CampaignStore.open(path, readonly=True) as store:
            # repr: exact for floats, and nan equals nan in it
            assert repr(store.evaluations()) == repr(made)
            assert repr(store.generations()) == repr([generation])
            assert repr(store.generation(0)) == repr(generation)
            assert repr(store.baselines()) == repr(tuned)
            assert store.streams(0) == streams


def test_zero_has_no_sign() -> None:
    assert repr(TaskResult("q", "d", "complete", -0.0, 1.0).initial_loss) == "0.0"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_nan_or_none_from_the_start(value: float) -> None:
    assert math.isnan(TaskResult("q", "d", "diverged", value, value).final_loss)
    assert math.isnan(Candidate("a", (value,)).values[0])
    assert record(hypervolume=value).hypervolume is None
    assert math.isnan(Baseline("q", "adam", 1, 0.1, ((0.1, value),)).grid[0][1])


def test_numpy_numbers_are_stored_as_numbers(path: Path) -> None:
    task = TaskResult("q", "d", "complete", np.float32(0.5), np.float64(0.25))
    made = Evaluation("a", np.int64(0), "meta_valid", "fitness", np.int64(12), "complete", tasks=(task,))
    candidate = Candidate("a", tuple(np.array([0.5])), in_front=np.True_)
    generation = record(candidates=(candidate,), population=("a",), n_failures=np.int32(2))
    with CampaignStore.create(path, config_json="{}") as store:
        store.commit_generation(generation, genomes=[Genome("a", "adam", {})], evaluations=[made])
        (back,) = store.evaluations()
        assert (type(back.inner_steps), back.inner_steps) == (int, 12)
        assert (back.tasks[0].initial_loss, back.tasks[0].final_loss) == (0.5, 0.25)
        assert store.generation(0).n_failures == 2
        assert [genome.id for genome in store.front(0)] == ["a"]


def test_text_that_is_no_unicode_is_stored_with_escapes(path: Path) -> None:
    made = Evaluation("a", 0, "meta_valid", "fitness", 0, "error", message="no file '\udce9t\u00e9'\0!")
    with CampaignStore.create(path, config_json="{}") as store:
        store.commit_generation(record("a"), genomes=[Genome("a", "adam", {})], evaluations=[made])
        assert store.evaluations()[0].message == "no file '\\udce9té'\0!"


def test_every_part_of_a_campaign_can_be_read(store: CampaignStore, driver: ModuleType) -> None:
    assert store.name == "first"
    assert json.loads(store.config()) == json.loads(driver.CONFIG)
    assert store.status() == "finished"
    assert store.last_generation() == 2
    expected = [driver.generation(index) for index in range(3)]
    assert store.generations() == [one["record"] for one in expected]
    assert store.genomes() == [genome for one in expected for genome in one["genomes"]]
    assert store.n_genomes() == 12
    assert store.streams(1) == expected[1]["streams"]
    assert repr(store.baselines()) == repr(expected[0]["baselines"])
    fitness = [made for one in expected for made in one["evaluations"]]
    assert repr(store.evaluations(purpose="fitness")) == repr(fitness)
    for name, data in expected[2]["weights"].items():
        assert store.weights_bytes(name) == data
    assert [(t.generation, t.phase, t.inner_steps) for t in store.timings()] == [
        (index, "evaluation", 2400) for index in range(3)
    ]


def test_population_front_and_values_of_a_generation(store: CampaignStore, driver: ModuleType) -> None:
    record = driver.generation(1)["record"]
    assert [genome.id for genome in store.population(1)] == list(record.population)
    front = [candidate.genome_id for candidate in record.candidates if candidate.in_front]
    assert [genome.id for genome in store.front(1)] == front
    values = store.objective_values(1)
    assert list(values) == [candidate.genome_id for candidate in record.candidates]
    for candidate in record.candidates:
        assert values[candidate.genome_id] == dict(zip(driver.OBJECTIVES, candidate.values, strict=True))
    best = [c.values for c in record.candidates if c.in_front]
    assert 0 < len(best) < len(record.candidates)
    assert list(store.best_values(1).values()) == np.min(best, axis=0).tolist()


def test_evaluations_are_selected_by_every_condition(store: CampaignStore) -> None:
    of_two = store.evaluations(genome_ids=["001-000", "001-001"], purpose="fitness")
    assert [(e.genome_id, e.generation) for e in of_two] == [
        ("001-000", 1), ("001-001", 1), ("001-000", 2), ("001-001", 2),
    ]  # fmt: skip
    assert {e.generation for e in store.evaluations(generation=1)} == {1}
    reported = store.evaluations(split="meta_test")
    assert [e.genome_id for e in reported] == [genome.id for genome in store.front(2)]
    assert {e.purpose for e in reported} == {"report"}
    assert store.evaluations(genome_ids=[]) == []


def test_ancestors_are_found_once_each_youngest_first(store: CampaignStore) -> None:
    ancestors = [genome.id for genome in store.ancestors("002-001")]
    assert ancestors == ["001-002", "001-001", "000-003", "000-002", "000-001"]
    assert store.ancestors("000-000") == []


def test_inner_steps_count_refinement_evaluation_final_and_tuning(store: CampaignStore) -> None:
    refinement, fitness, final, tuning = 3 * 1000, 300 * (4 + 8 + 8), 300 * len(store.front(2)), 900
    assert store.n_inner_steps() == refinement + fitness + final + tuning


def test_an_empty_campaign_reads_as_empty(path: Path) -> None:
    with CampaignStore.create(path, config_json="{}") as store:
        assert store.last_generation() is None
        assert (store.genomes(), store.generations(), store.evaluations()) == ([], [], [])
        assert store.n_inner_steps() == 0
        with pytest.raises(StoreError, match=r"no generation 0 \(it has none yet\)"):
            store.population(0)


def test_weights_of_one_content_are_stored_once(path: Path, driver: ModuleType) -> None:
    first, second = driver.generation(0), driver.generation(1)
    with CampaignStore.create(path, config_json="{}") as store:
        store.commit_generation(**first)
        store.commit_generation(**second | {"weights": first["weights"] | second["weights"]})
        assert all(store.weights_bytes(name) == data for name, data in first["weights"].items())


def test_timing_belongs_to_a_generation(path: Path) -> None:
    timing = Timing(0, "refinement", 1.5, 400)
    with CampaignStore.create(path, config_json="{}") as store:
        store.commit_generation(record("a"), genomes=[Genome("a", "adam", {})], timings=[timing])
        assert store.timings() == [timing]
