"""Update rules seen from outside: the step as a function of a gradient that repeats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogFormatterMathtext, NullLocator
from torch import Tensor

from evometa.campaign.results import read_front
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.task_set import TaskRequest, prepare
from evometa.inner.unroll import loss_and_grad
from evometa.layout import Layout
from evometa.plots.contestants import CPU, Role, fresh_tasks, highlighted, tuned_rule
from evometa.plots.style import PALE, STROKES, house_style, label_panel, new_figure
from evometa.rng import torch_generator
from evometa.rules.base import StepContext
from evometa.store import CampaignStore

FloatArray = npt.NDArray[np.float64]

N_TASKS = 8
#: Steps made with the same gradient; the first and the last are shown.
N_REPEATS = 20
#: Gradients reach from 10^−DECADES to 10^DECADES times the typical one, of either sign.
DECADES = 3
_PER_DECADE = 10
#: The tensor in which one coordinate's gradient is varied.
_LAYOUT = Layout.of({"weight": (16, 16)})


@dataclass(frozen=True)
class Probe:
    """What a rule is shown: measured on real tasks, so that the picture is of the range that matters.

    Attributes:
        scale: root mean square of the gradient before the first step.
        low, high: between these lie 80% of the gradients that are not zero, relative to ``scale``.
        loss: mean loss before the first step.
        horizon: planned steps.
        seed: of the other coordinates' gradients.
    """

    scale: float
    low: float
    high: float
    loss: float
    horizon: int
    seed: int


@dataclass(frozen=True)
class Response:
    """The steps of one rule at each of G gradients: the first, and the last of N_REPEATS, ``(G,)``."""

    label: str
    role: Role
    first: FloatArray
    last: FloatArray


@dataclass(frozen=True)
class UpdateResponseData:
    """``gradients`` ``(G,)`` relative to the probe's scale, ascending, and each rule's response to them."""

    source: str
    probe: Probe
    gradients: FloatArray
    responses: list[Response]


def update_response_data(store: CampaignStore) -> UpdateResponseData:
    """How best, knee, tuned Adam and tuned SGD answer a gradient. Raises StoreError before generation 0."""
    contestants = highlighted(store, read_front(store))
    contestants += [tuned_rule(store, "adam", "adam"), tuned_rule(store, "sgd", "other")]
    wanted = fresh_tasks(store, "update_response", 0, N_TASKS)
    probe = measured_probe(wanted)
    grid = gradient_grid()
    responses = []
    for one in contestants:
        steps = repeated_steps(one.candidates[0], probe, grid)
        responses.append(Response(one.label, one.role, steps[0], steps[-1]))
    return UpdateResponseData(wanted.use, probe, grid, responses)


def gradient_grid() -> FloatArray:
    """Log-symmetric gradients ``(G,)``, ascending, zero in the middle."""
    positive = np.logspace(-DECADES, DECADES, 2 * DECADES * _PER_DECADE + 1)
    return np.concatenate([-positive[::-1], [0.0], positive])


def measured_probe(wanted: TaskRequest) -> Probe:
    """Scale and spread of the gradient at the initial parameters of the tasks of ``wanted``."""
    found: list[FloatArray] = []
    losses: list[FloatArray] = []
    for part in prepare(wanted, CPU):
        batch = part.tasks.batch(None if part.indices is None else part.indices[:, 0])
        batch_losses, grads = loss_and_grad(part.tasks, part.params.unsqueeze(0), batch)
        found.append(grads.flatten().double().numpy())
        losses.append(batch_losses.flatten().double().numpy())
    sizes = np.abs(np.concatenate(found))
    scale = float(np.sqrt(np.square(sizes).mean())) or 1.0  # a task may start where it is flat
    nonzero = sizes[sizes > 0] if sizes.any() else np.ones(1)
    low, high = np.quantile(nonzero, (0.1, 0.9)) / scale
    loss = float(np.concatenate(losses).mean())
    return Probe(scale, float(low), float(high), loss, wanted.n_steps - 1, wanted.seed)


@torch.no_grad()
def repeated_steps(candidate: Candidate, probe: Probe, gradients: FloatArray) -> FloatArray:
    """Steps ``(N_REPEATS, G)`` of the rule alone, without its schedule, at θ = 0 from a fresh state.

    One coordinate of a 16 × 16 tensor has the gradient; the others' are drawn from N(0, scale²) once and
    repeat as well, for rules that look at a whole tensor.
    """
    cohort = Cohort.of([candidate], CPU)
    weights, hyper = cohort.member(0)
    grads = _gradients(probe, gradients)
    params = torch.zeros_like(grads)
    loss, planned = torch.full((len(grads),), probe.loss), torch.tensor(float(probe.horizon))
    state, unscheduled = cohort.learner.init_rule_state(weights, params, _LAYOUT), torch.tensor(1.0)
    steps = []
    for k in range(N_REPEATS):
        context = StepContext(_LAYOUT, torch.tensor(float(k)), planned, loss)
        step, state = cohort.learner.scaled_step(weights, hyper, state, grads, params, context, unscheduled)
        steps.append(step[:, 0].double())
    return torch.stack(steps).numpy()


def _gradients(probe: Probe, gradients: FloatArray) -> Tensor:
    """``(G, N)``: a tensor for every gradient, which stands in its first coordinate."""
    others = torch.randn(_LAYOUT.size, generator=torch_generator(probe.seed, "other coordinates"))
    grads = (others * probe.scale).repeat(len(gradients), 1)
    grads[:, 0] = torch.from_numpy(gradients * probe.scale)
    return grads


@house_style()
def plot_update_response(data: UpdateResponseData) -> Figure:
    """The first step and the last of the repeats, each as a function of the gradient."""
    figure = new_figure(
        10.0,
        4.8,
        "What each rule does with a gradient",
        f"Shaded: 80% of the gradients at the start of {data.source} tasks; 1 is their root mean square, "
        f"{data.probe.scale:.2g}. Schedules are left out.",
    )
    panels = figure.subplots(1, 2, sharey=True)
    names = ("first step", f"step {N_REPEATS}, the same gradient each time")
    for axes, name, field in zip(panels, names, ("first", "last"), strict=True):
        for response in data.responses:
            stroke = STROKES[response.role]
            axes.plot(
                data.gradients,
                getattr(response, field),
                color=stroke.colour,
                ls=stroke.dash,
                lw=stroke.width,
                label=response.label.replace(" · ", "\n"),
            )
        _draw_frame(axes, data)
        label_panel(axes, name)
    _scale_steps(panels[0], data)
    panels[0].set_ylabel("step (change of the parameter)")
    panels[1].legend(loc="upper right")
    return figure


def _draw_frame(axes: Axes, data: UpdateResponseData) -> None:
    axes.set_xscale("symlog", linthresh=10.0**-DECADES, linscale=0.5)
    _signed_ticks(axes.xaxis, [10.0**e for e in range(1 - DECADES, DECADES, 2)])
    axes.set_xlim(data.gradients[0], data.gradients[-1])
    for sign in (-1, 1):
        ends = sorted((sign * data.probe.low, sign * data.probe.high))
        axes.axvspan(*ends, color=PALE, alpha=0.25, linewidth=0, zorder=0)
    axes.axhline(0, color=PALE, linewidth=0.8, zorder=1)
    axes.set_xlabel("gradient ÷ typical gradient")


def _scale_steps(axes: Axes, data: UpdateResponseData) -> None:
    """A signed logarithmic axis over the decades in which steps at usual gradients lie."""
    usual = np.abs(data.gradients) <= 1
    sizes = np.abs(np.concatenate([np.r_[r.first[usual], r.last[usual]] for r in data.responses]))
    sizes = sizes[np.isfinite(sizes)]
    top = 10.0 ** np.ceil(np.log10(sizes.max())) if sizes.size and sizes.max() > 0 else 1.0
    axes.set_yscale("symlog", linthresh=top * 1e-5, linscale=0.4)
    _signed_ticks(axes.yaxis, [top * 10.0**-e for e in range(5)])
    axes.set_ylim(-top * 1.5, top * 1.5)


def _signed_ticks(axis: Axis, sizes: list[float]) -> None:
    """Ticks at ``sizes``, at their negatives and at zero."""
    axis.set_major_locator(
        FixedLocator([*(-size for size in sorted(sizes, reverse=True)), 0, *sorted(sizes)])
    )
    axis.set_minor_locator(NullLocator())
    if min(sizes) < 1e-3:
        axis.set_major_formatter(LogFormatterMathtext())
    else:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
