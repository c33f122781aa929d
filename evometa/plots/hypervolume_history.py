"""How far a campaign has come: hypervolume and size of the front, by generation and by inner steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedFormatter, FixedLocator, MaxNLocator

from evometa.errors import StoreError
from evometa.plots.style import PALETTE, house_style, new_figure
from evometa.store import CampaignStore

FloatArray = npt.NDArray[np.float64]

_MAX_STEP_LABELS = 8


@dataclass(frozen=True)
class HypervolumeHistoryData:
    """One entry a generation.

    Attributes:
        hypervolume: share of the box between ideal and reference point that the front dominates; NaN where
            it was not measured.
        front_sizes: members of the front.
        inner_steps: made up to the generation's end, refinement and evaluation together; the tuning of
            baselines before generation 0 is left out.
        objectives: names of the objectives.
        reference: the box's far corner, in their units.
    """

    hypervolume: FloatArray
    front_sizes: npt.NDArray[np.int64]
    inner_steps: npt.NDArray[np.int64]
    objectives: tuple[str, ...]
    reference: tuple[float, ...]


def hypervolume_history_data(store: CampaignStore) -> HypervolumeHistoryData:
    """The history of a campaign's front. Raises StoreError before the first generation."""
    records = store.generations()
    if not records:
        raise StoreError(f"campaign {store.name!r} has no finished generation yet")
    steps = [record.refinement_inner_steps + record.evaluation_inner_steps for record in records]
    return HypervolumeHistoryData(
        hypervolume=np.array(
            [np.nan if record.hypervolume is None else record.hypervolume for record in records]
        ),
        front_sizes=np.array([sum(c.in_front for c in record.candidates) for record in records]),
        inner_steps=np.cumsum(steps),
        objectives=records[0].objectives,
        reference=records[0].reference_point,
    )


@house_style()
def plot_hypervolume_history(data: HypervolumeHistoryData) -> Figure:
    """Hypervolume above, front size below, over generations; cumulative inner steps along the top."""
    first, last = data.hypervolume[0], data.hypervolume[-1]
    corner = ", ".join(f"{n} {v:g}" for n, v in zip(data.objectives, data.reference, strict=True))
    figure = new_figure(
        6.8,
        4.6,
        f"Hypervolume of the front: {first:.3f} → {last:.3f}",
        f"Higher is better; 1 would be ideal in every objective. The box ends at {corner}. It may fall: "
        "survivors are measured again on fresh tasks in every generation.",
    )
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    generations = np.arange(len(data.hypervolume))
    upper.plot(generations, data.hypervolume, "o-", color=PALETTE[0], ms=5, mec="white", mew=0.8)
    upper.set_ylabel("hypervolume (share of the box)")
    upper.margins(y=0.15)
    _step_axis(upper, data.inner_steps)
    lower.bar(generations, data.front_sizes, width=0.55, color="#9a9a9a")
    lower.set_ylabel("front size\n(genomes)")
    lower.set_xlabel("generation")
    lower.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    lower.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    lower.set_xlim(-0.6, len(generations) - 0.4)
    return figure


def _step_axis(axes: Axes, inner_steps: npt.NDArray[np.int64]) -> None:
    """A second axis along the top: inner steps made up to the end of some generations."""
    top = axes.secondary_xaxis("top")
    top.spines["top"].set_visible(False)
    stride = -(-len(inner_steps) // _MAX_STEP_LABELS)
    shown = np.arange(len(inner_steps))[::-1][::stride][::-1]
    write = EngFormatter(places=1, sep="")
    top.xaxis.set_major_locator(FixedLocator(shown.tolist()))
    top.xaxis.set_major_formatter(FixedFormatter([write(float(inner_steps[g])) for g in shown]))
    top.set_xlabel("inner steps so far", fontsize=8)
