"""A step of exported optimizers beside one of ``torch.optim.AdamW``, on models of many sizes.

All contestants step the same parameters by the same gradients in this process, round after round: on a CPU
with one thread, and with as many as there are cores. What a network needs at best is counted per coordinate
and compared with the rates of as many cores of this machine, or of its GPU, as for inner training.

A GPU is waited for before a repetition and after it, not between its steps: seconds are those of a training
loop that only steps, be they the GPU's or those that Python takes to launch its work.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.groups.memory import gpu_peak_bytes, peak_bytes
from benchmarks.machine import n_cores
from benchmarks.roofline.rates import Rates
from benchmarks.roofline.work import Work, count_update
from benchmarks.rounds import Progress
from benchmarks.workload import SEED, Spec
from evometa.export import EvolvedOptimizer
from evometa.genome.genome import Genome
from evometa.process import threads
from evometa.rng import torch_generator
from evometa.rules import RULES, SCHEDULES
from evometa.rules.cost import size_cost
from evometa.rules.learner import Learner

#: What the others are compared with.
REFERENCE = "AdamW foreach"
TORCH: Mapping[str, Mapping[str, bool]] = {
    REFERENCE: {"foreach": True},
    "AdamW for-loop": {"foreach": False},
    "AdamW fused": {"fused": True},
}
#: The two whose distance from the bound is told.
BOUNDED = ("mlp", "gru 16")
#: Seconds that a repetition should take at least, and state that is too much to measure beside the others.
_REPETITION_SECONDS, _MOST_STATE_BYTES = 0.05, 2**31
_SETTLING_STEPS = 3


def _dense(*sizes: int) -> list[tuple[int, ...]]:
    return [shape for a, b in pairwise(sizes) for shape in ((b, a), (b,))]


def _transformer(n_layers: int, width: int, vocabulary: int) -> list[tuple[int, ...]]:
    """Embedding, and a layer's attention, two dense layers and two normalisations."""
    block = [
        *_dense(width, 3 * width),
        *_dense(width, width),
        *_dense(width, 4 * width, width),
        *[(width,)] * 4,
    ]
    return [(vocabulary, width), *block * n_layers]


#: Tensors that a rule's work is counted on; it is proportional to their coordinates.
_COUNTED = _dense(64, 128, 64)
#: Numbers of threads that everybody is measured with.
THREADS = tuple(sorted({1, n_cores()}))
#: Shapes of each model's tensors.
MODELS: Mapping[str, list[tuple[int, ...]]] = {
    "perceptron 64–100–32–10": _dense(64, 100, 32, 10),
    "conv net": [
        *[s for a, b in pairwise((3, 32, 64, 64)) for s in ((b, a, 3, 3), (b,))],
        *_dense(1024, 64, 10),
    ],
    "transformer 4 × 128": _transformer(4, 128, 2000),
    "transformer 6 × 256": _transformer(6, 256, 4000),
    "transformer 8 × 448": _transformer(8, 448, 12000),
}


def specs() -> dict[str, Spec]:
    """Every registered rule with its default genes, AdamW under every schedule, and a small GRU."""
    rules = {name: Spec(name) for name in RULES.names()}
    scheduled = {
        f"adamw × {name}": Spec("adamw", {"schedule": name})
        for name in SCHEDULES.names()
        if name != "constant"
    }
    return {**rules, **scheduled, "gru 16": Spec("recurrent", {"cell": "gru", "layers": 1, "hidden": 16})}


@dataclass
class Stepper:
    """An optimizer on one model.

    Attributes:
        wait: returns when the device has nothing left to do.
        seconds: of a step by so many threads, one number a round.
        state_bytes: that it keeps for each coordinate.
        peak_bytes: for each coordinate, beyond what it keeps, while it makes a step, in the memory of its
            device; None where the system does not tell.
    """

    step: Callable[[], object]
    state_bytes: float
    peak_bytes: float | None
    wait: Callable[[], object] = lambda: None
    seconds: dict[int, list[float]] = field(default_factory=dict)
    n_steps: int = 1

    @classmethod
    def of(cls, optimizer: Optimizer, n_params: int, device: torch.device) -> Stepper:
        """After a few steps, when it has all its state."""
        on_gpu = device.type == "cuda"
        for _ in range(_SETTLING_STEPS):
            optimizer.step()
        peak = (gpu_peak_bytes if on_gpu else peak_bytes)(optimizer.step)
        own = cls(
            optimizer.step, _state_bytes(optimizer) / n_params, None if peak is None else peak / n_params
        )
        if on_gpu:
            own.wait = torch.cuda.synchronize
            own._timed()  # the first repetition after a wait finds the GPU's clock low
        own.n_steps = max(1, round(_REPETITION_SECONDS / own._timed()))
        return own

    def repeat(self, n_threads: int) -> None:
        """One repetition, by the threads that PyTorch has been told to take."""
        self.seconds.setdefault(n_threads, []).append(self._timed())

    def _timed(self) -> float:
        """Seconds of a step, the mean of a repetition."""
        self.wait()
        started = time.perf_counter()
        for _ in range(self.n_steps):
            self.step()
        self.wait()
        return (time.perf_counter() - started) / self.n_steps


