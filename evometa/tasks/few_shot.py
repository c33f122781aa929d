"""What few-shot families share: where support and query sets lie, as each task has rows of its own."""

from __future__ import annotations

import torch
from torch import Tensor

#: Rows of a query set (of each class, where there are classes) in splits that are only measured on: with more
#: of them a task's held-out loss is told more precisely, and nothing else changes.
EVALUATION_QUERIES = 100


def rows_of_tasks(n_tasks: int, n_support: int, n_query: int) -> tuple[Tensor, Tensor]:
    """Rows of support ``(T, n_support)`` and query ``(T, n_query)``, where task t has a block of its own."""
    rows = torch.arange(n_tasks * (n_support + n_query)).reshape(n_tasks, -1)
    return rows[:, :n_support], rows[:, n_support:]
