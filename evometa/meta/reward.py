"""What a policy is rewarded for: by how much the logarithm of a task's loss falls.

The rewards of a training add up to ``log L₀ − log L_K``. Losses are floored where a task says that smaller
ones are equal for every purpose; a training that is lost stands, from then on, as high above its beginning as
any may: the worst ratio that an objective counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: No training stands more than this above its first log loss.
MOST_ABOVE = math.log(1000.0)


@dataclass(frozen=True)
class Level:
    """Where trainings stand.

    Attributes:
        first: log loss of each before its first step.
        value: log loss of each now; at most MOST_ABOVE above the first.
        lost: whether a loss was not finite; none is found again.
    """

    first: Tensor
    value: Tensor
    lost: Tensor

    @classmethod
    def at_first(cls, losses: Tensor, noise_floor: float) -> Level:
        """Of fresh models; losses of any shape."""
        finite = torch.isfinite(losses)
        value = _log(torch.where(finite, losses, torch.ones_like(losses)), noise_floor)
        return cls(value, value, ~finite)

    def then(self, losses: Tensor, noise_floor: float) -> Level:
        """After a step that led to ``losses``."""
        lost = self.lost | ~torch.isfinite(losses)
        worst = self.first + MOST_ABOVE
        value = torch.minimum(_log(losses, noise_floor), worst)
        return Level(self.first, torch.where(lost, worst, value), lost)


def rewards(first: Level, losses: Tensor, noise_floor: float) -> tuple[Tensor, Level]:
    """The rewards of S steps from ``first`` on that led to ``losses (S, …)``, and the last level."""
    levels = [first]
    for after in losses:
        levels.append(levels[-1].then(after, noise_floor))
    values = torch.stack([level.value for level in levels])
    return values[:-1] - values[1:], levels[-1]


def _log(losses: Tensor, noise_floor: float) -> Tensor:
    return losses.clamp(min=noise_floor).log()
