"""Which task it is that cannot be trained on: one who failed on several trains on each of them alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evometa.errors import TaskError
from evometa.execution import EvaluationUnit, Executor, UnitResult
from evometa.inner.cohort import Candidate
from evometa.inner.record import Status
from evometa.inner.task_set import TaskRequest, prepare
from evometa.meta import TaskStream, meta_genes
from evometa.meta.episodes import episode_request

#: So many failing tasks are named one by one.
_MOST_NAMED = 3


def on_which_tasks(failed: UnitResult, candidate: Candidate, wanted: TaskRequest, executor: Executor) -> str:
    """Where ``candidate``, whose work ``failed`` on the tasks of ``wanted``, fails alone, after a comma.

    "" where that says nothing: where there is one task, it fails on none alone, or they cannot be drawn. What
    took too long is not tried again.
    """
    if wanted.n_tasks == 1 or failed.status == Status.TIMEOUT:
        return ""
    tried = range(*(wanted.only or (0, wanted.n_tasks)))
    each = [replace(wanted, only=(number, number + 1)) for number in tried]
    try:
        names = [prepare(one, executor.device)[0].tasks.description for one in each]
    except TaskError:
        return ""
    results = executor.run([EvaluationUnit((candidate,), one) for one in each])
    failing = [place for place, one in enumerate(results) if one.status != Status.COMPLETE]
    if not failing:
        return ""
    if len(failing) == len(tried):
        return f", on each of {len(tried)} tasks"
    named = [f"{tried[place] + 1} ({names[place]})" for place in failing[:_MOST_NAMED]]
    more = f" and {len(failing) - len(named)} more" if len(failing) > len(named) else ""
    return f", on task{'s' * (len(failing) > 1)} {', '.join(named)}{more} of {wanted.n_tasks}"


def on_which_tasks_of(failed: UnitResult, streams: Sequence[TaskStream], executor: Executor) -> str:
    """As :func:`on_which_tasks` for the first who failed in meta-training, in a stream's first episode."""
    candidate = failed.unit.candidates[0]
    for number, stream in enumerate(streams):
        wanted = episode_request(stream, number, meta_genes(candidate.genes))
        found = on_which_tasks(failed, candidate, wanted, executor)
        if found:
            return f"{found} of {stream.use!r}" if len(streams) > 1 else found
    return ""
