"""When compiling a gradient is tried, and when it is chosen."""

from __future__ import annotations

import re

import pytest
import torch

from evometa.inner.compiled_gradient import CompilationError
from evometa.inner.gradient_choice import LEAST_SECONDS, GradientChoice, choose, has_choice, time_eager
from evometa.inner.modes import CompileMode
from evometa.inner.task_set import PreparedTasks, prepare, request

CPU = torch.device("cpu")


def chosen(
    mode: CompileMode = "auto",
    *,
    n_calls: int = 1_000_000,
    n_workers: int = 1,
    eager: float = 2e-3,
    compiled: float = 1e-3,
    compilation: float = 20.0,
) -> GradientChoice:
    return choose("mine:task", mode, n_calls, n_workers, lambda: eager, lambda: (compiled, compilation))


def not_to_be_tried() -> tuple[float, float]:
    raise AssertionError("compiling was tried")


def test_it_is_chosen_where_it_saves_more_than_it_takes() -> None:
    choice = chosen()
    assert choice.compiled
    assert choice.saved_seconds == pytest.approx(1_000_000 * 1e-3 - 20)
    assert choice.line() == (
        "gradient of task 'mine:task': eager 2.00 ms, compiled 1.00 ms, 20 s to compile; "
        "compiled saves about 16 min in this campaign; chosen"
    )


@pytest.mark.parametrize(
    ("seconds", "saved"), [({"compiled": 1.99e-3}, 10 - 20), ({"compiled": 2.1e-3}, -100 - 20)]
)
def test_it_is_left_where_it_does_not(seconds: dict[str, float], saved: float) -> None:
    choice = chosen(**seconds)  # type: ignore[arg-type]
    assert not choice.compiled
    assert choice.saved_seconds == pytest.approx(saved)
    assert re.search(r"compiled costs about \S+ \S+ in this campaign; left eager$", choice.line())


def test_workers_share_the_calls_and_compile_once_more() -> None:
    assert chosen(n_workers=4).saved_seconds == pytest.approx(1000 / 4 - 2 * 20)
    assert not chosen(n_workers=4, compilation=130).compiled


def test_it_is_not_tried_where_it_could_not_pay() -> None:
    n_calls = int(0.75 * LEAST_SECONDS / 2e-3)
    choice = choose("mine:task", "auto", n_calls, 1, lambda: 2e-3, not_to_be_tried)
    assert not choice.compiled
    assert choice.line().endswith("eager 2.00 ms, about 90 s in this campaign; too little to try compiling")
    many = int(1.1 * LEAST_SECONDS / 2e-3)
    assert chosen(n_calls=many, compilation=5).compiled
    assert not choose("mine:task", "auto", many, 2, lambda: 2e-3, not_to_be_tried).compiled


def test_never_and_always_are_obeyed() -> None:
    never = choose("mine:task", "never", 10**9, 1, lambda: 2e-3, not_to_be_tried)
    assert not never.compiled
    assert never.line().endswith("as asked")
    always = chosen("always", n_calls=1)
    assert always.compiled
    assert always.line().endswith("compiled costs about 20 s in this campaign; as asked")


@pytest.mark.parametrize("mode", ["auto", "always"])
def test_what_cannot_be_compiled_is_eager_and_the_line_says_why(mode: CompileMode) -> None:
    def fails() -> tuple[float, float]:
        raise CompilationError("InvalidCxxCompiler: none found")

    choice = choose("mine:task", mode, 10**9, 1, lambda: 2e-3, fails)
    assert not choice.compiled
    assert choice.line() == (
        "gradient of task 'mine:task': eager 2.00 ms; cannot be compiled (InvalidCxxCompiler: none found)"
    )


def sample(use: str, options: dict[str, object], seed: int) -> tuple[PreparedTasks, ...]:
    return prepare(request(use, options, "meta_train", 4, 1, seed), CPU)


@pytest.mark.parametrize(
    ("use", "options", "expected"),
    [
        ("quadratic", {}, False),
        ("digits", {"widths": [6], "depths": [1]}, False),
        ("rosenbrock", {"dims": [3]}, True),
        ("rosenbrock", {"dims": [2, 3, 4, 5, 6]}, False),
        ("module_tasks:family", {"name": "group_norm"}, True),
    ],
)
@pytest.mark.usefixtures("module_tasks")
def test_there_is_a_choice_where_the_gradient_is_not_by_hand_and_architectures_stay(
    use: str, options: dict[str, object], expected: bool
) -> None:
    assert has_choice([sample(use, options, seed) for seed in range(3)]) is expected


def test_timing_leaves_the_process_as_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert 0 < time_eager(sample("rosenbrock", {"dims": [2, 3]}, 0)) < 10
        assert torch.get_num_threads() == 2
        assert torch.is_grad_enabled()
    finally:
        torch.set_num_threads(before)
