"""Update rules and schedules: what optimises at level 1."""

from __future__ import annotations

from evometa.rules.cost import Cost, measure_cost
from evometa.rules.learner import Learner
from evometa.rules.registry import RULES, SCHEDULES

__all__ = ["RULES", "SCHEDULES", "Cost", "Learner", "measure_cost"]
