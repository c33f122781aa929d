"""Least squares on a few rows, with others held out; ``ridge_task:family`` names it.

With decay of the params, training comes to rest at the solution of a ridge regression: a closed form.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from evometa.rng import torch_generator
from evometa.tasks import supervised
from evometa.tasks.supervised import Supervised

N_FEATURES, N_TRAIN, N_VALID = 3, 8, 6


def family() -> Supervised:
    """All train rows are in every step; every task has the same rows."""
    generator = torch_generator(0, "ridge")
    x = torch.randn((3 * (N_TRAIN + N_VALID), N_FEATURES), generator=generator)
    y = (x.sum(1) + 0.5 * torch.randn(len(x), generator=generator)).unsqueeze(1)
    n_train = 3 * N_TRAIN
    return supervised(
        name="ridge",
        model=lambda: nn.Linear(N_FEATURES, 1, bias=False),
        loss=F.mse_loss,
        train=(x[:n_train], y[:n_train]),
        valid=(x[n_train:], y[n_train:]),
        batch_size=N_TRAIN,
        meta_split=(1 / 3, 1 / 3, 1 / 3),
    )
