"""Whether the gradient of a source of tasks is compiled in a campaign, told from measurements.

There is a choice where the family has not written its gradient by hand and all samples of tasks have the
same architectures, since each of them is compiled by itself. Compiling is tried where the gradients would
cost each worker at least LEAST_SECONDS eagerly. It is chosen where it saves more than it takes, once in the
process that decides and once more in the workers, which do it side by side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evometa.inner.compiled_gradient import CompilationError, compiled_gradient
from evometa.inner.gradient import eager
from evometa.inner.modes import CompileMode
from evometa.inner.task_set import PreparedTasks
from evometa.process import one_thread
from evometa.tasks.base import Batch, Loss

#: Compiling costs seconds to minutes by itself; less work than that cannot earn it back.
LEAST_SECONDS = 120.0
#: Candidates that share a timed call, as in a chunk of candidates; for fewer of them compiling saves more.
N_CANDIDATES = 4
#: Calls are repeated for so long, and so often at least, and the quickest one counts: noise only ever adds.
_TIMING_SECONDS, _LEAST_CALLS = 0.5, 5

#: Arguments of a gradient: loss function, params ``(N_CANDIDATES, T, N)``, batch.
_Call = tuple[Loss, Tensor, Batch]


@dataclass(frozen=True)
class GradientChoice:
    """What was chosen for one source of tasks, and the figures behind it; plain data.

    Attributes:
        source: the source, for reading.
        compiled: whether its gradient is compiled.
        mode: what was asked for.
        n_calls: calls planned, each of N_CANDIDATES candidates on the tasks of one evaluation.
        n_workers: processes that share them.
        eager_seconds: of one call.
        compiled_seconds: of one call; None where compiling was not tried or failed.
        compilation_seconds: of compiling in one process; None likewise.
        problem: why it cannot be compiled; "" where it can or was not tried.
    """

    source: str
    compiled: bool
    mode: CompileMode
    n_calls: int
    n_workers: int
    eager_seconds: float
    compiled_seconds: float | None = None
    compilation_seconds: float | None = None
    problem: str = ""

    @property
    def planned_seconds(self) -> float:
        """What the campaign's gradients cost eagerly, in wall-clock time."""
        return self.n_calls * self.eager_seconds / self.n_workers

    @property
    def saved_seconds(self) -> float:
        """How much sooner the campaign ends compiled than eager, below 0 if later; 0 where not measured."""
        if self.compiled_seconds is None or self.compilation_seconds is None:
            return 0.0
        by_calls = self.n_calls * (self.eager_seconds - self.compiled_seconds) / self.n_workers
        return by_calls - self.compilation_seconds * min(self.n_workers, 2)

    def line(self) -> str:
        """The figures and what follows from them, in one line."""
        subject = f"gradient of task {self.source!r}: eager {_milliseconds(self.eager_seconds)}"
        if self.problem:
            return f"{subject}; cannot be compiled ({self.problem})"
        if self.compiled_seconds is None or self.compilation_seconds is None:
            reason = "as asked" if self.mode == "never" else "too little to try compiling"
            return f"{subject}, about {_span(self.planned_seconds)} in this campaign; {reason}"
        compilation, saved = _span(self.compilation_seconds), _span(abs(self.saved_seconds))
        effect = "saves" if self.saved_seconds > 0 else "costs"
        outcome = "as asked" if self.mode == "always" else "chosen" if self.compiled else "left eager"
        return (
            f"{subject}, compiled {_milliseconds(self.compiled_seconds)}, {compilation} to compile; "
            f"compiled {effect} about {saved} in this campaign; {outcome}"
        )


def has_choice(samples: Sequence[Sequence[PreparedTasks]]) -> bool:
    """Whether there is something to choose, told from several samples of a source's tasks."""
    kinds = [[(part.tasks.loss, part.tasks.layout) for part in sample] for sample in samples]
    by_hand = any(part.tasks.loss_and_grad is not None for sample in samples for part in sample)
    return not by_hand and all(kind == kinds[0] for kind in kinds)


def choose(
    source: str,
    mode: CompileMode,
    n_calls: int,
    n_workers: int,
    time_eager: Callable[[], float],
    time_compiled: Callable[[], tuple[float, float]],
) -> GradientChoice:
    """The choice from the seconds of one eager call, and those of one compiled call and of compiling.

    ``time_compiled`` is called only where compiling could pay, or always; it may raise CompilationError.
    """
    choice = GradientChoice(source, False, mode, n_calls, n_workers, time_eager())
    if mode == "never" or (mode == "auto" and choice.planned_seconds < LEAST_SECONDS):
        return choice
    try:
        compiled, compilation = time_compiled()
    except CompilationError as error:
        return replace(choice, problem=str(error))
    tried = replace(choice, compiled_seconds=compiled, compilation_seconds=compilation)
    return replace(tried, compiled=mode == "always" or tried.saved_seconds > 0)


def time_eager(parts: Sequence[PreparedTasks]) -> float:
    """Seconds of one eager call for N_CANDIDATES candidates on all tasks of ``parts``."""
    with _as_in_a_unit():
        return sum(_quickest(eager, call) for call in map(_first_call, parts))


def time_compiled(parts: Sequence[PreparedTasks]) -> tuple[float, float]:
    """Seconds of one such call compiled, and of compiling it. Raises CompilationError."""
    calls = [_first_call(part) for part in parts]
    with _as_in_a_unit():
        started = time.perf_counter()
        for loss, params, batch in calls:
            compiled_gradient(loss).compiled(params, batch)
        compilation = time.perf_counter() - started
        return sum(_quickest(_compiled, call) for call in calls), compilation


def _compiled(loss: Loss, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    return compiled_gradient(loss)(params, batch)


def _first_call(part: PreparedTasks) -> _Call:
    batch = part.tasks.batch(None if part.indices is None else part.indices[:, 0])
    return part.tasks.loss, part.params.repeat(N_CANDIDATES, 1, 1), batch


def _quickest(gradient: Callable[[Loss, Tensor, Batch], object], call: _Call) -> float:
    seconds: list[float] = []
    while len(seconds) < _LEAST_CALLS or sum(seconds) < _TIMING_SECONDS:
        started = time.perf_counter()
        gradient(*call)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


@contextmanager
def _as_in_a_unit() -> Iterator[None]:
    """One thread and no graph, as units of work compute."""
    with one_thread(), torch.no_grad():
        yield


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms" if seconds < 1e-2 else f"{1e3 * seconds:.0f} ms"


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
