"""Schedules of the front: the factor each member multiplies onto its step, along a real training run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evometa.campaign.results import campaign_config, read_front
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.delay import through_queue
from evometa.inner.record import UnrollRecord
from evometa.inner.task_set import PreparedTasks, TaskRequest, prepare
from evometa.inner.unroll import advance, begin, loss_and_grad, unroll
from evometa.plots.contestants import CPU, Role, fresh_tasks, front_contestants
from evometa.plots.labels import label_points
from evometa.plots.style import STROKES, house_style, legend_above, new_figure
from evometa.rules.base import LastStep, StepContext
from evometa.rules.learner import LAST_STEP
from evometa.store import CampaignStore
from evometa.trees import take

FloatArray = npt.NDArray[np.float64]

N_TASKS = 8
#: More members than this are drawn without labels of their own.
_MAX_LABELS = 14


@dataclass(frozen=True)
class ScheduleCurve:
    """One member of the front.

    Attributes:
        genome_id, label, role: whose schedule.
        schedule: name of the schedule's family.
        low, median, high: least, median and greatest factor over the tasks before each of the K steps,
            ``(K,)``; all equal unless the schedule reads the loss.
    """

    genome_id: str
    label: str
    role: Role
    schedule: str
    low: FloatArray
    median: FloatArray
    high: FloatArray


@dataclass(frozen=True)
class ScheduleData:
    """The schedules of a front on ``n_tasks`` tasks of ``source`` over ``horizon`` steps."""

    source: str
    n_tasks: int
    horizon: int
    curves: list[ScheduleCurve]


def lr_schedule_data(store: CampaignStore, n_tasks: int = N_TASKS) -> ScheduleData:
    """The factors s(k) of the front's members on fresh meta_valid tasks of the first task source.

    Raises StoreError before the first generation.
    """
    front = read_front(store)
    source = campaign_config(store).tasks[0]
    wanted = fresh_tasks(store, "lr_schedule", 0, n_tasks)
    curves = []
    for genome, contestant in zip(front.genomes, front_contestants(store, front), strict=True):
        factors = schedule_factors(contestant.candidates[0], wanted)
        low, high = factors.min(axis=0), factors.max(axis=0)
        curves.append(
            ScheduleCurve(
                genome.id,
                contestant.label,
                contestant.role,
                str(genome.genes["schedule"]),
                low,
                np.median(factors, axis=0),
                high,
            )
        )
    return ScheduleData(source.use, n_tasks, source.horizon, curves)


def schedule_factors(candidate: Candidate, wanted: TaskRequest) -> FloatArray:
    """The factor on each step of ``candidate``'s training on each task, ``(T, K)``."""
    cohort = Cohort.of([candidate], CPU)
    horizon = wanted.n_steps - 1
    parts = []
    for part in prepare(wanted, CPU):
        if cohort.learner.schedule.follows_steps:
            parts.append(_followed(cohort, part, horizon))
            continue
        record = unroll(cohort, part.tasks, part.params, part.indices, horizon)
        parts.append(_replayed(cohort, part, record, horizon))
    return np.concatenate(parts)


def _replayed(cohort: Cohort, part: PreparedTasks, record: UnrollRecord, horizon: int) -> FloatArray:
    """Factors ``(T, K)`` of a recorded run, of which the schedule sees nothing but the losses."""
    weights, hyper = cohort.member(0)
    n_tasks = part.tasks.n_tasks
    state = cohort.learner.init_schedule_state(weights, n_tasks, part.params)
    losses = torch.from_numpy(record.losses[0]).to(part.params.dtype)
    planned = torch.tensor(float(horizon))
    factors = []
    for k in range(horizon):
        context = StepContext(part.tasks.layout, torch.tensor(float(k)), planned, losses[:, k])
        factor, state = cohort.learner.factor(weights, hyper, state, context)
        factors.append(factor.expand(n_tasks).double())
    return torch.stack(factors, dim=-1).numpy()


@torch.no_grad()
def _followed(cohort: Cohort, part: PreparedTasks, horizon: int) -> FloatArray:
    """Factors ``(T, K)`` of a run made step by step, of which the schedule sees gradients and steps too."""
    weights, hyper = cohort.member(0)
    tasks, carry = part.tasks, begin(cohort, part.tasks.layout, part.params, part.tasks.gradient_delay)
    planned = torch.tensor(float(horizon))
    factors = []
    for k in range(horizon):
        batch = tasks.batch(None if part.indices is None else part.indices[:, k])
        losses, grads = loss_and_grad(tasks, carry.params, batch)
        given, _, _ = through_queue(carry.state, grads)
        last = LastStep.of(given[0], carry.state[LAST_STEP][0])
        context = StepContext(tasks.layout, torch.tensor(float(k)), planned, losses[0], last)
        factor, _ = cohort.learner.factor(weights, hyper, take(carry.state, 0), context)
        factors.append(factor.expand(tasks.n_tasks).double())
        carry = advance(cohort, tasks.layout, carry, losses, grads, horizon)
    return torch.stack(factors, dim=-1).numpy()


@house_style()
def plot_lr_schedule(data: ScheduleData) -> Figure:
    """Factor over progress, best and knee in front of the others."""
    kinds = sorted({curve.schedule for curve in data.curves})
    figure = new_figure(
        7.0,
        4.4,
        "Learning-rate schedules of the front",
        f"Along training on {data.n_tasks} fresh meta_valid tasks ({data.source}): median, and the range "
        f"over the tasks where a schedule reads the loss. Kinds: {', '.join(kinds)}.",
    )
    axes = figure.subplots()
    progress = np.arange(data.horizon) / data.horizon
    for curve in sorted(data.curves, key=lambda curve: curve.role != "member"):
        stroke = STROKES[curve.role]
        label = f"{curve.label}: {curve.schedule}" if curve.role != "member" else None
        axes.plot(progress, curve.median, color=stroke.colour, ls=stroke.dash, lw=stroke.width, label=label)
        if curve.role != "member":
            axes.fill_between(progress, curve.low, curve.high, color=stroke.colour, alpha=0.15, linewidth=0)
    others = [curve for curve in data.curves if curve.role == "member"]
    if others:
        axes.plot([], [], color=STROKES["member"].colour, lw=1.0, label="other members of the front")
    axes.set_yscale("log")
    _widen(axes)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"progress (share of the {data.horizon} steps)")
    axes.set_ylabel("factor on the step, s(k)")
    legend_above(axes, axes.get_legend_handles_labels()[0])
    if len(others) <= _MAX_LABELS:
        ends = np.array([[progress[-1], curve.median[-1]] for curve in others]).reshape(-1, 2)
        label_points(axes, ends, [f"{curve.genome_id} {curve.schedule}" for curve in others])
    return figure


def _widen(axes: Axes) -> None:
    """At least a decade in height, so that a constant factor looks constant."""
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.2), max(high, 2.0))
