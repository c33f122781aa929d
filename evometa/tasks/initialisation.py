"""Initial parameters told from what a network's tensors are called."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evometa.layout import Layout
from evometa.tasks.mlp_model import init_stds


def initial_params(layout: Layout, init: str, n_tasks: int, generator: torch.Generator) -> Tensor:
    """Parameters ``(T, N)`` of networks with these tensors, the last part of whose names says what they are.

    ``weight``, (outputs, inputs) or (outputs, inputs, rows, columns), and ``bias``, which follows it, are
    spread as ``init`` says; inputs and outputs count once for each pixel of a filter (see
    :func:`~evometa.tasks.mlp_model.init_stds`). ``scale`` is one and ``shift`` zero, as in a normalisation.
    ``embedding``, (entries, width), has entries of mean square length one.
    """
    means: list[float] = []
    stds: list[float] = []
    bias_std = 0.0
    for segment in layout.segments:
        kind, shape = segment.name.rpartition(".")[2], segment.shape
        std = 0.0
        if kind == "weight":
            n_pixels = math.prod(shape[2:])
            std, bias_std = init_stds(init, shape[1] * n_pixels, shape[0] * n_pixels)
        elif kind == "bias":
            std = bias_std
        elif kind == "embedding":
            std = shape[1] ** -0.5
        elif kind not in ("scale", "shift"):
            raise ValueError(f"nothing tells how to initialise a tensor called {segment.name!r}")
        means.append(float(kind == "scale"))
        stds.append(std)
    sizes = torch.tensor(layout.sizes)
    drawn = torch.randn((n_tasks, layout.size), generator=generator)
    return drawn * torch.tensor(stds).repeat_interleave(sizes) + torch.tensor(means).repeat_interleave(sizes)
