"""Wall-clock time of an optimizer's step in an ordinary training loop, beside forward and backward.

What is timed is what a user runs: the exported optimizer and the baselines' own classes on one ``nn.Module``,
in float32. The trainings of a bench go through the engine, many tasks at once, and say nothing of that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from evometa.bench.baselines import Baseline, named
from evometa.bench.spec import BenchSpec, GenomeFile
from evometa.export.optimizer import EvolvedOptimizer
from evometa.export.placed import layout_of
from evometa.genome.genome import Genome
from evometa.layout import Layout
from evometa.process import one_thread
from evometa.rng import torch_generator
from evometa.rules.initialisation import by_tensor

#: Of the perceptron: 85,002 parameters in six tensors.
SIZES = (64, 256, 256, 10)
BATCH_SIZE = 64
#: Steps before the clock is looked at, and the least and most that are timed; medians are reported.
_WARM_UP, _LEAST, _MOST = 3, 5, 40
#: After which no more are timed than must be.
_ENOUGH_SECONDS = 0.5
#: The rate at which baselines are timed; it makes no difference to the time.
_RATE = 1e-4


@dataclass(frozen=True)
class StepTime:
    """Medians in seconds, in a loop on one thread.

    Attributes:
        step: of the optimizer's ``step()``.
        gradient: of forward and backward before it.
    """

    step: float
    gradient: float

    @property
    def overhead(self) -> float:
        """The step's time over that of forward and backward."""
        return self.step / self.gradient


def time_steps(spec: BenchSpec, device: torch.device) -> dict[str, StepTime]:
    """Times of all entrants by their label; baselines as they are, schedules not counted."""
    found = {genome.label: time_step(lambda p, g=genome: [_evolved(g, spec, p)], device)  # type: ignore[misc]
             for genome in spec.genomes}  # fmt: skip
    for name in spec.rivals:
        baseline = named(name)
        plain = found.get(name.partition("+")[0])
        found[name] = plain or time_step(lambda p, b=baseline: _baseline(b, p), device)  # type: ignore[misc]
    return found


def time_step(make: Callable[[Sequence[nn.Parameter]], list[Optimizer]], device: torch.device) -> StepTime:
    """Time what ``make`` makes of a perceptron's parameters; a GPU is waited for."""
    generator = torch_generator(0, "bench", "timing")
    params = [
        nn.Parameter((torch.randn(shape, generator=generator) / 16).to(device))
        for n_in, n_out in pairwise(SIZES)
        for shape in ((n_out, n_in), (n_out,))
    ]
    x = torch.randn(BATCH_SIZE, SIZES[0], generator=generator).to(device)
    y = torch.randint(SIZES[-1], (BATCH_SIZE,), generator=generator).to(device)
    optimizers = make(params)
    steps: list[float] = []
    gradients: list[float] = []
    with one_thread():
        for _ in range(_WARM_UP + _MOST):
            if len(steps) >= _WARM_UP + _LEAST and sum(steps) > _ENOUGH_SECONDS:
                break
            started = _now(device)
            for param in params:
                param.grad = None
            _loss(params, x, y).backward()  # type: ignore[no-untyped-call]
            between = _now(device)
            for optimizer in optimizers:
                optimizer.step()
            gradients.append(between - started)
            steps.append(_now(device) - between)
    return StepTime(float(np.median(steps[_WARM_UP:])), float(np.median(gradients[_WARM_UP:])))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _loss(params: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
    for i in range(0, len(params), 2):
        x = nn.functional.linear(x if i == 0 else x.relu(), params[i], params[i + 1])
    return nn.functional.cross_entropy(x, y)


def _evolved(genome: GenomeFile, spec: BenchSpec, params: Sequence[nn.Parameter]) -> Optimizer:
    candidate, weights = genome.candidate, dict(genome.candidate.weights)
    whole = Genome(candidate.id, candidate.family, candidate.genes)
    if candidate.learner.initialisation is not None:  # for another model, but its steps take as long
        start = torch.cat([param.detach().flatten() for param in params])
        fresh = candidate.learner.init_weights(torch_generator(0, "bench", "timing"), start)
        weights |= {name: value for name, value in fresh.items() if name.startswith("init.")}
        weights = by_tensor(weights, layout_of(tuple(tuple(param.shape) for param in params)))
    return EvolvedOptimizer(params, whole, weights, horizon=spec.horizon)


def _baseline(baseline: Baseline, params: Sequence[nn.Parameter]) -> list[Optimizer]:
    layout = Layout.of({str(i): tuple(param.shape) for i, param in enumerate(params)})
    found = []
    for part in baseline.parts:
        own = [p for p, segment in zip(params, layout.segments, strict=True) if part.trains(segment)]
        optimizer = part.optimizer([{"params": own, "lr": _RATE}])
        if baseline.averages:
            optimizer.train()  # type: ignore[attr-defined]
        found.append(optimizer)
    return found
