"""Many steps in one call of a kernel equal the same steps one by one, for every rule that has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from evometa.genome.genes import Choice, Subset, Value
from evometa.inner.record import UnrollRecord
from evometa.rules.base import RuleFamily, UpdateRule
from evometa.rules.feature_table import SHARED_FEATURES
from evometa.rules.registry import RULES, SCHEDULES
from evometa.trees import tree_map

TrainingOf = Callable[..., Any]
Genes = dict[str, Value]
#: a few hundred roundings
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-4}
each_dtype = pytest.mark.parametrize("dtype", CLOSE, ids=str)
#: one family a kernel
each_kernel = pytest.mark.parametrize("family", ["adam", "mlp", "recurrent"])


def assert_close(one: UnrollRecord, other: UnrollRecord, tolerance: float) -> None:
    """Losses along the training, and those of the trained params on rows that no step has seen."""
    np.testing.assert_allclose(one.losses, other.losses, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(one.valid_losses, other.valid_losses, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(one.status, other.status)


def combinations(family: RuleFamily) -> list[Genes]:
    """Every combination of the family's choices between words (cells, outputs, nominal steps)."""
    found: list[Genes] = [{}]
    for gene in family.space:
        if isinstance(gene, Choice) and isinstance(gene.default, str):
            found = [
                {**genes, **option}
                for genes in found
                for option in (
                    [{gene.name: value} for value in gene.options]
                    if gene.name in family.space.complete(genes)
                    else [{}]
                )
            ]
    return found


def feature_sets(family: RuleFamily) -> list[Genes]:
    """Each shared feature alone, and all features at once."""
    subsets = {gene.name: gene.options for gene in family.space if isinstance(gene, Subset)}
    alone: list[Genes] = [{"shared_features": (name,)} for name in subsets.get("shared_features", ())]
    return [*alone, dict(subsets)] if subsets else []


def name_of(value: object) -> str:
    """A structure's name in a test's: its options, or how many features it has."""
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(_word(name, own) for name, own in value.items()) or "default"


def _word(name: str, value: Value) -> str:
    if isinstance(value, tuple):
        return f"{len(value)} {name}" if len(value) > 1 else value[0]
    return value if isinstance(value, str) else f"{name} {value}"


KERNEL_RULES = [
    (name, family)
    for name, family in RULES
    if type(family.build(family.space.complete({}))).train is not UpdateRule.train
]
#: decays and the share of the gradient, which are not those of Adam
QHADAM: Genes = {
    "nominal": "adam", "nominal_beta1": 0.95, "nominal_beta2": 0.9, "nominal_gradient": 0.3
}  # fmt: skip
STRUCTURES = [
    *((name, genes) for name, own in KERNEL_RULES for genes in (*combinations(own), *feature_sets(own))),
    *(
        (name, {**QHADAM, "combine": combine})
        for name in ("mlp", "recurrent")
        for combine in ("add", "scale")
    ),
]


@each_dtype
@pytest.mark.parametrize(("family", "genes"), STRUCTURES, ids=name_of)
def test_one_call_equals_its_steps_for_every_rule(
    family: str, genes: Genes, dtype: torch.dtype, training_of: TrainingOf
) -> None:
    training = training_of(family, dtype=dtype, **genes)
    expected = training.step_by_step()
    assert_close(training.by_kernel(), expected, CLOSE[dtype])
    assert (expected.losses[..., -1] != expected.losses[..., 0]).all(), "nothing moved"


def test_those_structures_have_every_kernel_every_cell_every_output_and_the_loss() -> None:
    probe = torch.zeros((1, 1, 1))
    rules = {name: RULES[name].build(RULES[name].space.complete({})) for name in RULES.built_in}
    assert {name for name, _ in KERNEL_RULES} == {
        n for n, rule in rules.items() if rule.has_kernel(probe, probe)
    }
    assert {genes["cell"] for _, genes in STRUCTURES if "cell" in genes} == {"vanilla", "gru", "lstm"}
    outputs = {(name, genes["output"]) for name, genes in STRUCTURES if "output" in genes}
    assert {name for name, _ in outputs} == {"mlp", "recurrent"}
    assert len(outputs) == 6
    assert "loss" in SHARED_FEATURES
    assert all((name, {"shared_features": ("loss",)}) in STRUCTURES for name in ("mlp", "recurrent"))


