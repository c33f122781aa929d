"""What a configuration stands for: objectives, search space and seed genomes, found before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from evometa.config import CampaignConfig
from evometa.evolution.search_space import SearchSpace
from evometa.genome.genome import Genome
from evometa.objectives import Objective, find_objective
from evometa.rules.seeds import load_seeds


@dataclass(frozen=True)
class Ingredients:
    """The parts of a campaign that its configuration names."""

    objectives: list[Objective]
    space: SearchSpace
    seeds: list[Genome]

    @classmethod
    def of(cls, config: CampaignConfig) -> Self:
        """Find them. Raises an EvometaError for a name, a gene or a seed file that is wrong."""
        limits: dict[str, object] = dict(config.genes)
        if not config.refinement.enabled:
            limits["meta.write_back"] = "none"
        return cls(
            objectives=[find_objective(name) for name in config.objectives.use],
            space=SearchSpace.of(
                config.evolution.families, limits, max_meta_steps=config.refinement.max_steps
            ),
            seeds=load_seeds([Path(path) for path in config.evolution.seeds]),
        )
