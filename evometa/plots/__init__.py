"""Every figure of a campaign: a ``*_data`` function computes a value, a ``plot_*`` function draws it."""

from evometa.plots.registry import FIGURES, CampaignFigure, draw

__all__ = ["FIGURES", "CampaignFigure", "draw"]
