"""Autoencoders that take noise out of images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import ClassVar

import torch

from evometa.tasks.architectures import Architecture, Architectures
from evometa.tasks.base import Split
from evometa.tasks.image_tasks import SIDES, ImageRows, ImageTasks, draw_images
from evometa.tasks.mlp_model import MLP
from evometa.tasks.options import check_integer, check_number


@dataclass(frozen=True)
class Denoising(ImageTasks):
    """Restore images from noisy copies with an autoencoder (Vincent et al. 2008), by mean squared error.

    ``widths`` are those of the encoder's first layer, ``depths`` numbers of its layers, 1 to 4, each half as
    wide as the one before; the decoder mirrors them. The other options, but for the two below, are those of
    :class:`~evometa.tasks.image_tasks.ImageTasks`.

    Attributes:
        noise: standard deviation of the normal noise that is added to every pixel; pixels are in [0, 1].
        noisy_copies: of each image; minibatches draw among them, alike for all candidates. With 1 an image
            always has the same noise.
    """

    noise: float = 0.3
    noisy_copies: int = 4

    name = "denoising"
    summary = "autoencoders that take noise out of handwritten digits, or of characters of many scripts"

    #: No width belongs to two splits.
    architectures: ClassVar[dict[Split, Architectures]] = {
        "meta_train": Architectures((16, 32), (1, 2), ("relu", "tanh", "gelu"), ("kaiming", "xavier")),
        "meta_valid": Architectures((24,), (1, 2), ("relu", "elu"), ("kaiming", "xavier")),
        "meta_test": Architectures((20, 40), (1, 2, 3), ("relu", "tanh", "silu"), ("kaiming", "xavier")),
    }
    most_layers = 4
    noise_floor = 1e-4  # a hundredth of the range of a pixel, which nobody sees

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.name, "noise", self.noise, 0.0, inf)
        check_integer(self.name, "noisy_copies", self.noisy_copies, 1)

    def model(self, dataset: str, architecture: Architecture) -> MLP:
        return _model(dataset, architecture)

    def rows(self, dataset: str, split: Split, n_tasks: int, generator: torch.Generator) -> ImageRows:
        """Noisy copies of images to read, the images to say."""
        images = draw_images(dataset, split, n_tasks, generator)
        clean = images.x.repeat_interleave(self.noisy_copies, dim=0)
        noisy = clean + self.noise * torch.randn(clean.shape, generator=generator)
        copies = torch.arange(self.noisy_copies)
        train, valid = (
            (rows.unsqueeze(-1) * self.noisy_copies + copies).flatten(1)
            for rows in (images.train_rows, images.valid_rows)
        )
        return ImageRows(noisy, clean, train, valid)


@lru_cache(maxsize=256)
def _model(dataset: str, architecture: Architecture) -> MLP:
    encoder = [max(1, architecture.width >> layer) for layer in range(architecture.depth)]
    n_pixels = SIDES[dataset] ** 2
    sizes = (n_pixels, *encoder, *encoder[-2::-1], n_pixels)
    return MLP(sizes, architecture.activation, architecture.init, "values")
