"""Steps that are recorded and replayed are the steps that would have been made one by one.

Without a GPU a tape stands in for a CUDA graph. Native kernels, which are the CPU's, take numbers from the
host: they have no place on it.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from compute_device import DEVICE, ON_CPU
from evolved_optimizers import (
    SHAPES,
    Case,
    assert_close,
    assert_equal,
    assert_same,
    every_case,
    evolved,
    give_gradients,
    loss_at,
    parameters,
    train,
    values,
)
from tapes import AsItIs, Tapes
from torch import Tensor, nn

from evometa import native
from evometa.export import EvolvedOptimizer, recorded
from evometa.inner import graphs
from evometa.rules.registry import SCHEDULES

#: Recordings made so far; graphs of a GPU are counted as well.
Made = list[int]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Records as on a GPU; without one with tapes for graphs."""
    made: Made = []
    recorder: Any = Tapes if ON_CPU else graphs.CudaGraphs

    class Counting(recorder):
        def __init__(self, device: torch.device, *, shares_memory: bool) -> None:
            super().__init__(device, **({} if ON_CPU else {"shares_memory": shares_memory}))

        def record(self, function: Callable[[], None]) -> Callable[[], None]:
            replay: Callable[[], None] = super().record(function)
            made.append(1)
            return replay

    monkeypatch.setattr(graphs, "serves", lambda device, n_steps=None: True)
    monkeypatch.setattr(graphs, "CudaGraphs", Counting)
    with native.disabled(), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # that a step could not be recorded
        yield made


