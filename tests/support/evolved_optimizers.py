"""Optimizers of any registered rule, and parameters with gradients for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from compute_device import DEVICE
from torch import Tensor, nn

from evometa.export import EvolvedOptimizer
from evometa.genome.genes import Value
from evometa.genome.genome import Genome
from evometa.rng import numpy_generator, torch_generator
from evometa.rules import RULES, Learner
from evometa.rules.learner_structure import learner_space
from evometa.trees import Tree

#: A rule and the draw of its genes.
Case = tuple[str, str | int]
#: Every registered rule; only learned ones have genes that change the code that runs.
CASES: list[Case] = [
    (name, draw) for name, family in RULES for draw in (("default", 0) if family.learned else ("default",))
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)
SHAPES = [(3, 4), (3,), (), (2, 3)]
HORIZON = 12


def genome_of(family: str, draw: str | int, schedule: str, **genes: Value) -> tuple[Genome, Tree]:
    """A genome with weights moved off their start, where an output layer of zeros would hide everything."""
    space = learner_space(RULES[family])
    if draw == "default":
        complete = space.complete({"schedule": schedule, **genes})
    else:
        fixed = space.restricted({"schedule": schedule, **genes})
        complete = fixed.sample(numpy_generator(0, "genes", family, draw))
    generator = torch_generator(0, "weights", family, draw)
    weights = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in Learner.of(family, complete).init_weights(generator).items()
    }
    return Genome("000-001", family, complete), weights


def evolved(case: Case, params: Any, *, schedule: str = "recurrent", **options: Any) -> EvolvedOptimizer:
    """The optimizer of a case; equal cases give equal genomes and weights."""
    family, draw = case
    genome, weights = genome_of(family, draw, schedule)
    return EvolvedOptimizer(params, genome, weights, **{"horizon": HORIZON, **options})


def parameters(
    shapes: Iterable[Sequence[int]], dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[nn.Parameter]:
    """Parameters of these shapes; equal seeds give equal ones."""
    generator = torch_generator(seed, "parameters")
    return [
        nn.Parameter(torch.randn(tuple(shape), generator=generator, dtype=torch.float64).to(DEVICE, dtype))
        for shape in shapes
    ]


def give_gradients(params: Iterable[Tensor], step: int) -> None:
    """Gradients that depend on the step and on nothing else but each parameter's shape and place."""
    for place, parameter in enumerate(params):
        generator = torch_generator(0, "gradients", step, place)
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.grad = drawn.to(parameter)


def loss_at(step: int) -> float:
    """A loss that falls."""
    return 4.0 / (step + 2)


def train(params: Sequence[Tensor], optimizer: EvolvedOptimizer, steps: Iterable[int]) -> None:
    """Steps with these gradients and losses."""
    for k in steps:
        give_gradients(params, k)
        optimizer.step(loss=loss_at(k))


def values(params: Iterable[Tensor]) -> list[Tensor]:
    """Copies that training on does not change."""
    return [parameter.detach().clone() for parameter in params]


def assert_equal(some: Iterable[Tensor], others: Iterable[Tensor]) -> None:
    """Bit for bit."""
    for place, (a, b) in enumerate(zip(some, others, strict=True)):
        assert torch.equal(a.detach(), b.detach()), f"parameter {place}"


def assert_close(some: Iterable[Tensor], others: Iterable[Tensor], tolerance: float = 1e-10) -> None:
    """To rounding: buckets of other sizes may add in another order."""
    for a, b in zip(some, others, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=tolerance, atol=tolerance)


def assert_same(some: Any, others: Any) -> None:
    """Nested dictionaries and lists of tensors and numbers, equal in all."""
    if isinstance(some, dict):
        assert some.keys() == others.keys()
        for key in some:
            assert_same(some[key], others[key])
    elif isinstance(some, list | tuple):
        assert len(some) == len(others)
        for a, b in zip(some, others, strict=True):
            assert_same(a, b)
    elif isinstance(some, Tensor):
        assert torch.equal(some, others)
    else:
        assert some == others
