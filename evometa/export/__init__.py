"""From a genome to training: export files, and the ``torch.optim`` optimizer that runs them."""

from __future__ import annotations

from evometa.export.file import export_genome
from evometa.export.loading import load_optimizer
from evometa.export.optimizer import EvolvedOptimizer

__all__ = ["EvolvedOptimizer", "export_genome", "load_optimizer"]
