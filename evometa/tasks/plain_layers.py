"""Layers written out, where PyTorch's own kernels for them cannot be mapped by ``vmap``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

#: PyTorch's kernels for whole attention layers, as pairs of what asks and what says whether they may be used.
_FUSED_ATTENTION: tuple[tuple[Callable[[], bool], Callable[[bool], None]], ...] = (
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp),
)


class _PlainAttention:
    """Attention by matrix products as long as any thread is inside: fused, it can hardly be mapped.

    Nor can the CPU's kernel be differentiated twice. The settings are those of the whole process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside = 0
        self._before: list[bool] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._n_inside += 1
            if self._n_inside == 1:
                self._before = [is_enabled() for is_enabled, _ in _FUSED_ATTENTION]
                for _, enable in _FUSED_ATTENTION:
                    enable(False)
        try:
            yield
        finally:
            with self._lock:
                self._n_inside -= 1
                if self._n_inside == 0:
                    for (_, enable), before in zip(_FUSED_ATTENTION, self._before, strict=True):
                        enable(before)


plain_attention = _PlainAttention()


#: PyTorch's kernels for whole recurrent layers: by name, as it gives their functions anew in every access.
_RECURRENT = {
    "rnn_tanh": torch.ops.aten.rnn_tanh,
    "rnn_relu": torch.ops.aten.rnn_relu,
    "gru": torch.ops.aten.gru,
    "lstm": torch.ops.aten.lstm,
}


class PlainRecurrence(TorchFunctionMode):
    """Recurrent layers by matrix products on accelerators, in this thread: their kernels cannot be mapped.

    cuDNN's cannot, and those that PyTorch has without cuDNN only by a loop. Convolutions keep cuDNN.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kernel = _RECURRENT.get(getattr(func, "__name__", ""))
        if kernel is None or args[0].is_cpu:
            return func(*args, **(kwargs or {}))
        # As a layer calls it, whether it has biases comes fourth; a packed sequence has its lengths before.
        written_out = kernel.input if isinstance(args[3], bool) else kernel.data
        return written_out.decompose(*args)


def keep_weights_apart(module: nn.Module) -> bool:
    """Make recurrent layers of ``module`` leave their weights where they are; whether there are any.

    Weights that are mapped have no place in memory in which cuDNN could have them put together.
    """
    layers = [part for part in module.modules() if isinstance(part, nn.RNNBase)]
    for layer in layers:
        layer.flatten_parameters = _nothing  # type: ignore[method-assign]
    return bool(layers)


def _nothing() -> None:
    """In place of ``flatten_parameters``."""
