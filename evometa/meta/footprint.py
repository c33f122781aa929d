"""What estimating a meta-gradient keeps in memory, as far as it is the estimator's affair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evometa.inner.limit import training_bytes
from evometa.inner.memory import Demand, PartBytes, part_bytes
from evometa.inner.task_set import PreparedTasks
from evometa.rules.learner import Learner


@dataclass(frozen=True)
class Footprint:
    """What one candidate keeps at once.

    Attributes:
        n_trainings: inner trainings kept side by side, each with params, gradients and state.
        n_live_steps: updates whose intermediate values are alive, for a backward pass or because they run.
        second_order: whether a backward pass goes through the inner gradients too.
    """

    n_trainings: int
    n_live_steps: int
    second_order: bool = False

    @property
    def breadth(self) -> int:
        """How many candidates in plain training one counts for in the plan of chunks."""
        return max(self.n_trainings, self.n_live_steps)

    def __add__(self, other: Footprint) -> Footprint:
        """Both, of which only one runs at a time: trainings are kept, intermediate values are not."""
        n_live_steps = max(self.n_live_steps, other.n_live_steps)
        second_order = self.second_order or other.second_order
        return Footprint(self.n_trainings + other.n_trainings, n_live_steps, second_order)

    def n_bytes(self, parts: Sequence[PartBytes]) -> int:
        """Bytes of one candidate that is gone about in the quickest way, on tasks that take ``parts``."""
        kept = self.n_trainings * sum(part.n_tasks * part.carried for part in parts)
        steps = max(part.n_tasks * (self.n_live_steps * part.graph + part.backward) for part in parts)
        return kept + training_bytes(parts) + steps

    def candidates_in(
        self, learner: Learner, parts: Sequence[PreparedTasks], n_steps: int, n_bytes: int
    ) -> int:
        """How many candidates one can go about so on ``parts`` within ``n_bytes``, in episodes of any length.

        An upper bound tells in most cases; where it leaves no room for one candidate, it is measured.
        """
        demand = Demand(graph=self.n_live_steps > 1, second_order=self.second_order)
        bound = max(0, n_bytes) // self.n_bytes(part_bytes(learner, parts, demand, measured=False))
        return bound or max(0, n_bytes) // self.n_bytes(part_bytes(learner, parts, demand, measured=True))
