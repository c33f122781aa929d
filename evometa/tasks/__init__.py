"""Task families: what the inner loop optimises."""

from evometa.tasks.base import SPLITS, Split, TaskBatch, TaskFamily
from evometa.tasks.registry import TASKS, build_family
from evometa.tasks.supervised import supervised

__all__ = ["SPLITS", "TASKS", "Split", "TaskBatch", "TaskFamily", "build_family", "supervised"]