def plainly(run: Callable[[], Any]) -> Any:
    """What comes of it without recordings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "serves", lambda device, n_steps=None: False)
        return run()


#: A library may choose another kernel while it is recorded.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.03}


def alike(run: Callable[[], tuple[list[nn.Parameter], EvolvedOptimizer]]) -> None:
    """``run`` gives the same params and state with recordings and without."""
    (params, optimizer), (plain, other) = run(), plainly(run)
    some, others = (
        [*own, *(value for parameter in own for value in of.state[parameter].values())]
        for own, of in ((params, optimizer), (plain, other))
    )
    if ON_CPU:
        assert_equal(some, others)
    else:
        assert_close(some, others, TOLERANCES[params[0].dtype])


@every_case
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_replayed_steps_are_those_made_one_by_one(case: Case, dtype: torch.dtype, made: Made) -> None:
    def run() -> tuple[list[nn.Parameter], EvolvedOptimizer]:
        params = parameters(SHAPES, dtype)
        optimizer = evolved(case, params, lr=0.5, weight_decay=0.01)
        train(params, optimizer, range(15))  # three of them after the horizon
        return params, optimizer

    alike(run)
    assert made == [1]


@pytest.mark.parametrize("schedule", [name for name, _ in SCHEDULES])
def test_every_schedule_reaches_the_replayed_steps(schedule: str, made: Made) -> None:
    def run() -> tuple[list[nn.Parameter], EvolvedOptimizer]:
        params = parameters(SHAPES)
        optimizer = evolved(("adamw", "default"), params, schedule=schedule, horizon=80)
        train(params, optimizer, range(70))
        return params, optimizer

    alike(run)
    assert made == [1]


@pytest.mark.parametrize("case", [("nadam", "default"), ("mlp", 1), ("recurrent", 0)], ids=str)
def test_options_and_losses_may_change_from_step_to_step(case: Case, made: Made) -> None:
    def run() -> tuple[list[nn.Parameter], EvolvedOptimizer]:
        params = parameters(SHAPES)
        optimizer = evolved(
            case, [{"params": params[:3]}, {"params": params[3:], "lr": 0.1}], weight_decay=0.1
        )
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
        for k in range(24):
            give_gradients(params, k)
            first = optimizer.param_groups[0]
            first["weight_decay"] = 0.1 * (k % 3)
            first["maximize"] = k % 5 == 4
            if k == 9:
                optimizer.param_groups[1]["lr"] = torch.tensor(0.3)
            optimizer.step(loss=None if k % 4 == 3 else loss_at(k))
            if k < 9:
                scheduler.step()
        return params, optimizer

    alike(run)
    assert len(made) > 4, "one for each kind of step, unless it was too rare"


@pytest.mark.parametrize("case", [("adam", "default"), ("mlp", "default"), ("recurrent", "default")], ids=str)
def test_parameters_may_wait_and_join_and_move(case: Case, made: Made) -> None:
    """Buckets are split and made anew; what was recorded of the old ones is of no more use."""

    def run() -> tuple[list[nn.Parameter], EvolvedOptimizer]:
        params = parameters(SHAPES)
        late = parameters([(5,), (2, 2)], seed=1)
        optimizer = evolved(case, params, horizon=40)
        for k in range(20):
            if k == 12:
                optimizer.add_param_group({"params": late, "lr": 0.5})
            give_gradients([*params, *late], k)
            if k in (5, 6, 7, 8, 9):
                params[1].grad = None
            if k == 15:
                params[0].data = params[0].data.clone()
            optimizer.step(loss=loss_at(k))
        return [*params, *late], optimizer

    alike(run)
    assert len(made) == 4, "all, all but one, that one, and the late ones"


@every_case
@pytest.mark.parametrize("by", ["state_dict", "deepcopy"])
def test_a_replayed_training_is_saved_and_goes_on(case: Case, by: str, made: Made) -> None:
    params = parameters(SHAPES)
    optimizer = evolved(case, params)
    train(params, optimizer, range(6))
    if by == "state_dict":
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        others = parameters(SHAPES, seed=5)
        again = evolved(case, others)
        train(others, again, range(5))  # has recordings of its own, of a state that is replaced
        again.load_state_dict(torch.load(file, weights_only=True))
        with torch.no_grad():
            for other, parameter in zip(others, params, strict=True):
                other.copy_(parameter)
    else:
        others, again = copy.deepcopy((params, optimizer))
    train(params, optimizer, range(6, 12))
    before = values(params)
    train(others, again, range(6, 12))
    (assert_equal if ON_CPU else assert_close)(params, others)
    assert_equal(params, before)
    if ON_CPU:
        assert_same(optimizer.state_dict(), again.state_dict())
    assert len(made) == (3 if by == "state_dict" else 2)


def test_several_buckets_share_what_they_work_in(monkeypatch: pytest.MonkeyPatch, made: Made) -> None:
    def run() -> tuple[list[nn.Parameter], EvolvedOptimizer]:
        params = parameters([*SHAPES, (20,)])
        optimizer = evolved(("mlp", "default"), params)
        train(params, optimizer, range(9))
        return params, optimizer

    monkeypatch.setattr("evometa.export.buckets._CPU_COORDINATES", 16)
    monkeypatch.setattr("evometa.export.buckets._COORDINATES", 16)
    monkeypatch.setattr(recorded, "MOST_COORDINATES", 16)
    alike(run)
    assert len(made) == 2, "the tensor of 20 is stepped where it is"


@pytest.mark.parametrize("error", [RuntimeError("no"), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_training_that_cannot_be_recorded_goes_on_with_one_warning(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(AsItIs):
        def __init__(self, device: torch.device, *, shares_memory: bool) -> None:
            super().__init__(device)

        def record(self, function: Callable[[], None]) -> Callable[[], None]:
            raise error

    monkeypatch.setattr(graphs, "serves", lambda device, n_steps=None: True)
    monkeypatch.setattr(graphs, "CudaGraphs", Refusing)
    params, plain = parameters(SHAPES), parameters(SHAPES)
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    optimizer = evolved(("adam", "default"), groups)
    with native.disabled():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(params, optimizer, range(8))
        assert [str(one.message)[:13] for one in caught] == ["no CUDA graph"]
        twin = [{"params": plain[:2]}, {"params": plain[2:]}]
        plainly(lambda: train(plain, evolved(("adam", "default"), twin), range(8)))
    assert_equal(params, plain)


def test_nothing_is_recorded_within_a_recording_of_the_user(
    monkeypatch: pytest.MonkeyPatch, made: Made
) -> None:
    def run() -> tuple[list[nn.Parameter], EvolvedOptimizer]:
        params = parameters(SHAPES)
        optimizer = evolved(("adam", "default"), params)
        train(params, optimizer, range(6))
        return params, optimizer

    monkeypatch.setattr(graphs.CudaGraphs, "is_recorded_already", lambda recorder: True)
    alike(run)
    assert not made


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs --device cuda")
@pytest.mark.parametrize("case", [("adam", "default"), ("mlp", "default")], ids=str)
def test_a_step_may_be_part_of_the_users_own_graph(case: Case) -> None:
    """Its count stays what it was then, as without recordings; the rest is read anew."""
    params, plain = parameters(SHAPES), parameters(SHAPES)
    optimizer, other = (evolved(case, some, schedule="constant") for some in (params, plain))
    train(params, optimizer, range(5))
    train(plain, other, range(5))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    give_gradients(plain, 5)
    for parameter, one in zip(params, plain, strict=True):
        assert isinstance(parameter.grad, Tensor)
        assert isinstance(one.grad, Tensor)
        parameter.grad.copy_(one.grad)
    graph.replay()
    other.step()
    assert_close(params, plain)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs --device cuda")
def test_a_thread_may_pin_memory_while_a_step_is_recorded() -> None:
    """As that of a DataLoader does."""
    params = parameters(SHAPES)
    optimizer = evolved(("mlp", "default"), params)
    data = torch.utils.data.TensorDataset(torch.randn(512, 1000))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for k, _ in enumerate(
            torch.utils.data.DataLoader(data, batch_size=32, pin_memory=True, num_workers=1)
        ):
            give_gradients(params, k)
            optimizer.step(loss=loss_at(k))
    assert int(optimizer.state[params[0]]["step"]) == 16
