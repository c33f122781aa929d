"""Recorded and replayed steps against steps made one by one.

Without a GPU a tape stands in for a CUDA graph. Native kernels, which are the CPU's, take numbers from the
host: they have no place on it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from compute_device import DEVICE
from tapes import AsItIs, Tapes
from torch import Tensor

from evometa import native
from evometa.inner import graphs
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.graphs import Replayed, StaticLoop
from evometa.inner.record import UnrollRecord
from evometa.inner.task_set import TaskRequest, prepare, request
from evometa.inner.unroll import unroll
from evometa.rng import numpy_generator, torch_generator
from evometa.rules.learner import Learner
from evometa.rules.learner_structure import learner_space
from evometa.rules.registry import RULES
from evometa.trees import Tree

CPU = torch.device("cpu")
DIGITS = {"widths": [6], "depths": [1], "tasks_per_architecture": 2}
TASKS: list[tuple[str, dict[str, object]]] = [("quadratic", {}), ("rosenbrock", {}), ("digits", DIGITS)]


def candidates(family: str, n: int) -> list[Candidate]:
    space = learner_space(RULES[family])
    found = []
    for index in range(n):
        base = space.sample(numpy_generator(1, family))
        other = space.sample(numpy_generator(2, family, index))
        continuous = {name: other.get(name, value) for name, value in space.continuous(base).items()}
        genes = space.complete({**base, **space.shared({**base, **continuous})})
        weights = Learner.of(family, genes).init_weights(torch_generator(3, family, index))
        found.append(Candidate(f"{family}-{index}", family, genes, weights))
    return found


def trained(several: list[Candidate], wanted: TaskRequest, device: torch.device = CPU) -> list[UnrollRecord]:
    cohort = Cohort.of(several, device)
    return [
        unroll(cohort, part.tasks, part.params, part.indices, wanted.n_steps - 1)
        for part in prepare(wanted, device)
    ]


def assert_equal(one: UnrollRecord, other: UnrollRecord) -> None:
    np.testing.assert_array_equal(one.losses, other.losses)
    np.testing.assert_array_equal(one.valid_losses, other.valid_losses)
    assert one.status.tolist() == other.status.tolist()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[UnrollRecord]]:
    """Trains as on a GPU, with tapes for graphs."""

    def run(
        several: list[Candidate], wanted: TaskRequest, recorder: type[Tapes] = Tapes
    ) -> list[UnrollRecord]:
        with monkeypatch.context() as patch:
            patch.setattr(graphs, "serves", lambda device, n_steps: True)
            patch.setattr(graphs, "CudaGraphs", recorder)
            return trained(several, wanted)

    return run


@pytest.mark.parametrize(("use", "options"), TASKS, ids=[name for name, _ in TASKS])
@pytest.mark.parametrize(("family", "n"), [("nadam", 3), ("mlp", 3), ("recurrent", 3), ("recurrent", 1)])
def test_replayed_training_equals_training_step_by_step(
    family: str, n: int, use: str, options: dict[str, object], recorded: Callable[..., list[UnrollRecord]]
) -> None:
    wanted = request(use, options, "meta_train", 3, 12, seed=5)
    several = candidates(family, n)
    with native.disabled():
        for plain, replayed in zip(trained(several, wanted), recorded(several, wanted), strict=True):
            assert_equal(plain, replayed)


def test_so_does_one_whose_gradients_come_late_and_with_noise(
    recorded: Callable[..., list[UnrollRecord]],
) -> None:
    options = {**DIGITS, "augment": {"gradient_delay": 2, "gradient_noise": 0.1}}
    wanted = request("digits", options, "meta_train", 3, 12, seed=5)
    several = candidates("adam", 2)
    with native.disabled():
        for plain, replayed in zip(trained(several, wanted), recorded(several, wanted), strict=True):
            assert_equal(plain, replayed)


@pytest.mark.parametrize("family", ["adam", "mlp", "recurrent"])
def test_static_tensors_serve_native_kernels_as_well(
    family: str, recorded: Callable[..., list[UnrollRecord]]
) -> None:
    wanted = request("digits", DIGITS, "meta_train", 3, 12, seed=5)
    several = candidates(family, 3)
    for plain, static in zip(trained(several, wanted), recorded(several, wanted, AsItIs), strict=True):
        # not bit by bit: a kernel that makes all steps takes the logarithm of the loss by another library
        np.testing.assert_allclose(plain.losses, static.losses, rtol=1e-5)
        np.testing.assert_allclose(plain.valid_losses, static.valid_losses, rtol=1e-5)
        assert plain.status.tolist() == static.status.tolist()


def test_a_replayed_training_that_is_lost_stops_early(recorded: Callable[..., list[UnrollRecord]]) -> None:
    genes = learner_space(RULES["sgd"]).complete({"lr": 10.0, "schedule": "constant"})
    wild = [Candidate("wild", "sgd", genes, {})]
    wanted = request("quadratic", {}, "meta_valid", 4, 200, seed=1)
    with native.disabled():
        (plain,), (replayed,) = trained(wild, wanted), recorded(wild, wanted)
    np.testing.assert_array_equal(plain.losses, replayed.losses)
    assert np.isnan(replayed.losses[0, :, -1]).all()
    assert (replayed.status == "diverged").all()


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs --device cuda")
@pytest.mark.parametrize(("use", "options"), TASKS, ids=[name for name, _ in TASKS])
@pytest.mark.parametrize("family", RULES.built_in)
def test_a_gpu_replays_what_it_would_do_step_by_step(
    family: str, use: str, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = request(use, options, "meta_train", 3, 21, seed=5)
    several = candidates(family, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that a step could not be recorded is a warning
        replayed = trained(several, wanted, DEVICE)
    monkeypatch.setattr(graphs, "serves", lambda device, n_steps: False)
    for plain, other in zip(trained(several, wanted, DEVICE), replayed, strict=True):
        np.testing.assert_allclose(plain.losses, other.losses, rtol=1e-4)


def test_only_the_first_steps_are_made_one_by_one() -> None:
    total, recorder, calls = torch.zeros(3), Tapes(CPU), []

    def add() -> None:
        calls.append(0)
        total.add_(1)

    once = Replayed(recorder)
    for n_made in range(1, 9):
        once(add)
        assert total.tolist() == [n_made] * 3
    assert recorder.n_recorded == 1
    assert len(calls) == graphs.WARM_UP_STEPS + 2, "and twice more: rehearsed and recorded"


@pytest.mark.parametrize("stage", ["rehearse", "record"])
def test_what_cannot_be_recorded_is_made_step_by_step_with_one_warning(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("called a synchronizing CUDA operation\nsomewhere")

    monkeypatch.setattr(Tapes, stage, refuse)
    total = torch.zeros(())
    once = Replayed(Tapes(CPU))
    for n_made in range(1, 9):
        with warnings.catch_warnings(record=True) as caught:
            once(lambda: total.add_(1))
        assert total.item() == n_made
        if n_made == graphs.WARM_UP_STEPS + 1:
            (warned,) = caught
            assert warned.category is RuntimeWarning
            assert str(warned.message).endswith("runs slower without (called a synchronizing CUDA operation)")
        else:
            assert not caught


def test_a_recording_without_memory_is_no_reason_to_go_on() -> None:
    class NoMemory(Tapes):
        def record(self, function: Callable[[], None]) -> Callable[[], None]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    once = Replayed(NoMemory(CPU))
    for _ in range(2):
        once(lambda: None)
    with pytest.raises(torch.OutOfMemoryError):
        once(lambda: None)


def test_a_state_that_hands_its_tensors_around_is_kept() -> None:
    """Momentum by what was: every next value lies in the memory of another."""

    def step(params: Tensor, state: Tree, rows: Tensor | None, count: Tensor) -> tuple[Tensor, Tensor, Tree]:
        after = {"older": state["old"], "old": params, "turned": state["turned"].flip(-1)}
        return params.sum(-1), params + state["older"] + count, after

    state = {"older": torch.tensor([[[1.0, 2.0]]]), "old": torch.tensor([[[3.0, 4.0]]])}
    state["turned"] = state["older"].clone()
    history = torch.zeros(4, 1, 1)
    loop = StaticLoop(step, torch.tensor([[[5.0, 6.0]]]), dict(state), None, history)
    expected = [torch.tensor([[[5.0, 6.0]]])]
    olds = [state["older"].clone(), state["old"].clone()]
    for k in range(4):
        expected.append(expected[-1] + olds[k] + k)
        olds.append(expected[-2])
        loop.advance()
        assert torch.equal(loop.params, expected[-1])
    assert history.flatten().tolist() == [value.sum().item() for value in expected[:-1]]