def _state_bytes(optimizer: Optimizer) -> int:
    """Of all tensors that it keeps; those that several parameters share count once."""
    kept = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    }
    return sum(kept.values())


@dataclass(frozen=True)
class Contest:
    """What was found on one model.

    Attributes:
        n_params: coordinates of the model.
        steppers: by contestant; those whose state would be too large are missing.
        ceilings: by number of threads, of a rule in BOUNDED the steps a second that as many cores of this
            machine, or its GPU, could make at best.
    """

    n_params: int
    steppers: Mapping[str, Stepper]
    ceilings: Mapping[int, Mapping[str, float]]

    @property
    def threads(self) -> tuple[int, ...]:
        """Numbers of threads that everybody was measured with."""
        return tuple(self.ceilings)

    def seconds(self, name: str, n_threads: int) -> float:
        """Of a step, median of the rounds."""
        return median(self.steppers[name].seconds[n_threads])

    def slowdown(self, name: str, n_threads: int) -> float:
        """How many times as long a step takes as the reference's, median of the rounds' ratios."""
        own, reference = (self.steppers[who].seconds[n_threads] for who in (name, REFERENCE))
        return median(a / b for a, b in zip(own, reference, strict=True))

    def reached(self, name: str, n_threads: int) -> float | None:
        """Share of the ceiling; None for others than the rules in BOUNDED."""
        ceiling = self.ceilings[n_threads].get(name)
        return None if ceiling is None else 1 / self.seconds(name, n_threads) / ceiling

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "n_params": self.n_params,
            "contestants": {
                name: {
                    "threads": {n: self._timing(name, n) for n in self.threads},
                    "state_bytes_per_param": own.state_bytes,
                    "peak_bytes_per_param": own.peak_bytes,
                }
                for name, own in self.steppers.items()
            },
        }

    def _timing(self, name: str, n_threads: int) -> dict[str, Any]:
        reached = self.reached(name, n_threads)
        return {
            "seconds": self.steppers[name].seconds[n_threads],
            "median_seconds": self.seconds(name, n_threads),
            "times_reference": self.slowdown(name, n_threads),
            **({} if reached is None else {"share_of_ceiling": reached}),
        }


def works() -> dict[str, Work]:
    """What a step of the rules in BOUNDED needs for each coordinate."""
    return {name: count_update(specs()[name], _COUNTED) for name in BOUNDED}


def working_sets() -> list[Work]:
    """What the rules in BOUNDED need for a step of each model."""
    return [work.times(_size(shapes)) for work in works().values() for shapes in MODELS.values()]


def _size(shapes: Sequence[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def measure(
    n_rounds: int, progress: Progress, rates: Callable[[int], Rates], device: str, *, quick: bool
) -> dict[str, Contest]:
    """By model; the ``rates`` of so many of the machine's cores are measured before every model.

    A GPU is given its work by one thread, and its rates are those of the whole.
    """
    found = {}
    all_threads = THREADS if device == "cpu" else (1,)
    chosen = dict(list(MODELS.items())[:1]) if quick else MODELS
    for number, (title, shapes) in enumerate(chosen.items()):
        progress(f"optimizers: {title}", number + 1, len(chosen))
        n_params = _size(shapes)
        ceilings = {n: _ceilings(n_params, rates(n)) for n in all_threads}
        steppers = dict(_steppers(shapes, n_params, torch.device(device)))
        for round_number in range(n_rounds):
            names = list(steppers)
            shift = round_number % len(names)
            for n_threads in all_threads:
                with threads(n_threads):
                    for name in names[shift:] + names[:shift]:
                        steppers[name].repeat(n_threads)
        found[title] = Contest(n_params, steppers, ceilings)
    return found


def _ceilings(n_params: int, rates: Rates) -> dict[str, float]:
    """Steps a second, at most, of the rules in BOUNDED."""
    return {name: work.times(n_params).ceiling(rates) for name, work in works().items()}


def _steppers(
    shapes: Sequence[tuple[int, ...]], n_params: int, device: torch.device
) -> Iterator[tuple[str, Stepper]]:
    generator = torch_generator(SEED, "params")
    params = [nn.Parameter((0.1 * torch.randn(shape, generator=generator)).to(device)) for shape in shapes]
    for parameter in params:
        parameter.grad = (1e-3 * torch.randn(parameter.shape, generator=generator)).to(device)
    for name, options in TORCH.items():
        yield name, Stepper.of(torch.optim.AdamW(params, lr=1e-6, **options), n_params, device)
    for name, spec in specs().items():
        candidate = spec.candidate(0, {})
        learner = Learner.of(candidate.family, candidate.genes)
        genome = Genome("1", candidate.family, dict(learner.genes))
        if 4 * n_params * size_cost(learner).state_floats_per_param > _MOST_STATE_BYTES:
            continue
        # So small that the parameters stay what they are.
        optimizer = EvolvedOptimizer(params, genome, candidate.weights, lr=1e-6, horizon=10_000)
        yield name, Stepper.of(optimizer, n_params, device)
