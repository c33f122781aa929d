"""Where the time of a training goes: into how many operations, of which kinds, that move how many bytes.

Every operation that PyTorch dispatches, a call of a native kernel among them, is timed by the clock in this
process. What operations on single numbers take is the time of being called; what an operation takes beyond
that it computes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.workload import Workload
from evometa.inner.evaluate import chunks, evaluate
from evometa.inner.task_set import prepare
from evometa.process import one_thread

#: A training that would take longer than this is cut, but not below so many steps.
_MOST_SECONDS, _LEAST_STEPS = 2.0, 10
#: Single numbers added up to learn what an operation takes that computes nothing.
_N_EMPTY = 2000


@dataclass(frozen=True)
class Anatomy:
    """Of one inner step of one candidate on one task, the mean over a training of a chunk of candidates.

    Attributes:
        n_runs: candidates × tasks of the chunk.
        n_operations: dispatched operations, views included, which serve several of these runs at once.
        n_bytes: what operations read and write, each tensor once an operation; views none.
        working_set: the same of a step of the whole chunk.
        computing_seconds: what operations take beyond being called.
        by_name: the same by operation, the longest first.
        seconds: of one core, as they were just before operations were timed.
    """

    n_runs: int
    n_operations: float
    n_bytes: float
    working_set: float
    computing_seconds: float
    by_name: Mapping[str, float]
    seconds: float


class OperationTimer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Times what runs inside its ``with`` block, operation by operation."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as of evometa.rules.cost.OperationCounter: it would import the compiler

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds: dict[OpOverload, list[float]] = defaultdict(list)
        self.n_bytes = 0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        started = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        self.seconds[func].append(time.perf_counter() - started)
        if not func.is_view:
            made = result if isinstance(result, tuple | list) else (result,)
            tensors = {id(value): value for value in (*args, *made) if isinstance(value, Tensor)}
            self.n_bytes += sum(value.nbytes for value in tensors.values())
        return result

    def beyond(self, least: float) -> dict[str, float]:
        """Name → seconds of all calls beyond ``least`` a call, the longest first."""
        found: dict[str, float] = defaultdict(float)
        for func, seconds in self.seconds.items():
            found[str(func).removesuffix(".default")] += sum(max(0.0, one - least) for one in seconds)
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def anatomy(workload: Workload) -> Anatomy:
    """The anatomy of training the first chunk of ``workload`` on a CPU, with one thread.

    Trainings of many seconds are taken apart by their first steps.
    """
    device = torch.device("cpu")
    first = chunks(workload.candidates, workload.request(), device)[0]
    candidates = [workload.candidates[index] for index in first]
    with one_thread():
        few = workload.reduced(len(workload.specs), _LEAST_STEPS)
        evaluate(candidates, few.request(), device)  # draws tasks, builds kernels
        started = time.perf_counter()
        evaluate(candidates, few.request(), device)
        a_step = (time.perf_counter() - started) / few.n_steps
        timed = workload.reduced(len(workload.specs), max(_LEAST_STEPS, int(_MOST_SECONDS / a_step)))
        prepare(timed.request(), device)
        with OperationTimer() as timer:
            evaluate(candidates, timed.request(), device)
        least = _least_seconds()
    n_runs = len(candidates) * timed.n_tasks
    n_steps = n_runs * timed.n_steps
    by_name = {name: seconds / n_steps for name, seconds in timer.beyond(least).items()}
    return Anatomy(
        n_runs=n_runs,
        n_operations=sum(map(len, timer.seconds.values())) / n_steps,
        n_bytes=timer.n_bytes / n_steps,
        working_set=timer.n_bytes / timed.n_steps,
        computing_seconds=sum(by_name.values()),
        by_name=by_name,
        seconds=a_step / n_runs,
    )


def _least_seconds() -> float:
    """The median that the timer finds for operations on single numbers."""
    one = torch.zeros(())
    with OperationTimer() as timer:
        for _ in range(_N_EMPTY):
            torch.add(one, one)
    (seconds,) = timer.seconds.values()
    return float(torch.tensor(seconds).median())
