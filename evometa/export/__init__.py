"""From a genome to training: export files, and the ``torch.optim`` optimizer that runs them."""

from __future__ import annotations

from evometa.export.file import export_genome
from evometa.export.optimizer import EvolvedOptimizer, load_optimizer

__all__ = ["EvolvedOptimizer", "export_genome", "load_optimizer"]
