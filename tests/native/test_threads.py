"""A step by several of PyTorch's threads: the same bits as by one, and only where there is work for them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from evolved_optimizers import assert_equal, assert_same, genome_of, give_gradients, loss_at, parameters
from torch import nn

from evometa import native
from evometa.export import EvolvedOptimizer
from evometa.rules import RULES
from evometa.rules.feature_table import SHARED_FEATURES, VARYING_FEATURES

EVERYTHING = {"features": VARYING_FEATURES, "shared_features": SHARED_FEATURES}
STRUCTURES: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name, family in RULES if not family.learned],
    ("mlp", {}),
    ("mlp", {"output": "direct", "nominal": "sgd", **EVERYTHING}),
    ("mlp", {"layers": 1, "output": "rms_normalised", "nominal": "adam", "combine": "scale"}),
    ("mlp", {"features": ("gradient", "average_0.9"), "output": "rms_normalised", "shared_features": ()}),
    ("mlp", {"features": ("parameter",), "hidden": 7}),
    ("mlp", {"features": ("row_0.9", "reciprocal_column_0.99"), "output": "direct"}),
    ("recurrent", {"cell": "gru", "layers": 1, "hidden": 16}),
    ("recurrent", {"cell": "vanilla", "layers": 1, "hidden": 5, "output": "rms_normalised"}),
    ("recurrent", {"cell": "gru", "layers": 2, "hidden": 4, "nominal": "adam", "combine": "add"}),
    ("recurrent", {"cell": "lstm", "layers": 1, "hidden": 5, "shared_features": ("loss", "time")}),
]  # fmt: skip
each_structure = pytest.mark.parametrize(("family", "genes"), STRUCTURES, ids=str)
MODELS: dict[str, list[tuple[int, ...]]] = {
    "small and large tensors side by side": [
        (64, 100), (64,), (31, 64), (), (130, 131), (9001,), (16, 3, 3, 3), (141, 150), (2, 5000),
    ],
    "a tensor of two waves": [(761, 702)],
}  # fmt: skip
each_model = pytest.mark.parametrize("shapes", MODELS.values(), ids=MODELS)


@pytest.fixture(autouse=True)
def _kernels_are_there() -> None:
    for unit in ("moments", "mlp_rule", "recurrent"):
        reason = native.why_unavailable(unit)
        if reason is not None:
            pytest.skip(f"no kernel here: {reason}")


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def optimizer_of(family: str, genes: dict[str, Any], params: list[nn.Parameter]) -> EvolvedOptimizer:
    genome, weights = genome_of(family, "default", "constant", **genes)
    return EvolvedOptimizer(params, genome, weights, 0.1, weight_decay=0.01, horizon=12)


def train(params: list[nn.Parameter], optimizer: EvolvedOptimizer, n_threads: Sequence[int]) -> None:
    """A step with each of these numbers of threads."""
    for k, n in enumerate(n_threads):
        give_gradients(params, k)
        with threads(n):
            optimizer.step(loss=loss_at(k))


def seconds(optimizer: EvolvedOptimizer, n_threads: int) -> tuple[float, float]:
    """Of the processor for a few steps: those of this thread, and those of all others."""
    with threads(n_threads):
        optimizer.step()
        own, everyone = time.thread_time(), time.process_time()
        for _ in range(5):
            optimizer.step()
        own, everyone = time.thread_time() - own, time.process_time() - everyone
    return own, everyone - own


@each_model
@each_structure
def test_the_number_of_threads_changes_no_bit(
    family: str, genes: dict[str, Any], shapes: list[tuple[int, ...]]
) -> None:
    by_one = parameters(shapes, torch.float32)
    alone = optimizer_of(family, genes, by_one)
    train(by_one, alone, [1, 1])
    by_two = parameters(shapes, torch.float32)
    together = optimizer_of(family, genes, by_two)
    train(by_two, together, [2, 2])
    assert_equal(by_two, by_one)
    assert_same(together.state_dict()["state"], alone.state_dict()["state"])


@pytest.mark.parametrize("n", [2**11 + 1, 2**14 - 1, 2**14, 2**14 + 1, 2**15 + 1, 2**15 + 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("family", ["adamw", "mlp", "recurrent"])
def test_sizes_around_what_is_worth_a_thread(family: str, dtype: torch.dtype, n: int) -> None:
    genes = {"cell": "vanilla", "layers": 1, "hidden": 4} if family == "recurrent" else {}
    by_one, by_many = parameters([(n,)], dtype), parameters([(n,)], dtype)
    train(by_one, optimizer_of(family, genes, by_one), [1, 1])
    train(by_many, optimizer_of(family, genes, by_many), [2, 3])
    assert_equal(by_many, by_one)


@each_structure
def test_a_state_saved_with_two_threads_goes_on_with_one(family: str, genes: dict[str, Any]) -> None:
    params = parameters(MODELS["small and large tensors side by side"], torch.float32)
    optimizer = optimizer_of(family, genes, params)
    train(params, optimizer, [2])
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in params]
    resumed = optimizer_of(family, genes, copies)
    resumed.load_state_dict(optimizer.state_dict())
    train(params, optimizer, [2])
    train(copies, resumed, [1])
    assert_equal(copies, params)


@pytest.mark.parametrize("family", ["mlp", "recurrent"])
def test_large_tensors_are_worked_on_by_all_threads_and_small_ones_by_one(family: str) -> None:
    large, small = parameters([(700, 700)], torch.float32), parameters([(30, 40), (40,)], torch.float32)
    optimizers = [optimizer_of(family, {}, params) for params in (large, small)]
    for params in (large, small):
        give_gradients(params, 0)
    alone, others = seconds(optimizers[0], 1)
    assert others < 0.1 * alone, (alone, others)
    own, others = seconds(optimizers[1], 2)
    assert others < 0.1 * own, (own, others)
    _, others = seconds(optimizers[0], 2)
    assert others > 0.25 * alone, (alone, others)  # half of the work, however long they wait for each other
