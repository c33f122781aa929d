"""Units in which the losses of a family are usually told: monotone functions of the loss, for people only.

What is optimised, compared and stored is the loss itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A loss in another unit.

    Attributes:
        name: what the field calls it.
        unit: what it is measured in.
        of: from losses to values, element by element; a mean of values is taken after it.
        loss_at: the inverse.
    """

    name: str
    unit: str
    of: Callable[[npt.ArrayLike], FloatArray]
    loss_at: Callable[[npt.ArrayLike], FloatArray]

    @property
    def title(self) -> str:
        """Name and unit, as a column or an axis is headed."""
        return f"{self.name} [{self.unit}]"


def _decibels(losses: npt.ArrayLike) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(-10.0 * np.log10(losses))


def _from_decibels(values: npt.ArrayLike) -> FloatArray:
    return np.asarray(10.0 ** (-np.asarray(values) / 10.0))


#: Peak signal-to-noise ratio of a mean squared error between signals whose range is 1; higher is better.
PSNR = Metric("PSNR", "dB", _decibels, _from_decibels)
