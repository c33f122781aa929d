"""The registered figures of a campaign, and how one is written to files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from evometa.campaign.results import campaign_config
from evometa.errors import EvometaError
from evometa.plots.genealogy import genealogy_data, plot_genealogy
from evometa.plots.hypervolume_history import hypervolume_history_data, plot_hypervolume_history
from evometa.plots.lr_schedule import lr_schedule_data, plot_lr_schedule
from evometa.plots.pareto_front import plot_pareto_front
from evometa.plots.pareto_points import pareto_front_data
from evometa.plots.style import DPI, house_style, set_note
from evometa.plots.training_curves import plot_training_curves, training_curves_data
from evometa.plots.update_response import plot_update_response, update_response_data
from evometa.registry import Registry
from evometa.store import CampaignStore


@dataclass(frozen=True)
class CampaignFigure:
    """A registry row: a figure's ``name``, what it shows in a line, and how it is drawn from a store."""

    name: str
    summary: str
    draw: Callable[[CampaignStore], Figure]


FIGURES: Registry[CampaignFigure] = Registry("figure", "evometa.figures")
for _figure in (
    CampaignFigure(
        "pareto_front",
        "quality against cost: the front, its knee, earlier fronts, tuned hand-designed rules",
        lambda store: plot_pareto_front(pareto_front_data(store)),
    ),
    CampaignFigure(
        "hypervolume_history",
        "progress of the front over generations and inner steps",
        lambda store: plot_hypervolume_history(hypervolume_history_data(store)),
    ),
    CampaignFigure(
        "training_curves",
        "loss on fresh meta_valid tasks: best, knee and tuned hand-designed rules",
        lambda store: plot_training_curves(training_curves_data(store)),
    ),
    CampaignFigure(
        "lr_schedule",
        "the factor of each schedule of the front along a training run",
        lambda store: plot_lr_schedule(lr_schedule_data(store)),
    ),
    CampaignFigure(
        "update_response",
        "the step as a function of the gradient: best, knee, tuned Adam and SGD",
        lambda store: plot_update_response(update_response_data(store)),
    ),
    CampaignFigure(
        "genealogy",
        "the ancestors of the front and the operators that made them",
        lambda store: plot_genealogy(genealogy_data(store)),
    ),
):
    FIGURES.add(_figure.name, _figure)


def draw(name: str, store: CampaignStore, out: Path) -> list[Path]:
    """Draw figure ``name`` of a campaign into the folder ``out`` as PNG and SVG; returns the files.

    Raises UnknownNameError for a name that is not registered, StoreError before the first generation, and
    EvometaError when the folder cannot be written to.
    """
    row: object = FIGURES[name]
    if not isinstance(row, CampaignFigure):
        raise EvometaError(f"figure {name!r} is {type(row).__name__}, expected a CampaignFigure")
    with store.snapshot():
        figure = row.draw(store)
        set_note(figure, _note(store))
    files = [out / f"{row.name}.png", out / f"{row.name}.svg"]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with house_style():
            figure.draw_without_rendering()
            figure.set_layout_engine(None)  # laid out once, the same for both
            figure.savefig(files[0], dpi=DPI)
            figure.savefig(files[1], metadata={"Date": None})
    except OSError as error:
        raise EvometaError(
            f"cannot write to {out}: {error.strerror}; give another folder with --out"
        ) from error
    return files


def _note(store: CampaignStore) -> str:
    """Whose figure this is, and how far the campaign had come."""
    planned = campaign_config(store).evolution.generations
    done = len(store.totals())
    if store.status() != "finished":
        return f"{store.name} · {done} of {planned} generations so far"
    return f"{store.name} · {done} generation{'s' if done > 1 else ''}"
