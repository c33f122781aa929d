"""What is timed, as plain data that travels to the contestants' processes; all draws have fixed seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from evometa.genome.genes import Value
from evometa.inner.cohort import Candidate
from evometa.inner.task_set import TaskRequest, request
from evometa.meta import TaskStream
from evometa.rng import derive_seed, torch_generator
from evometa.rules.learner import Learner

SEED = 0
#: Steps that schedules and time features are told of in meta-training.
HORIZON = 100
#: Standard deviation of the perturbations of PES.
SIGMA = 0.01

Mode = Literal["forward", "bptt", "pes"]


@dataclass(frozen=True)
class Spec:
    """A candidate: its rule family and the genes that are not defaults."""

    family: str
    genes: Mapping[str, Value] = field(default_factory=dict)

    def candidate(self, index: int, meta: Mapping[str, Value]) -> Candidate:
        """The candidate, with weights drawn from a seed named by ``index`` and genes of meta-training."""
        learner = Learner.of(self.family, {"schedule": "constant", **self.genes})
        weights = learner.init_weights(torch_generator(SEED, "weights", index))
        return Candidate(f"{index:03d}", self.family, {**dict(learner.genes), **meta}, weights)


@dataclass(frozen=True)
class Workload:
    """P candidates on T tasks: perceptrons 64–width–10 with ReLU on digits, batches of 64, or another family.

    Attributes:
        mode: ``forward``: inner training for ``n_steps``; ``bptt``: ``n_segments`` first-order meta-gradients
            through ``n_steps`` of fresh episodes; ``pes``: those of the segments of one episode.
        specs: one a candidate.
        n_pairs: antithetic pairs of PES.
        first: index of the first candidate, which names the seeds of its weights.
        n_cohorts: groups that candidates are planned in, as if each were of a structure of its own.
        use: a task family with the options that it has of itself; None: those perceptrons.
    """

    mode: Mode
    specs: tuple[Spec, ...]
    n_tasks: int = 8
    n_steps: int = 100
    width: int = 32
    n_pairs: int = 4
    n_segments: int = 1
    first: int = 0
    n_cohorts: int = 1
    use: str | None = None

    @classmethod
    def of(cls, mode: Mode, spec: Spec, n_candidates: int, **others: Any) -> Workload:
        """Candidates that differ in their weights alone."""
        return cls(mode, (spec,) * n_candidates, **others)

    @property
    def n_particles(self) -> int:
        """Inner trainings for each candidate."""
        return 2 * self.n_pairs if self.mode == "pes" else 1

    @property
    def n_inner_steps(self) -> int:
        """Inner steps in all: candidates × particles × tasks × updates."""
        return len(self.specs) * self.n_particles * self.n_tasks * self.n_segments * self.n_steps

    def reduced(self, n_candidates: int, n_steps: int) -> Workload:
        """The same work for fewer candidates and steps, for contestants that would take minutes."""
        return dataclasses.replace(self, specs=self.specs[:n_candidates], n_steps=min(n_steps, self.n_steps))

    def dealt(self, n_parts: int) -> list[Workload]:
        """The candidates dealt to ``n_parts`` processes, or to fewer where there are fewer candidates."""
        n_parts = min(n_parts, len(self.specs))
        ends = [len(self.specs) * part // n_parts for part in range(n_parts + 1)]
        return [
            dataclasses.replace(self, specs=self.specs[start:end], first=self.first + start)
            for start, end in pairwise(ends)
        ]

    @property
    def n_episodes(self) -> int:
        """Episodes of one repetition, for contestants that do the same again."""
        return self.n_segments if self.mode == "bptt" else 1

    @property
    def n_episode_steps(self) -> int:
        """Updates that one model is trained for."""
        return self.n_segments * self.n_steps if self.mode == "pes" else self.n_steps

    @property
    def candidates(self) -> list[Candidate]:
        """The candidates, with their weights."""
        meta: dict[str, Value] = {}
        if self.mode != "forward":
            meta = {
                "meta.write_back": "lamarckian",
                "meta.estimator": "tbptt" if self.mode == "bptt" else "pes",
                "meta.steps": self.n_segments,
                "meta.unroll_length": self.n_episode_steps,
                "meta.truncation": self.n_steps,
                "meta.loss": "mean",
            }
            if self.mode == "bptt":
                meta["meta.second_order"] = False
            else:
                meta |= {"meta.pairs": self.n_pairs, "meta.sigma": SIGMA}
        return [spec.candidate(self.first + i, meta) for i, spec in enumerate(self.specs)]

    @property
    def options(self) -> dict[str, object]:
        """Options of the task family; of those perceptrons one architecture for all tasks."""
        if self.use is not None:
            return {}
        return {
            "widths": [self.width],
            "depths": [1],
            "activations": ["relu"],
            "inits": ["kaiming"],
            "tasks_per_architecture": self.n_tasks,
        }

    @property
    def _family(self) -> str:
        return "digits" if self.use is None else self.use

    @property
    def horizon(self) -> int:
        """Planned steps, which schedules are told."""
        return self.n_steps if self.mode == "forward" else HORIZON

    @property
    def _tasks_seed(self) -> int:
        """Of the tasks of an evaluation, or of the first episode of a meta-training."""
        return SEED if self.mode == "forward" else derive_seed(SEED, "episode", 0)

    def request(self) -> TaskRequest:
        """The tasks, with one minibatch more than there are updates."""
        n_batches = self.n_episode_steps + 1
        return request(self._family, self.options, "meta_train", self.n_tasks, n_batches, self._tasks_seed)

    def stream(self, seed: int = SEED) -> TaskStream:
        """The tasks of a meta-training, episode after episode."""
        return TaskStream(self._family, self.request().options, self.n_tasks, self.horizon, seed)

    def perturbations(self, n_weights: int) -> Tensor:
        """Standard normal draws of PES, ``(segments, pairs, weights)``: evometa's in the same episode."""
        generators = [
            torch_generator(self._tasks_seed, "perturbations", segment * self.n_steps)
            for segment in range(self.n_segments)
        ]
        return torch.stack([torch.randn((self.n_pairs, n_weights), generator=one) for one in generators])

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Workload:
        """The inverse of :meth:`to_json`."""
        specs = [
            Spec(
                spec["family"], {n: tuple(v) if isinstance(v, list) else v for n, v in spec["genes"].items()}
            )
            for spec in document["specs"]
        ]
        return cls(**{**document, "specs": tuple(specs)})


#: The rules of the tables: their column titles and specs.
RULES: dict[str, tuple[str, Spec]] = {
    "lstm": ("LSTM 2×20", Spec("recurrent")),
    "gru": ("GRU 16", Spec("recurrent", {"cell": "gru", "layers": 1, "hidden": 16})),
    "mlp": ("MLP 4×2", Spec("mlp")),
    "adam": ("Adam", Spec("adam")),
}
LEARNED = ("lstm", "gru", "mlp")
