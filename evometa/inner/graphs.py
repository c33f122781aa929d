"""One inner step on tensors that stay where they are, recorded once by a GPU and replayed for all others.

A step of a cohort is some hundred small operations. A GPU makes them faster than Python can ask for them, so
they are asked for once: a CUDA graph holds them all, the minibatch's selection and the step counter included,
and each replay is a single launch. Nothing in it may wait for the GPU's answer.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from evometa.trees import Tree

#: (params ``(P, T, N)``, state, rows of the minibatch ``(T, B)`` or None, updates made so far ``()``) →
#: (losses ``(P, T)`` at the params, next params, next state)
Step = Callable[[Tensor, Tree, Tensor | None, Tensor], tuple[Tensor, Tensor, Tree]]

#: Steps made as they are before one is recorded: libraries choose and set up their kernels in the first ones.
WARM_UP_STEPS = 2
#: Shorter trainings are not worth a recording, which costs about as much as a few steps.
MIN_STEPS = 8


def serves(device: torch.device, n_steps: int | None = None) -> bool:
    """Whether a training is to be recorded and replayed; None where nobody knows how long it will be."""
    return device.type == "cuda" and (n_steps is None or n_steps >= MIN_STEPS)


class Recorder(Protocol):
    """How a function that works on static tensors is recorded."""

    def is_recorded_already(self) -> bool:
        """Whether what is done now goes into a recording of somebody else's."""

    def warm_up(self, function: Callable[[], None]) -> None:
        """Call it where it will be recorded."""

    def rehearse(self, function: Callable[[], None]) -> None:
        """Call it; raise RuntimeError when it waits for the device, which cannot be recorded."""

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """What has the effect of a call; makes none itself. Raises RuntimeError when that is impossible."""


class CudaGraphs:
    """CUDA graphs of one device, as PyTorch's notes on CUDA semantics describe them.

    Args:
        shares_memory: all graphs work in the same memory. Only for functions that leave nothing in memory of
            their own: what one call left there, a replay of another graph overwrites.
    """

    def __init__(self, device: torch.device, *, shares_memory: bool = False) -> None:
        self._device = device
        self._shares_memory = shares_memory
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        #: The latest one whose memory others may share, which lasts as long as one of its graphs does.
        self._latest: torch.cuda.CUDAGraph | None = None

    def is_recorded_already(self) -> bool:
        with torch.cuda.device(self._device):
            return torch.cuda.is_current_stream_capturing()

    def warm_up(self, function: Callable[[], None]) -> None:
        before = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(before)
        try:
            with torch.cuda.stream(self._stream):
                function()
        finally:
            before.wait_stream(self._stream)

    def rehearse(self, function: Callable[[], None]) -> None:
        with _waiting_is_an_error():
            self.warm_up(function)

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        present = torch.cuda.current_stream(self._device)
        pool = None if self._latest is None else self._latest.pool()
        # Another thread may go on with what a recording forbids, as a DataLoader that pins memory does.
        # The middle one puts the present stream back, which a recording that fails does not.
        with (
            _nothing_collected(),
            torch.cuda.device(self._device),
            torch.cuda.stream(present),
            torch.cuda.graph(graph, pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            function()
        if self._shares_memory:
            self._latest = graph
        return graph.replay


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """No garbage collection: it may find another graph, whose end would be the end of the recording too."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Replayed:
    """A function on static tensors; each call has its effect once. From the fourth on it is a replay.

    It is given with every call and not kept, so that nobody who has it recorded is held by it. What cannot be
    recorded is called as it is, with one warning. It may raise whatever the function does.

    Attributes:
        can_be_recorded: False once a recording has failed.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._n_calls = 0
        self.can_be_recorded = True
        self._replay: Callable[[], None] | None = None

    def __call__(self, function: Callable[[], None]) -> None:
        if self._replay is not None:
            self._replay()
        elif self._n_calls < WARM_UP_STEPS:
            self._recorder.warm_up(function)
        elif self.can_be_recorded:
            self._rehearse_and_record(function)
        else:
            function()
        self._n_calls += 1

    def _rehearse_and_record(self, function: Callable[[], None]) -> None:
        rehearsed = False
        try:
            self._recorder.rehearse(function)
            rehearsed = True
            self._replay = self._recorder.record(function)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            first_line = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"no CUDA graph of this step, which runs slower without ({first_line})",
                RuntimeWarning,
                stacklevel=2,
            )
            self.can_be_recorded = False
            if not rehearsed:
                function()


class StaticLoop:
    """A training whose params, state, counter and losses keep their place in memory from step to step.

    ``params`` and ``state`` are given up by the caller and edited in place. ``indices`` ``(T, K + 1, B)`` are
    the rows of each minibatch; ``history (K + 1, P, T)`` takes the losses of step k at k.
    """

    def __init__(
        self, step: Step, params: Tensor, state: Tree, indices: Tensor | None, history: Tensor
    ) -> None:
        self.params = params
        self._state = state
        self._step = step
        self._indices = indices
        self._history = history
        self._position = torch.zeros(1, dtype=torch.long, device=params.device)

    def advance(self) -> None:
        """One step."""
        rows = None if self._indices is None else self._indices.index_select(1, self._position).squeeze(1)
        count = self._position.to(self.params.dtype).squeeze(0)
        losses, params, state = self._step(self.params, self._state, rows, count)
        self._history.index_copy_(0, self._position, losses.unsqueeze(0))
        names = list(self._state)
        overwrite(
            [self.params, *(self._state[name] for name in names)], [params, *(state[name] for name in names)]
        )
        self._position.add_(1)


def overwrite(buffers: list[Tensor], values: list[Tensor]) -> None:
    """Write each value into the buffer at its place; values may be views of buffers, their own or another."""
    places = {buffer.untyped_storage().data_ptr() for buffer in buffers}
    values = [_apart(buffer, value, places) for buffer, value in zip(buffers, values, strict=True)]
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)


def _apart(buffer: Tensor, value: Tensor, places: set[int]) -> Tensor:
    """``value``, or a copy of it where it lies in memory that is about to be written to."""
    lies_in_a_buffer = value.untyped_storage().data_ptr() in places
    return value.clone() if lies_in_a_buffer and value is not buffer else value
