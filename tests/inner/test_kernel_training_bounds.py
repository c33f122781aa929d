"""Kernels that train many steps in a call: runs that diverge, and where such kernels keep out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from evometa import native
from evometa.genome.genes import Value
from evometa.inner import unroll as unroll_module
from evometa.inner.kernel_training import kernel_tasks
from evometa.inner.precision import precision_of
from evometa.inner.record import Status, UnrollRecord
from evometa.rules.registry import SCHEDULES
from evometa.tasks import mlp_kernel

TrainingOf = Callable[..., Any]
#: one family a kernel
each_kernel = pytest.mark.parametrize("family", ["adam", "mlp", "recurrent"])

#: Steps of once the gradient of a regression whose curvature is about 8, and of a thousandth of it.
WILD: dict[str, dict[str, Value]] = {
    "sgd": {"lr": 10.0},
    "mlp": {"nominal": "sgd", "nominal_lr": 1.0},
    "recurrent": {"nominal": "sgd", "nominal_lr": 1.0},
}
TAME: dict[str, dict[str, Value]] = {
    "sgd": {"lr": 1e-3},
    "mlp": {"nominal": "sgd", "nominal_lr": 1e-3},
    "recurrent": {"nominal": "sgd", "nominal_lr": 1e-3},
}
each_wild = pytest.mark.parametrize("family", WILD)


def assert_close(one: UnrollRecord, other: UnrollRecord) -> None:
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-9)
    np.testing.assert_allclose(one.valid_losses, other.valid_losses, rtol=1e-9)
    np.testing.assert_array_equal(one.status, other.status)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first step of every call of a kernel."""
    made: list[int] = []
    real = unroll_module.train_by_kernel

    def counted(*arguments: Any) -> Any:
        made.append(arguments[5])
        return real(*arguments)

    monkeypatch.setattr(unroll_module, "train_by_kernel", counted)
    return made


@each_wild
def test_once_every_run_has_diverged_training_stops(
    family: str, training_of: TrainingOf, calls: list[int]
) -> None:
    training = training_of(family, "values", torch.float32, 400, n=1, **WILD[family])
    found = training.by_kernel(steps_at_once=50)
    reached = max(calls) + 50
    assert reached < 400
    assert (found.status == Status.DIVERGED.value).all()
    assert np.isnan(found.losses[..., reached:]).all()
    expected = training.step_by_step()
    n_finite = np.isfinite(expected.losses).sum(-1)
    np.testing.assert_array_equal(np.isfinite(found.losses).sum(-1), n_finite)
    for t, n in enumerate(n_finite[0]):
        assert 0 < n < reached
        np.testing.assert_allclose(found.losses[0, t, :n], expected.losses[0, t, :n], rtol=1e-3)


@each_wild
def test_a_run_that_diverges_leaves_the_others_alone(family: str, training_of: TrainingOf) -> None:
    tame, wild = (
        training_of(family, "values", torch.float32, 150, n=1, **genes[family]) for genes in (TAME, WILD)
    )
    mixed = [*tame.candidates, *wild.candidates, *tame.candidates]
    together = replace(tame, candidates=mixed).by_kernel(steps_at_once=30)
    alone = tame.by_kernel(steps_at_once=30)
    assert [set(row) for row in together.status] == [{"complete"}, {"diverged"}, {"complete"}]
    for p in (0, 2):
        np.testing.assert_array_equal(together.losses[p], alone.losses[0])
        np.testing.assert_array_equal(together.valid_losses[p], alone.valid_losses[0])


@each_wild
def test_a_task_that_cannot_be_trained_leaves_the_others_alone(family: str, training_of: TrainingOf) -> None:
    training = training_of(family, "values", n=2, **TAME[family])
    params = training.part.params.clone()
    params[1] = torch.nan
    lost = replace(training, part=replace(training.part, params=params))
    clean, broken = training.by_kernel(steps_at_once=7), lost.by_kernel(steps_at_once=7)
    assert np.isnan(broken.losses[:, 1]).all()
    assert (broken.status[:, 1] == Status.DIVERGED.value).all()
    others = [0, 2]
    np.testing.assert_array_equal(broken.losses[:, others], clean.losses[:, others])
    np.testing.assert_array_equal(broken.status[:, others], clean.status[:, others])


@pytest.mark.parametrize("left_out", ["for_kernels", "loss_and_grad"])
@each_kernel
def test_not_for_tasks_that_kernels_do_not_know(family: str, left_out: str, training_of: TrainingOf) -> None:
    training = training_of(family)
    tasks = replace(training.part.tasks, **{left_out: None})
    plain = replace(training, part=replace(training.part, tasks=tasks))
    assert_close(plain.refused(), training.by_torch())


@each_kernel
def test_not_for_schedules_that_wait_for_losses(family: str, training_of: TrainingOf) -> None:
    (learned,) = (name for name, row in SCHEDULES if row.learned)
    training = training_of(family, schedule=learned)
    assert_close(training.refused(), training.by_torch())


@each_kernel
def test_not_for_large_layers(family: str, training_of: TrainingOf, monkeypatch: pytest.MonkeyPatch) -> None:
    training = training_of(family)
    expected, most = training.by_kernel(), 4 * 5  # from the four columns of iris to five units
    monkeypatch.setattr(mlp_kernel, "MOST_WEIGHTS", most - 1)
    assert_close(training.refused(), expected)
    monkeypatch.setattr(mlp_kernel, "MOST_WEIGHTS", most)
    assert_close(training.by_kernel(), expected)


def _by_environment(monkeypatch: pytest.MonkeyPatch) -> AbstractContextManager[None]:
    monkeypatch.setenv("EVOMETA_NATIVE", "0")
    return nullcontext()


@pytest.mark.parametrize(
    "off", [lambda patch: native.disabled(), _by_environment], ids=["block", "environment"]
)
@each_kernel
def test_not_where_they_are_switched_off(
    family: str,
    off: Callable[[pytest.MonkeyPatch], AbstractContextManager[None]],
    training_of: TrainingOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = training_of(family)
    expected = training.by_kernel()
    with off(monkeypatch):
        assert_close(training.refused(), expected)


@each_kernel
def test_not_in_lower_precisions(family: str, training_of: TrainingOf) -> None:
    training = training_of(family, dtype=torch.float32)
    exact = training.by_kernel()
    with precision_of("bfloat16"):
        rounded, expected = training.refused(), training.step_by_step()
    np.testing.assert_array_equal(rounded.losses, expected.losses)
    assert not np.array_equal(rounded.losses, exact.losses)
    np.testing.assert_allclose(rounded.losses[..., 0], exact.losses[..., 0], rtol=2e-2)


@each_kernel
def test_not_where_a_graph_is_wanted_nor_for_other_dtypes(family: str, training_of: TrainingOf) -> None:
    training = training_of(family)
    part = training.part
    assert training.is_for_kernels()
    assert training_of(family, dtype=torch.float32).is_for_kernels()
    assert kernel_tasks(training.cohort, part.tasks, part.params, part.indices) is None
    half = replace(
        part, tasks=part.tasks.to(torch.device("cpu"), torch.bfloat16), params=part.params.bfloat16()
    )
    assert not replace(training, part=half).is_for_kernels()
    assert not replace(training, part=replace(part, indices=None)).is_for_kernels()
