"""The compiled gradient: equal to the eager one for any number of runs, and eager where it cannot be had."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from evometa.inner.compiled_gradient import (
    BLOCK,
    CompilationError,
    CompiledGradient,
    compiled_gradient,
    with_compiled_gradient,
)
from evometa.inner.gradient import eager
from evometa.inner.task_set import prepare, request
from evometa.rng import torch_generator
from evometa.tasks import build_family
from evometa.tasks.base import Batch

CPU = torch.device("cpu")
N_PARAMS = 3


def smooth_loss(params: Tensor, batch: Batch) -> Tensor:
    return ((batch["x"] @ params).tanh() - batch["y"] * batch["scale"]).square().mean()


def problem(
    n_candidates: int, n_tasks: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, dict[str, Tensor]]:
    """Params and a batch, one value of which all tasks share without copies."""
    generator = torch_generator(0, "problem", n_tasks)
    params = torch.randn((n_candidates, n_tasks, N_PARAMS), generator=generator, dtype=dtype)
    x = torch.randn((n_tasks, 5, N_PARAMS), generator=generator, dtype=dtype)
    scale = torch.tensor(1.5, dtype=dtype).expand(n_tasks)
    return params, {"x": x, "y": x[..., 0].cos(), "scale": scale}


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Stands in for torch.compile, which takes seconds: what was traced runs as it is. Lists the blocks."""
    seen: list[tuple[Any, ...]] = []

    def compile_nothing(function: Callable[..., Any], **options: object) -> Callable[..., Any]:
        def run(*block: Tensor) -> Any:
            seen.append(tuple((tuple(value.shape), value.stride()) for value in block))
            return function(*block)

        return run

    monkeypatch.setattr(torch, "compile", compile_nothing)
    return seen


def assert_equal_to_eager(gradient: CompiledGradient, params: Tensor, batch: Batch) -> None:
    for one, other in zip(gradient(params, batch), eager(gradient.loss, params, batch), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("n_candidates", "n_tasks"), [(1, 1), (1, 3), (3, 1), (2, BLOCK), (3, 2 * BLOCK + 1)]
)
def test_any_number_of_runs_is_computed_in_equal_blocks(
    traced: list[tuple[Any, ...]], n_candidates: int, n_tasks: int
) -> None:
    params, batch = problem(n_candidates, n_tasks)
    assert_equal_to_eager(CompiledGradient(smooth_loss), params, batch)
    assert len(set(traced)) == 1, "one function serves all blocks"
    assert traced[0][0] == ((BLOCK, N_PARAMS), (N_PARAMS, 1))


def test_what_tasks_share_is_not_copied(traced: list[tuple[Any, ...]]) -> None:
    params, batch = problem(2, 6)
    CompiledGradient(smooth_loss)(params, batch)
    assert [strides[0] for _, strides in traced[0]] == [N_PARAMS, 5 * N_PARAMS, 5, 0]


def test_a_run_does_not_depend_on_how_many_there_are(traced: list[tuple[Any, ...]]) -> None:
    gradient = CompiledGradient(smooth_loss)
    params, batch = problem(5, BLOCK)
    together = gradient(params, batch)
    for p in range(5):
        alone = gradient(params[p : p + 1], batch)
        assert all(torch.equal(one[0], both[p]) for one, both in zip(alone, together, strict=True))


def test_it_is_compiled_once_for_tensors_alike(
    traced: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    n_compiled = 0
    stand_in = torch.compile

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal n_compiled
        n_compiled += 1
        return stand_in(*arguments, **options)

    monkeypatch.setattr(torch, "compile", counted)
    gradient = CompiledGradient(smooth_loss)
    for n_candidates, n_tasks in ((1, 2), (4, 2), (2, 7)):
        gradient(*problem(n_candidates, n_tasks))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda n: gradient(*problem(n, 3)), range(1, 4)))
    assert n_compiled == 1
    gradient(*problem(2, 2, torch.float32))
    assert n_compiled == 2


def test_a_second_derivative_passes_through(traced: list[tuple[Any, ...]]) -> None:
    params, batch = problem(2, 3)
    found = []
    for gradient in (CompiledGradient(smooth_loss), lambda *given: eager(smooth_loss, *given)):
        point = params.clone().requires_grad_()
        losses, grads = gradient(point, batch)
        found.append(torch.autograd.grad((losses.log() + grads.square().sum(-1)).sum(), point)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)


def test_under_a_dispatch_mode_its_operations_can_be_seen(traced: list[tuple[Any, ...]]) -> None:
    class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    seen: list[Any] = []
    with Watching():
        CompiledGradient(smooth_loss)(*problem(2, 3))
    assert torch.ops.aten.tanh.default in seen
    assert traced == []


def test_where_compiling_fails_it_is_eager_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("the compiler\nis away")

    monkeypatch.setattr(torch, "compile", broken)
    gradient = CompiledGradient(smooth_loss)
    params, batch = problem(2, 3)
    with pytest.raises(CompilationError, match=r"^RuntimeError: the compiler$"):
        gradient.compiled(params, batch)
    with pytest.warns(UserWarning, match=r"without torch\.compile: RuntimeError: the compiler$"):
        found = gradient(params, batch)
    assert all(torch.equal(a, b) for a, b in zip(found, eager(smooth_loss, params, batch), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient(params, batch)


def test_the_line_is_that_of_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile wraps what its backend raises, as where there is no compiler."""

    class Wrapped(RuntimeError):
        inner_exception = OSError("no compiler found")

    def broken(*arguments: object, **options: object) -> None:
        raise Wrapped("the backend raised:")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(CompilationError, match=r"^OSError: no compiler found$"):
        CompiledGradient(smooth_loss).compiled(*problem(1, 2))


def test_the_real_thing_equals_the_eager_gradient() -> None:
    gradient = CompiledGradient(smooth_loss)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="a task's gradient")
        for n_candidates, n_tasks in ((2, 3), (1, 5)):
            assert_equal_to_eager(gradient, *problem(n_candidates, n_tasks))


def test_a_gradient_written_by_hand_is_kept() -> None:
    (by_hand,) = build_family("quadratic", {}).sample("meta_train", 2, torch_generator(0))
    assert with_compiled_gradient(by_hand) is by_hand
    mapped = build_family("rosenbrock", {"dims": (2,)}).sample("meta_train", 2, torch_generator(0))[0]
    assert isinstance(with_compiled_gradient(mapped).loss_and_grad, CompiledGradient)


def test_equal_loss_functions_have_one_compiled_gradient() -> None:
    assert compiled_gradient(smooth_loss) is compiled_gradient(smooth_loss)
    assert compiled_gradient(smooth_loss) is not compiled_gradient(lambda params, batch: params.sum())


@pytest.mark.usefixtures("module_tasks")
def test_all_requests_of_one_source_share_it() -> None:
    """A family that a function makes is made once; else each request would be compiled anew."""
    options = {"name": "perceptron"}
    wanted = [request("module_tasks:family", options, "meta_train", 2, 3, seed, True) for seed in (1, 2)]
    first, second = (prepare(one, CPU)[0].tasks.loss_and_grad for one in wanted)
    assert isinstance(first, CompiledGradient)
    assert first is second
    assert (
        prepare(request("module_tasks:family", options, "meta_train", 2, 3, 1), CPU)[0].tasks.loss_and_grad
        is None
    )
