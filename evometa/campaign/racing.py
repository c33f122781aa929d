"""Racing: successive halving of a generation by Pareto rank, over more and more tasks (or a longer horizon).

Everyone in the race is trained on the same tasks, so what is compared at a rung differs by the genomes and
not by luck with tasks. (Jamieson & Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter
optimization"; ranked by NSGA-II in place of one loss.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from evometa.campaign.fitness import CommonTasks, Evaluated, rounded_up
from evometa.campaign.runs import Runs
from evometa.config.sections import Rung
from evometa.evolution.ranking import survivors

FloatArray = npt.NDArray[np.float64]

#: ``(indices of genomes, tasks) → what each of them has come to, and the seconds of work``
Evaluate = Callable[[Sequence[int], Sequence[CommonTasks]], tuple[list[Evaluated], float]]
#: ``(indices of genomes, runs of each, whether earlier generations' count too) → objective values (n, M)``
Value = Callable[[Sequence[int], Sequence[Runs], bool], FloatArray]

#: What follows the last rung: everyone left is trained on everything.
_WHOLE = Rung(tasks=1.0, keep=1.0)


@dataclass(frozen=True)
class Race:
    """How a race of n genomes went.

    Attributes:
        evaluated: per genome, its runs on the tasks of the whole evaluation; where it left before it had
            any, those that it was judged by.
        values: objective values ``(n, M)``, of those that left as of then.
        left: ``(n,)`` the rung at which each left; the number of rungs for those that stayed to the end.
        seconds: of work.
    """

    evaluated: list[Evaluated]
    values: FloatArray
    left: npt.NDArray[np.int64]
    seconds: float


def race(
    n: int, tasks: Sequence[CommonTasks], rungs: Sequence[Rung], size: int, evaluate: Evaluate, value: Value
) -> Race:
    """Let ``n`` genomes race over ``rungs``; a population of ``size`` is wanted in the end.

    A rung that everyone would pass is passed over: its tasks come with those of the next. So is one that
    decides nothing cheaply, for few tasks are rounded up: it brings none, or all that are left.
    """
    left = np.full(n, len(rungs))
    whole: dict[int, Evaluated] = {}
    trials: dict[int, Evaluated] = {}
    inside, done, seconds = list(range(n)), 0.0, 0.0
    values = np.empty((n, 0))
    for number, rung in enumerate((*rungs, _WHOLE)):
        is_whole = rung.horizon == 1.0
        stay = rounded_up(rung.keep * len(inside))
        stay = min(len(inside), stay if is_whole else max(stay, size))
        first = done if is_whole else 0.0
        laps = _laps(tasks, first, rung.tasks, rung.horizon)
        splits = not is_whole or (laps and _laps(tasks, rung.tasks, 1.0, 1.0))
        if number < len(rungs) and (stay == len(inside) or not splits):
            continue
        new, spent = evaluate(inside, laps)
        seconds += spent
        for index, one in zip(inside, new, strict=True):
            if is_whole:
                whole[index] = whole[index].joined(one) if index in whole else one
            else:
                trials[index] = _after(trials.get(index), one)
        runs = [(whole if is_whole else trials)[index].runs for index in inside]
        worth = value(inside, runs, is_whole)
        if not values.shape[1]:
            values = np.empty((n, worth.shape[1]))
        values[inside] = worth
        done = rung.tasks if is_whole else done
        kept = survivors(worth, stay)
        left[np.delete(inside, kept)] = number
        inside = [inside[place] for place in kept]
    left[inside] = len(rungs)
    evaluated = [_told(whole.get(i), trials.get(i), int(left[i]), len(rungs)) for i in range(n)]
    return Race(evaluated, values, left, seconds)


def _laps(tasks: Sequence[CommonTasks], first: float, last: float, horizon: float) -> list[CommonTasks]:
    """Those of each source that has any from the share ``first`` up to ``last``."""
    laps = (common.lap(first, last, horizon) for common in tasks)
    return [lap for lap in laps if lap is not None]


def _after(before: Evaluated | None, one: Evaluated) -> Evaluated:
    """``one`` with the steps of what it replaces."""
    return one if before is None else replace(one, n_inner_steps=one.n_inner_steps + before.n_inner_steps)


def _told(whole: Evaluated | None, trial: Evaluated | None, left: int, n_rungs: int) -> Evaluated:
    """What is kept of one genome's race."""
    if whole is None:
        assert trial is not None
        found = trial
    else:
        found = whole if trial is None else _after(trial, whole)
    if left == n_rungs:
        return found
    happened = found.message or (trial.message if trial is not None else "")
    shorter = ", in shorter trainings" if whole is None else ""
    return replace(found, pruned=True, message=happened or f"left the race at rung {left}{shorter}")
