"""Objectives: what evolution minimises. Importing this package registers the built-in ones."""

from evometa.objectives import cost, quality
from evometa.objectives.base import OBJECTIVES, Objective, Outcomes, find_objective, ratios

__all__ = ["OBJECTIVES", "Objective", "Outcomes", "cost", "find_objective", "quality", "ratios"]
