"""Small convolutional networks that classify digits or characters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from evometa.tasks.architectures import Architecture, Architectures
from evometa.tasks.base import Split
from evometa.tasks.conv_model import ConvNet
from evometa.tasks.digits import NOISE_FLOOR
from evometa.tasks.image_tasks import N_CLASSES, SIDES, ImageTasks


@dataclass(frozen=True)
class Conv(ImageTasks):
    """Classify images with a convolutional network.

    ``widths`` are the channels of the first convolution, ``depths`` numbers of convolutions, 1 to 3. Filters
    are 3×3 and move by two; each convolution has twice the channels of the one before. The other options are
    those of :class:`~evometa.tasks.image_tasks.ImageTasks`.
    """

    name = "conv"
    summary = "convolutional networks that classify handwritten digits, or characters of many scripts"

    #: No width belongs to two splits.
    architectures: ClassVar[dict[Split, Architectures]] = {
        "meta_train": Architectures((4, 8), (1, 2), ("relu", "tanh", "gelu"), ("kaiming", "xavier")),
        "meta_valid": Architectures((6,), (1, 2), ("relu", "elu"), ("kaiming", "xavier")),
        "meta_test": Architectures((5, 10), (1, 2, 3), ("relu", "tanh", "silu"), ("kaiming", "xavier")),
    }
    most_layers = 3  # images of digits are 8 pixels wide, and every convolution halves that
    noise_floor = NOISE_FLOOR

    def model(self, dataset: str, architecture: Architecture) -> ConvNet:
        return _model(dataset, architecture)


@lru_cache(maxsize=256)
def _model(dataset: str, architecture: Architecture) -> ConvNet:
    channels = tuple(architecture.width << layer for layer in range(architecture.depth))
    return ConvNet(SIDES[dataset], channels, N_CLASSES[dataset], architecture.activation, architecture.init)
