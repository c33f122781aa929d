"""Genes of level 1 that every estimator shares, and how their values are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from evometa.genome.genes import Choice, Integer, LogReal
from evometa.genome.space import Genes, Space

#: How a lifetime's learning enters the lineage: inherited, only scored with, or not done at all.
WRITE_BACK = ("lamarckian", "baldwinian", "none")
#: Shared genes in which the candidates of one cohort may differ although they are not continuous.
FREE_IN_A_COHORT = frozenset({"meta.write_back", "meta.lr_decay", "meta.averaging"})
#: VeLO's range first (Metz et al. 2022); rules whose steps grow with the gradient diverge at it.
AUGMENTATION_RANGES = (1000, 100, 10, 3)
#: Genes that a campaign leaves at these values unless its ``[genes]`` name them. Most make every lifetime's
#: trainings harder, for the sake of tasks on which the campaign does not measure. To judge only the last step
#: is for trainings of few steps.
HELD_UNLESS_NAMED: Mapping[str, object] = {
    "meta.horizon": "fixed",
    "meta.reparametrisation": "none",
    "meta.loss_scaling": "none",
    "meta.loss": {"options": ["log_mean", "mean"]},
}
#: Genes that no genome has unless a campaign's ``[genes]`` name them; without them it is at their defaults.
ABSENT_UNLESS_NAMED = frozenset({"meta.judged_on"})
_REFINED = {"meta.write_back": ("lamarckian", "baldwinian")}


def shared_space(estimators: tuple[str, ...]) -> Space:
    """Genes of every estimator: whether and how to refine, on which inner trainings, how long, how fast."""
    return Space(
        (
            Choice("meta.write_back", WRITE_BACK, note="what becomes of weights refined in a lifetime"),
            Choice("meta.estimator", estimators, when=_REFINED, note="meta-gradient estimator"),
            Integer("meta.steps", 1, 100_000, 10, log=True, when=_REFINED, note="meta-updates a lifetime"),
            LogReal("meta.lr", 1e-4, 3e-2, 3e-3, when=_REFINED, note="meta-learning rate (Adam)"),
            Choice("meta.lr_decay", ("cosine", "none"), when=_REFINED, note="meta-learning rate over steps"),
            LogReal("meta.clip", 0.1, 10.0, 1.0, when=_REFINED, note="largest norm of a meta-gradient"),
            Choice(
                "meta.averaging", ("none", "ema"), when=_REFINED, note="average of the weights that is kept"
            ),
            LogReal(
                "meta.one_minus_averaging_decay",
                1e-3,
                0.5,
                0.1,
                when={"meta.averaging": ("ema",)},
                note="1 − decay of that average: weight of the newest",
            ),
            Choice(
                "meta.unroll_length",
                (20, 50, 100, 10, 200, 500, 1000, 2000),
                when=_REFINED,
                note="inner steps of an episode, at most its horizon",
            ),
            Choice(
                "meta.truncation",
                (10, 20, 5, 50, 100, 200),
                when=_REFINED,
                note="inner steps between meta-updates",
            ),
            Choice(
                "meta.loss",
                ("log_mean", "mean", "last"),
                when=_REFINED,
                note="what is summed over the inner steps",
            ),
            Choice(
                "meta.horizon",
                ("fixed", "log_uniform"),
                when=_REFINED,
                note="planned length of an episode's training",
            ),
            Integer(
                "meta.horizon_low",
                1,
                1000,
                10,
                log=True,
                when={"meta.horizon": ("log_uniform",)},
                note="shortest horizon drawn",
            ),
            Choice(
                "meta.reparametrisation",
                ("none", "task", "tensor", "coordinate"),
                when=_REFINED,
                note="what shares a random scale of the params",
            ),
            Choice(
                "meta.reparametrisation_range",
                AUGMENTATION_RANGES,
                when={"meta.reparametrisation": ("task", "tensor", "coordinate")},
                note="largest such scale; the smallest is its inverse",
            ),
            Choice(
                "meta.loss_scaling",
                ("none", "log_uniform"),
                when=_REFINED,
                note="random unit of each task's loss",
            ),
            Choice(
                "meta.loss_scaling_range",
                AUGMENTATION_RANGES,
                when={"meta.loss_scaling": ("log_uniform",)},
                note="largest such unit; the smallest is its inverse",
            ),
            Choice("meta.judged_on", ("train", "valid"), when=_REFINED, note="rows of the meta-loss"),
        )
    )


def whole(genes: Genes, name: str) -> int:
    """The value of an integer gene, or of a choice among whole numbers."""
    return int(cast(int, genes[name]))


def per_candidate(genes: Sequence[Genes], name: str, like: Tensor, absent: float | None = None) -> Tensor:
    """A continuous gene's value for each candidate, ``(P,)``, in the dtype and on the device of ``like``.

    ``absent`` stands for it in candidates in which it is not active.
    """
    values = [gene[name] if absent is None else gene.get(name, absent) for gene in genes]
    return torch.tensor([float(cast(float, value)) for value in values], dtype=torch.float64).to(like)
