"""The arithmetic of a bucket's step, recorded once by a GPU and replayed, see :mod:`evometa.inner.graphs`.

A step of a small model is some ten to some thousand operations that each take a GPU less time than Python
needs to ask for them. Gradients are brought to the bucket's flat buffers before the replay and params taken
from there after it, so a recording depends on nobody's memory but the bucket's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from evometa.inner import graphs

#: Coordinates of the largest bucket that is recorded. A graph keeps the memory it works in, up to some
#: hundred floats a coordinate, and with more coordinates the GPU takes longer than Python.
MOST_COORDINATES = 2**23


@dataclass(frozen=True)
class Inputs:
    """What the arithmetic of a step takes beside gradients, params and state: tensors where it computes.

    Attributes:
        step: (), updates made so far.
        horizon: (), planned number of updates.
        factor: (), on the rule's step: the schedule's times ``lr``.
        decay: (), share of the params that decoupled weight decay takes off; None for none.
        loss: (1,), as the caller gave it, or None.
        maximize: whether to climb.
    """

    step: Tensor
    horizon: Tensor
    factor: Tensor
    decay: Tensor | None
    loss: Tensor | None
    maximize: bool

    def tensors(self) -> list[Tensor]:
        """Those that are there."""
        given = (self.step, self.horizon, self.factor, self.decay, self.loss)
        return [value for value in given if value is not None]

    def copied(self) -> Inputs:
        """The same in memory of its own."""
        decay, loss = (None if value is None else value.clone() for value in (self.decay, self.loss))
        return Inputs(
            self.step.clone(), self.horizon.clone(), self.factor.clone(), decay, loss, self.maximize
        )


def serves(device: torch.device, n_coordinates: int) -> bool:
    """Whether the steps of such a bucket are to be recorded."""
    return graphs.serves(device) and n_coordinates <= MOST_COORDINATES


class Recorders:
    """What records the steps of an optimizer's buckets; there is one for each device.

    Attributes:
        given_up: whether a step could not be recorded; all are of one rule, so none is tried again.
    """

    def __init__(self) -> None:
        self.given_up = False
        self._recorders: dict[torch.device, graphs.Recorder] = {}

    def recorder_on(self, device: torch.device) -> graphs.Recorder:
        """The device's own."""
        if device not in self._recorders:
            self._recorders[device] = _Recorder(device)
        return self._recorders[device]


class _Recorder:
    """Records graphs that work in the same memory; without memory for one, training goes on without it."""

    def __init__(self, device: torch.device) -> None:
        self._recorder: graphs.Recorder = graphs.CudaGraphs(device, shares_memory=True)
        self.is_recorded_already = self._recorder.is_recorded_already
        self.warm_up = self._recorder.warm_up
        self.rehearse = self._recorder.rehearse

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        try:
            return self._recorder.record(function)
        except torch.OutOfMemoryError as error:
            raise RuntimeError("not enough memory to keep one") from error


class RecordedSteps:
    """The steps of one bucket. Each kind of step has a recording: with a loss and without, and so on."""

    def __init__(self, recorders: Recorders) -> None:
        self._recorders = recorders
        self._kinds: dict[Hashable, tuple[Inputs, graphs.Replayed]] = {}

    def make(self, arithmetic: Callable[[Inputs], None], given: Inputs) -> None:
        """One step: ``arithmetic`` works on tensors that stay where they are."""
        recorder = self._recorders.recorder_on(given.step.device)
        if self._recorders.given_up or recorder.is_recorded_already():
            arithmetic(given)
            return
        kind = given.decay is None, given.loss is None, given.maximize, _autocast(given.step.device)
        if kind not in self._kinds:
            self._kinds[kind] = given.copied(), graphs.Replayed(recorder)
        static, replayed = self._kinds[kind]
        torch._foreach_copy_(static.tensors(), given.tensors())
        replayed(lambda: arithmetic(static))
        self._recorders.given_up = not replayed.can_be_recorded


def _autocast(device: torch.device) -> torch.dtype | None:
    """What autocast, under which nobody should step, makes of products; None where it is off."""
    on = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else None
