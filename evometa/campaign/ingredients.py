"""What a configuration stands for: objectives, search space and seed genomes, found before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from evometa.config import CampaignConfig
from evometa.errors import ConfigError, EvometaError
from evometa.evolution.search_space import SearchSpace
from evometa.genome.genome import Genome
from evometa.objectives import Objective, find_objective
from evometa.rules.registry import RULES
from evometa.rules.seeds import load_seeds


@dataclass(frozen=True)
class Ingredients:
    """The parts of a campaign that its configuration names."""

    objectives: list[Objective]
    space: SearchSpace
    seeds: list[Genome]

    @classmethod
    def of(cls, config: CampaignConfig) -> Self:
        """Find them. Raises ConfigError, naming the key, for what is not there or not right."""
        limits: dict[str, object] = dict(config.genes)
        if not config.refinement.enabled:
            limits["meta.write_back"] = "none"
        with blamed_on("objectives.use"):
            objectives = [find_objective(name) for name in config.objectives.use]
        with blamed_on("evolution.families"):
            families = [name for name in config.evolution.families if RULES[name]]
        with blamed_on("genes"):
            space = SearchSpace.of(families, limits, max_meta_steps=config.refinement.max_steps)
        with blamed_on("evolution.seeds"):
            seeds = load_seeds([Path(path) for path in config.evolution.seeds])
        return cls(objectives, space, seeds)


@contextmanager
def blamed_on(key: str) -> Iterator[None]:
    """An EvometaError raised inside becomes a ConfigError that names the configuration's ``key``."""
    try:
        yield
    except EvometaError as error:
        raise ConfigError(f"{key}: {error}") from error
