"""Small transformers on patches of images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from evometa.tasks.architectures import Architecture, Architectures
from evometa.tasks.base import Split
from evometa.tasks.digits import NOISE_FLOOR
from evometa.tasks.image_tasks import N_CLASSES, SIDES, ImageTasks
from evometa.tasks.options import refuse
from evometa.tasks.transformer_model import N_HEADS, PatchTransformer

#: Patches along a side of an image: 2×2 pixels of a digit, 4×4 of a glyph.
N_ALONG = 4


@dataclass(frozen=True)
class PatchTransformerTasks(ImageTasks):
    """Classify images with a transformer that reads them as sixteen patches.

    ``widths`` are those of the blocks, even numbers since there are two heads; ``depths`` are numbers of
    blocks, 1 to 8. The other options are those of :class:`~evometa.tasks.image_tasks.ImageTasks`.
    """

    name = "patch_transformer"
    summary = "transformers on patches of handwritten digits, or of characters of many scripts"

    #: No width belongs to two splits.
    architectures: ClassVar[dict[Split, Architectures]] = {
        "meta_train": Architectures((8, 16), (1, 2), ("relu", "tanh", "gelu"), ("kaiming", "xavier")),
        "meta_valid": Architectures((12,), (1, 2), ("relu", "elu"), ("kaiming", "xavier")),
        "meta_test": Architectures((10, 20), (1, 2, 3), ("relu", "gelu", "silu"), ("kaiming", "xavier")),
    }
    most_layers = 8
    noise_floor = NOISE_FLOOR

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(width % N_HEADS for width in self.widths or ()):
            raise refuse(self.name, "widths", self.widths, f"multiples of {N_HEADS}")

    def model(self, dataset: str, architecture: Architecture) -> PatchTransformer:
        return _model(dataset, architecture)


@lru_cache(maxsize=256)
def _model(dataset: str, architecture: Architecture) -> PatchTransformer:
    side = SIDES[dataset]
    return PatchTransformer(
        side,
        side // N_ALONG,
        architecture.width,
        architecture.depth,
        N_CLASSES[dataset],
        architecture.activation,
        architecture.init,
    )
