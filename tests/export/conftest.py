"""What the tests of exported optimizers share: genomes with weights, files of them, and a small model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from compute_device import DEVICE
from torch import Tensor, nn

from evometa.export import EvolvedOptimizer, export_genome
from evometa.genome.genes import Value
from evometa.genome.genome import Genome
from evometa.rng import numpy_generator, torch_generator
from evometa.rules import RULES, Learner
from evometa.rules.learner_structure import learner_space
from evometa.trees import Tree

Exported = tuple[Path, Genome, Tree]


class SmallNet(nn.Module):
    """A convolution, a linear layer and a 0-d parameter: tensors of 4, 2, 1 and 0 axes."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.head = nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.zeros(()))
        generator = torch_generator(seed, "init")
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.conv(x)).flatten(1))
        return logits * self.scale


@pytest.fixture
def make_net() -> Callable[..., SmallNet]:
    """``make_net(seed=0)``: equal seeds give equal models."""

    def make(seed: int = 0) -> SmallNet:
        return SmallNet(seed).to(DEVICE)

    return make


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    """Twenty batches of random images and labels for the small model, in float64."""
    generator = torch_generator(0, "batches")
    return [
        (
            torch.randn(8, 1, 4, 4, generator=generator, dtype=torch.float64).to(DEVICE),
            torch.randint(3, (8,), generator=generator).to(DEVICE),
        )
        for _ in range(20)
    ]


@pytest.fixture(scope="session")
def drawn() -> Callable[..., tuple[Genome, Tree]]:
    """``drawn(family, schedule="constant", seed=0, **genes)`` makes one genome with weights.

    Genes that are not named are drawn; weights are drawn away from their initial values, where an output
    layer may be zero and hide what lies before it.
    """

    def draw(family: str, schedule: str = "constant", seed: int = 0, **genes: Value) -> tuple[Genome, Tree]:
        fixed: Mapping[str, Value] = {"schedule": schedule, **genes}
        chosen = learner_space(RULES[family]).restricted(fixed).sample(numpy_generator(seed, "genes"))
        generator = torch_generator(seed, "weights")
        weights = {
            name: value + 0.1 * torch.randn(value.shape, generator=generator)
            for name, value in Learner.of(family, chosen).init_weights(generator).items()
        }
        return Genome("001-002", family, chosen), weights

    return draw


@pytest.fixture
def exported(tmp_path: Path, drawn: Callable[..., tuple[Genome, Tree]]) -> Callable[..., Exported]:
    """``exported(family, schedule="constant", seed=0, horizon=50, **genes)`` writes such a genome."""

    def export(
        family: str, schedule: str = "constant", seed: int = 0, horizon: int = 50, **genes: Value
    ) -> Exported:
        genome, weights = drawn(family, schedule, seed, **genes)
        path = tmp_path / f"{family}-{schedule}-{seed}.safetensors"
        export_genome(path, genome, weights, horizon=horizon, provenance={"campaign": "test"})
        return path, genome, weights

    return export


@pytest.fixture
def one() -> Callable[..., nn.Parameter]:
    """``one(value=1.0, grad=1.0)``: a 0-d float64 parameter with a gradient."""

    def make(value: float = 1.0, grad: float = 1.0) -> nn.Parameter:
        parameter = nn.Parameter(torch.tensor(value, dtype=torch.float64, device=DEVICE))
        parameter.grad = torch.tensor(grad, dtype=torch.float64, device=DEVICE)
        return parameter

    return make


@pytest.fixture
def train() -> Callable[..., None]:
    """``train(net, optimizer, batches)``: one step a batch, the loss passed on."""

    def run(net: nn.Module, optimizer: EvolvedOptimizer, batches: list[tuple[Tensor, Tensor]]) -> None:
        dtype = next(net.parameters()).dtype
        for x, y in batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x.to(dtype)), y)
            loss.backward()
            optimizer.step(loss=loss)

    return run
