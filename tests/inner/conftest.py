"""Candidates and tasks that the tests of the engine share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import pytest
import torch
from compute_device import DEVICE, ON_CPU

from evometa import native
from evometa.genome.genes import Value
from evometa.inner import reference
from evometa.inner import unroll as unroll_module
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.kernel_training import kernel_tasks
from evometa.inner.record import UnrollRecord
from evometa.inner.task_set import PreparedTasks
from evometa.inner.unroll import unroll
from evometa.meta import ESTIMATORS, MetaProblem, TaskStream, meta_genes
from evometa.meta.episodes import draw_episode
from evometa.rng import numpy_generator, torch_generator
from evometa.rules.learner import Learner
from evometa.rules.learner_structure import learner_space
from evometa.rules.registry import RULES
from evometa.tasks import build_family
from evometa.tasks.base import TaskFamily


class CohortOf(Protocol):
    """``n`` candidates of one structure that differ in weights and continuous genes."""

    def __call__(self, family: str, genes: Mapping[str, Value], n: int = 3) -> list[Candidate]: ...


class PreparedOf(Protocol):
    """Tasks of a family with initial params and ``n_steps`` minibatches, one entry an architecture."""

    def __call__(
        self, family: TaskFamily, n_tasks: int, n_steps: int, dtype: torch.dtype
    ) -> list[PreparedTasks]: ...


@pytest.fixture(params=[pytest.param("native", marks=pytest.mark.cpu_alone("native kernels")), "torch"])
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """With native kernels, where the machine and the rule have them, and without."""
    with nullcontext() if request.param == "native" else native.disabled():
        yield


@pytest.fixture
def module_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes ``module_tasks:NAME`` the name of a task family."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def cohort_of() -> CohortOf:
    return _cohort_of


@pytest.fixture(scope="session")
def prepared_of() -> PreparedOf:
    return _prepared_of


class CheckMetaGradients(Protocol):
    """Truncated BPTT on an episode of ``stream`` (one architecture) is autograd through the plain loop."""

    def __call__(self, candidates: list[Candidate], stream: TaskStream, second_order: bool) -> None: ...


@pytest.fixture(scope="session")
def check_meta_gradients() -> CheckMetaGradients:
    return _check_meta_gradients


def _cohort_of(family: str, genes: Mapping[str, Value], n: int = 3) -> list[Candidate]:
    space = learner_space(RULES[family])
    given = space.complete({"schedule": "constant", **genes})
    rates = {"lr", "nominal_lr"} & genes.keys()
    found = []
    for index in range(n):
        drawn = space.sample(numpy_generator(7, "continuous genes", family, index))
        own = {name: drawn.get(name, value) for name, value in space.continuous(given).items()}
        slower = {name: 0.5**index * float(genes[name]) for name in rates}  # type: ignore[arg-type]
        complete = space.complete({**given, **own, **slower})
        weights = Learner.of(family, complete).init_weights(torch_generator(7, "weights", family, index))
        # Off their start, where an output layer of zeros hides all before it.
        generator = torch_generator(7, "off the start", index)
        moved = {name: v + 0.1 * torch.randn(v.shape, generator=generator) for name, v in weights.items()}
        found.append(Candidate(f"{family}-{index}", family, complete, moved))
    return found


def _prepared_of(family: TaskFamily, n_tasks: int, n_steps: int, dtype: torch.dtype) -> list[PreparedTasks]:
    prepared = []
    for number, batch in enumerate(family.sample("meta_train", n_tasks, torch_generator(7, "tasks"))):
        params = batch.init_params(torch_generator(7, "params", number)).to(dtype)
        indices = batch.index_stream(n_steps, torch_generator(7, "batches", number))
        prepared.append(PreparedTasks(batch.to(torch.device("cpu"), dtype), params, indices))
    return prepared


def _check_meta_gradients(candidates: list[Candidate], stream: TaskStream, second_order: bool) -> None:
    """At the same weights, for segment after segment of the episode, in float64; the plain loop on a CPU."""
    truncation = 5
    genes = meta_genes(
        {
            "meta.write_back": "lamarckian",
            "meta.estimator": "tbptt",
            "meta.unroll_length": 20,
            "meta.truncation": truncation,
            "meta.loss": "log_mean",
            "meta.second_order": second_order,
        }
    )
    dtype = torch.float64
    cohort = Cohort.of(candidates, DEVICE, dtype)
    problem = MetaProblem(cohort, (genes,) * len(candidates), (stream,), DEVICE, dtype)
    session = ESTIMATORS["tbptt"].begin(problem)
    episode = draw_episode(stream, 0, genes, torch.device("cpu"), dtype)
    (part,) = episode.parts
    found = [session.estimate(cohort.weights).grads for _ in range(0, episode.length, truncation)]
    for index, candidate in enumerate(candidates):
        expected = reference.meta_gradients(
            reference.Subject.of(candidate, dtype),
            part,
            episode.length,
            horizon=episode.horizon,
            truncation=truncation,
            second_order=second_order,
            kind="log_mean",
        )
        for segment, exact in zip(found, expected, strict=True):
            scale = max(float(value.abs().max()) for value in exact.values())
            assert scale > 0
            for name, value in exact.items():
                torch.testing.assert_close(segment[name][index].cpu(), value, rtol=1e-9, atol=1e-11 * scale)


#: Tasks for kernels that train many steps in a call; they differ in loss, depth, nonlinearity and batch size.
PERCEPTRONS: dict[str, tuple[str, dict[str, object]]] = {
    "classes": ("tabular", {"datasets": ["iris"], "widths": [5], "depths": [1], "activations": ["tanh"]}),
    "values": ("tabular", {"datasets": ["diabetes"], "depths": [0]}),
    "sines": ("neural_fields", {"patch": 6, "width": 5, "depth": 2, "batch_size": 9}),
    "deep": ("digits", {"widths": [6], "depths": [2], "activations": ["gelu"], "batch_size": 5}),
}


@dataclass(frozen=True)
class Training:
    """Candidates of one structure and tasks, to be trained in several ways."""

    candidates: list[Candidate]
    part: PreparedTasks
    horizon: int

    @property
    def cohort(self) -> Cohort:
        return Cohort.of(self.candidates, torch.device("cpu"), self.part.params.dtype)

    @torch.no_grad()
    def is_for_kernels(self) -> bool:
        return kernel_tasks(self.cohort, self.part.tasks, self.part.params, self.part.indices) is not None

    def by_kernel(self, steps_at_once: int = 128) -> UnrollRecord:
        """``steps_at_once`` steps in one call; fails where no kernel serves."""
        assert self.is_for_kernels()
        return self._with("_MANY_STEPS", steps_at_once)

    def step_by_step(self) -> UnrollRecord:
        return self._with("kernel_tasks", lambda *arguments: None)

    def by_torch(self) -> UnrollRecord:
        with native.disabled():
            return self._unrolled()

    def refused(self) -> UnrollRecord:
        """Trained as the engine does it; fails where a kernel would take many steps."""
        assert not self.is_for_kernels()
        return self._unrolled()

    def _with(self, name: str, value: object) -> UnrollRecord:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(unroll_module, name, value)
            return self._unrolled()

    def _unrolled(self) -> UnrollRecord:
        return unroll(self.cohort, self.part.tasks, self.part.params, self.part.indices, self.horizon)


@pytest.fixture(scope="session")
def training_of() -> Callable[..., Training]:
    """A :class:`Training` of three tasks for a rule and its genes, at rates at which candidates learn."""
    if not ON_CPU:
        pytest.skip("kernels are a CPU's")
    for unit in native.units():
        reason = native.why_unavailable(unit)
        if reason is not None:
            pytest.skip(f"no kernel here: {reason}")

    def make(
        family: str,
        tasks: str = "classes",
        dtype: torch.dtype = torch.float64,
        horizon: int = 20,
        n: int = 3,
        **genes: Value,
    ) -> Training:
        chosen = learner_space(RULES[family]).complete(genes)
        rates = {name: chosen[name] for name in ("lr", "nominal_lr") if name in chosen}
        small = {"hidden": 5} if "hidden" in chosen else {}
        return Training(
            _cohort_of(family, {**rates, **small, **genes}, n), _perceptrons(tasks, dtype, horizon), horizon
        )

    return make


@cache
def _perceptrons(name: str, dtype: torch.dtype, horizon: int) -> PreparedTasks:
    use, options = PERCEPTRONS[name]
    drawn = {} if use == "neural_fields" else {"tasks_per_architecture": 3, "inits": ["xavier"]}
    family = build_family(use, {**options, **drawn})
    (part,) = _prepared_of(family, 3, horizon + 1, dtype)
    return part
