"""Evolved optimizers against tuned hand-designed ones."""

from evometa.bench.compare import Comparison, Rival, compare

__all__ = ["Comparison", "Rival", "compare"]
