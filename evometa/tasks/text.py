"""Small models of the next character of English text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from evometa.tasks.architectures import Architecture, Architectures, check_architectures, deal
from evometa.tasks.base import SPLITS, Split, TaskBatch, TaskFamily
from evometa.tasks.character_model import CharacterGRU, CharacterModel, CharacterTransformer
from evometa.tasks.options import check_choices, check_integer, check_request, refuse
from evometa.tasks.reference_text import N_CHARACTERS, reference_text
from evometa.tasks.sampling import balanced
from evometa.tasks.transformer_model import N_HEADS

MODELS = ("gru", "transformer")

#: What each split samples from where the options leave it open; no width belongs to two splits.
ARCHITECTURES: dict[Split, Architectures] = {
    "meta_train": Architectures((16, 32), (1, 2), ("relu", "gelu"), ("kaiming", "xavier")),
    "meta_valid": Architectures((24,), (1, 2), ("relu", "elu"), ("kaiming", "xavier")),
    "meta_test": Architectures((20, 40), (1, 2, 3), ("relu", "silu"), ("kaiming", "xavier")),
}

#: Characters of a task's stretch of text: it trains on the first ones and holds out those that follow.
N_TRAIN, N_VALID = 13_000, 3_000

#: Of a window, so that there are ten to hold out.
LONGEST = N_VALID // 10 - 1

#: A model that names the right character at 99% would have a hundredth of a nat; no text is so foreseeable.
NOISE_FLOOR = 1e-2


@dataclass(frozen=True)
class Text(TaskFamily):
    """Foretell the next character of Python's English reference; each task has its own stretch of it.

    The splits have topics of their own. A task trains on windows of 13,000 consecutive characters and holds
    out the 3,000 that follow. Loss: mean cross-entropy in nats a character.

    Attributes:
        models: to sample from, "gru" and "transformer".
        length: characters of a window.
        widths: units a layer to sample from, for all splits; even where there are transformers, which have
            two heads. None: each split's own.
        depths: numbers of layers. None: each split's own.
        activations: nonlinearities of the transformers. None: each split's own.
        inits: "kaiming", "xavier", "normal(STD)". None: each split's own.
        batch_size: windows an inner step.
        tasks_per_architecture: how many tasks share one model and architecture, and so one TaskBatch.
    """

    models: tuple[str, ...] = MODELS
    length: int = 32
    widths: tuple[int, ...] | None = None
    depths: tuple[int, ...] | None = None
    activations: tuple[str, ...] | None = None
    inits: tuple[str, ...] | None = None
    batch_size: int = 32
    tasks_per_architecture: int = 2

    name = "text"
    summary = "recurrent networks and transformers on the characters of Python's English reference"

    def __post_init__(self) -> None:
        check_choices(self.name, "models", self.models, MODELS)
        check_architectures(self.name, self.widths, self.depths, self.activations, self.inits)
        if not all(depth >= 1 for depth in self.depths or ()):
            raise refuse(self.name, "depths", self.depths, "integers of at least 1")
        if "transformer" in self.models and any(width % N_HEADS for width in self.widths or ()):
            raise refuse(self.name, "widths", self.widths, f"multiples of {N_HEADS}, or models = ['gru']")
        check_integer(self.name, "length", self.length, 1, LONGEST)
        check_integer(self.name, "batch_size", self.batch_size, 1, N_TRAIN // (self.length + 1))
        check_integer(self.name, "tasks_per_architecture", self.tasks_per_architecture, 1)
        for split in SPLITS:
            reference_text(split)  # missing text is said before anything is run

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """``n_tasks`` tasks, in one batch for each different pair of model and architecture drawn."""
        check_request(self.name, split, n_tasks)
        n_draws = -(-n_tasks // self.tasks_per_architecture)
        models = balanced(self.models, n_draws, generator)
        architectures = ARCHITECTURES[split].narrowed(self.widths, self.depths, self.activations, self.inits)
        drawn = list(zip(models, architectures.sample(n_draws, generator), strict=True))
        networks = [_model(kind, self.length, architecture) for kind, architecture in drawn]
        return [self._batch(split, *entry, generator) for entry in deal(networks, n_tasks).items()]

    def _batch(
        self, split: Split, model: CharacterModel, n_tasks: int, generator: torch.Generator
    ) -> TaskBatch:
        n_train, n_valid = N_TRAIN // (self.length + 1), N_VALID // (self.length + 1)
        windows = self._windows(split, n_tasks, n_train + n_valid, generator)
        rows = torch.arange(len(windows)).reshape(n_tasks, -1)
        return TaskBatch(
            family=self.name,
            description=f"text {model.description}",
            n_tasks=n_tasks,
            layout=model.layout,
            loss=model.loss,
            init_params=partial(model.init_params, n_tasks),
            rows={"x": windows[:, :-1], "y": windows[:, 1:]},
            train_rows=rows[:, :n_train],
            valid_rows=rows[:, n_train:],
            batch_size=self.batch_size,
            noise_floor=NOISE_FLOOR,
            final_window=10,
        )

    def _windows(self, split: Split, n_tasks: int, n_windows: int, generator: torch.Generator) -> Tensor:
        """Consecutive pieces of ``n_tasks`` stretches of text, ``(T · n_windows, length + 1)``."""
        text = reference_text(split)
        n_characters = n_windows * (self.length + 1)
        first = torch.randint(len(text) - n_characters + 1, (n_tasks, 1), generator=generator)
        return text[first + torch.arange(n_characters)].reshape(-1, self.length + 1)


@lru_cache(maxsize=256)
def _model(kind: str, length: int, architecture: Architecture) -> CharacterModel:
    sizes = (N_CHARACTERS, length, architecture.width, architecture.depth, architecture.init)
    return CharacterGRU(*sizes) if kind == "gru" else CharacterTransformer(*sizes, architecture.activation)
