"""What a genome costs its user at every step."""

from __future__ import annotations

from evometa.objectives.base import OBJECTIVES, Objective, Outcomes


def state_floats(outcomes: Outcomes) -> float:
    """Floats of optimizer state kept for each parameter: Adam has 2."""
    return outcomes.cost.state_floats_per_param


def flops(outcomes: Outcomes) -> float:
    """Floating-point operations of the update for each parameter and step."""
    return outcomes.cost.flops_per_param


for _objective in (
    Objective(
        "state_floats",
        "optimizer state kept for each parameter (Adam: 2)",
        "floats/param",
        state_floats,
        worst=1e6,
        scale="log1p",
        reference=1000.0,
        reads_flops=False,
    ),
    Objective(
        "flops",
        "arithmetic of an update for each parameter",
        "FLOPs/param/step",
        flops,
        worst=1e9,
        scale="log",
        ideal=1.0,
        reference=1e5,
    ),
):
    OBJECTIVES.add(_objective.name, _objective)
