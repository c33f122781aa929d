"""Gymnasium environments; importing this registers them, as Gymnasium asks of packages that have any.

``evometa/Optimization-v0`` is a training whose settings the agent controls, see
:mod:`evometa.environments.optimization`.
"""

from __future__ import annotations

import gymnasium

OPTIMIZATION = "evometa/Optimization-v0"

gymnasium.register(
    OPTIMIZATION,
    entry_point="evometa.environments.optimization:OptimizationEnv",
    vector_entry_point="evometa.environments.optimization:OptimizationVectorEnv",
)