FORMULAS = [name for name, family in SCHEDULES if family.build(family.space.complete({})).elementwise]


@pytest.mark.parametrize("schedule", FORMULAS)
@each_kernel
def test_one_call_equals_its_steps_for_every_schedule(
    family: str, schedule: str, training_of: TrainingOf
) -> None:
    training = training_of(family, schedule=schedule)
    assert_close(training.by_kernel(steps_at_once=7), training.step_by_step(), 1e-12)


@each_dtype
@pytest.mark.parametrize("tasks", ["values", "deep", "sines"])
@each_kernel
def test_one_call_equals_its_steps_on_other_tasks(
    family: str, tasks: str, dtype: torch.dtype, training_of: TrainingOf
) -> None:
    training = training_of(family, tasks, dtype)
    assert_close(training.by_kernel(), training.step_by_step(), CLOSE[dtype])


#: rules with all that is counted, averaged or multiplied up from step to step
CARRYING: list[tuple[str, Genes]] = [
    *((name, {}) for name, _ in KERNEL_RULES),
    *((name, {"shared_features": SHARED_FEATURES}) for name in ("mlp", "recurrent")),
    ("mlp", {"nominal": "adam"}),
    *(("recurrent", {"cell": cell, "output": "rms_normalised"}) for cell in ("vanilla", "gru", "lstm")),
]
each_carrying = pytest.mark.parametrize(("family", "genes"), CARRYING, ids=name_of)


@pytest.mark.parametrize("steps_at_once", [1, 7])
@each_carrying
def test_several_calls_equal_one(
    family: str, genes: Genes, steps_at_once: int, training_of: TrainingOf
) -> None:
    training = training_of(family, schedule="cosine", **genes)
    assert_close(training.by_kernel(steps_at_once), training.by_kernel(), 1e-12)


@pytest.mark.parametrize("horizon", [0, 1, 2])
@each_kernel
def test_short_horizons(family: str, horizon: int, training_of: TrainingOf) -> None:
    training = training_of(family, horizon=horizon)
    found = training.by_kernel()
    assert found.losses.shape == (3, 3, horizon + 1)
    assert_close(found, training.step_by_step(), 1e-12)


@each_carrying
def test_a_candidate_does_not_notice_its_cohort_nor_a_task_the_others(
    family: str, genes: Genes, training_of: TrainingOf
) -> None:
    training = training_of(family, dtype=torch.float32, n=5, **genes)
    whole, kind = training.by_kernel(), type(training)
    for p, candidate in enumerate(training.candidates):
        alone = kind([candidate], training.part, training.horizon).by_kernel()
        np.testing.assert_array_equal(alone.losses[0], whole.losses[p])
        np.testing.assert_array_equal(alone.valid_losses[0], whole.valid_losses[p])
    for t in range(3):
        part = training.part.of(slice(t, t + 1))
        alone = kind(training.candidates, part, training.horizon).by_kernel()
        np.testing.assert_array_equal(alone.losses[:, 0], whole.losses[:, t])
        np.testing.assert_array_equal(alone.valid_losses[:, 0], whole.valid_losses[:, t])


@each_kernel
def test_candidates_beyond_those_that_are_trained_side_by_side(family: str, training_of: TrainingOf) -> None:
    """Of the runs of a task only as many are trained side by side as leave their states in cache."""
    training = training_of(family, "deep", torch.float32, 2)
    n_rounds = 2**16 // (2 * training.part.tasks.layout.size) // 3 + 1
    many = type(training)(training.candidates * n_rounds, training.part, 2).by_kernel()
    few = training.by_kernel()
    np.testing.assert_array_equal(many.losses, np.tile(few.losses, (n_rounds, 1, 1)))


@pytest.mark.parametrize("family", ["nadam", "mlp", "recurrent"])
def test_what_the_caller_gave_is_not_edited(family: str, training_of: TrainingOf) -> None:
    training = training_of(family, n=1)
    given = {
        **{f"weights.{name}": value for name, value in training.candidates[0].weights.items()},
        **{f"rows.{name}": value for name, value in training.part.tasks.rows.items()},
        "params": training.part.params,
        "indices": training.part.indices,
    }
    copies = tree_map(torch.clone, given)
    training.by_kernel()
    assert all(torch.equal(value, copies[name]) for name, value in given.items())
