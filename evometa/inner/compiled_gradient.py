"""The inner gradient compiled: what :func:`evometa.inner.gradient.eager` does, traced, as one function.

Compiling takes seconds to minutes; whether a campaign earns them back is decided in
:mod:`evometa.inner.gradient_choice`.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from evometa.inner.gradient import eager, with_graph
from evometa.tasks.base import Batch, Loss, TaskBatch

#: Runs that a compiled gradient computes at once. The number is fixed, because PyTorch's rules for mapping
#: layers write it into what they trace; it is small, so that little is lost where the last block is not full.
BLOCK = 4
#: One thread, as in all units of work, and one compiler at a time: else PyTorch keeps a pool of processes.
_OPTIONS: dict[str, str | int | bool | Callable[..., object]] = {"cpp.threads": 1, "compile_threads": 1}
#: Compiled gradients that are kept, one a loss function.
_N_KEPT = 32

#: ``(params (BLOCK, N), each value of the batch (BLOCK, …)) → (losses (BLOCK,), gradients (BLOCK, N))``
BlockGradient = Callable[..., tuple[Tensor, Tensor]]
#: What a block gradient is compiled for: of each tensor the name, shape without BLOCK, dtype, and if shared.
_Signature = tuple[tuple[str, tuple[int, ...], torch.dtype, bool], ...]


class CompilationError(Exception):
    """A gradient could not be compiled; the text is one line that says why."""


def with_compiled_gradient(tasks: TaskBatch) -> TaskBatch:
    """``tasks`` with a compiled gradient, unless their family has written one by hand."""
    if tasks.loss_and_grad is not None:
        return tasks
    return replace(tasks, loss_and_grad=compiled_gradient(tasks.loss))


def compiled_gradient(loss: Loss) -> CompiledGradient:
    """The compiled gradient of ``loss``; equal functions have the same one, so that it is compiled once."""
    with _LOCK:
        known = next((gradient for gradient in _KEPT if gradient.loss == loss), None)
        if known is None:
            known = CompiledGradient(loss)
            _KEPT.append(known)
        return known


class CompiledGradient:
    """As :func:`eager`, compiled for BLOCK runs: what a run gets does not depend on how many there are.

    Where it cannot be compiled it is eager, which one warning says. So are second derivatives, and whatever
    is computed under a dispatch mode.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self._compiled: dict[_Signature, BlockGradient | str] = {}
        self._warned = False

    def __call__(self, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses ``(P, T)`` and gradients ``(P, T, N)`` at ``params``."""
        if (
            _get_current_dispatch_mode() is not None
        ):  # one that watches operations, and there are none to watch
            return eager(self.loss, params, batch)
        try:
            compute = self.compiled(params, batch)
        except CompilationError as error:
            self._warn(error)
            return eager(self.loss, params, batch)

        def in_blocks(params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
            return _joined(params.shape, (compute(*block) for block in _blocks(params, batch)))

        return with_graph(in_blocks, self.loss, params, batch)

    def compiled(self, params: Tensor, batch: Batch) -> BlockGradient:
        """The function for tensors like these, compiled when first asked for. Raises CompilationError."""
        signature = _signature(params, batch)
        with _LOCK:
            if signature not in self._compiled:
                self._compiled[signature] = _compile(self.loss, params, batch)
            found = self._compiled[signature]
        if isinstance(found, str):
            raise CompilationError(found)
        return found

    def _warn(self, error: CompilationError) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"a task's gradient is computed without torch.compile: {error}", stacklevel=3)


#: Held while anything is compiled, so that threads that need the same function compile it once.
_LOCK = threading.Lock()
_KEPT: deque[CompiledGradient] = deque(maxlen=_N_KEPT)


def _compile(loss: Loss, params: Tensor, batch: Batch) -> BlockGradient | str:
    """The compiled function, or in one line why there is none."""
    # Imported late, because it brings a computer algebra system along.
    from torch.fx.experimental.proxy_tensor import make_fx

    names = list(batch)
    runs = torch.vmap(torch.func.grad_and_value(loss))

    def of_block(params: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        grads, losses = runs(params, dict(zip(names, values, strict=True)))
        return losses, grads

    try:
        with torch.no_grad():
            example = next(_blocks(params.detach(), batch))
            # torch.compile does not see through the mapping of every layer; what mapping comes to, it takes.
            traced = make_fx(of_block)(*example)
            compiled: BlockGradient = torch.compile(traced, fullgraph=True, dynamic=False, options=_OPTIONS)
            compiled(*example)
    except Exception as error:  # compilers, their absence and user code raise anything; it is reported
        cause = getattr(error, "inner_exception", error)  # inside what torch.compile raises
        text = [line.strip() for line in str(cause).splitlines() if line.strip()]
        return f"{type(cause).__name__}: {text[0] if text else 'no message'}"

    def without_graph(*block: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():  # another mode would be another function to compile
            return compiled(*block)

    return without_graph


def _blocks(params: Tensor, batch: Batch) -> Iterator[tuple[Tensor, ...]]:
    """The runs (candidate by candidate, task by task) in blocks; the last is filled up with its last run."""
    n_candidates, n_tasks, n_params = params.shape
    flat, n_runs = params.reshape(-1, n_params).contiguous(), n_candidates * n_tasks
    for start in range(0, n_runs, BLOCK):
        runs = [min(run, n_runs - 1) for run in range(start, start + BLOCK)]
        tasks = [run % n_tasks for run in runs]
        yield _rows(flat, runs), *(_rows(value, tasks) for value in batch.values())


def _joined(shape: torch.Size, found: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Losses and gradients of all blocks for params of ``shape``."""
    losses, grads = zip(*found, strict=True)
    n_runs = shape[0] * shape[1]
    return torch.cat(losses)[:n_runs].reshape(shape[:2]), torch.cat(grads)[:n_runs].reshape(shape)


def _rows(value: Tensor, rows: list[int]) -> Tensor:
    """``value[rows]``, without a copy where the rows follow one another or are all the same memory."""
    if _is_shared(value):
        return value[:1].expand(len(rows), *value.shape[1:])
    if rows == list(range(rows[0], rows[0] + len(rows))):
        return value[rows[0] : rows[0] + len(rows)].contiguous()
    return value[rows]


def _is_shared(value: Tensor) -> bool:
    """Whether all tasks have the same memory, as those of frozen parameters."""
    return value.shape[0] > 1 and value.stride(0) == 0


def _signature(params: Tensor, batch: Batch) -> _Signature:
    tensors = {"": params[0], **batch}
    return tuple((name, tuple(v.shape[1:]), v.dtype, _is_shared(v)) for name, v in tensors.items())
