"""From which params learned initialisations begin: a draw of the campaign's own tasks, whose model is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from evometa.config import TaskSource
from evometa.errors import TaskError
from evometa.evolution.search_space import SearchSpace
from evometa.genome.genes import Choice
from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.tasks import SPLITS, TaskFamily, build_family

#: Tasks of each split that are drawn to see which models there are.
_N_TRIED = 16


@dataclass(frozen=True)
class CommonModel:
    """The one model of all tasks of a campaign.

    Attributes:
        family: whose initial params are drawn.
        layout: of the model.
    """

    family: TaskFamily
    layout: Layout

    def draw_params(self, generator: torch.Generator) -> Tensor:
        """Initial params ``(N,)`` of one meta_train task."""
        (batch,) = self.family.sample("meta_train", 1, generator)
        return batch.init_params(generator)[0]


def may_learn_start(space: SearchSpace) -> bool:
    """Whether genomes of a campaign may learn where training begins."""
    spaces = [own for own in space.spaces.values() if "init" in own]
    return any("learned" in cast(Choice, own["init"]).options for own in spaces)


def common_model(sources: Sequence[TaskSource]) -> CommonModel:
    """The model of all tasks of ``sources``. Raises TaskError where they have several."""
    families = [build_family(source.use, source.options) for source in sources]
    batches = [
        (family, batch)
        for family in families
        for split in SPLITS
        for batch in family.sample(split, _N_TRIED, torch_generator(0, "models", split))
    ]
    first = batches[0][1]
    for family, batch in batches:
        if batch.layout != first.layout:
            hint = f"; hold it with the options {family.one_model}" if family.one_model else ""
            raise TaskError(
                "a learned initialisation needs one model for all tasks, but there are "
                f"{first.description!r} and {batch.description!r}{hint}"
            )
    return CommonModel(families[0], first.layout)
