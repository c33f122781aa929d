"""Few-shot classification of handwritten digits: each split has digits of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from evometa.tasks.base import Split
from evometa.tasks.digits import images
from evometa.tasks.few_shot import FewShotClassification

#: The digits of each split, and images of each: the rarest digit has no more.
DIGITS: dict[Split, tuple[int, ...]] = {
    "meta_train": (0, 1, 2, 3),
    "meta_valid": (4, 5, 6),
    "meta_test": (7, 8, 9),
}
N_IMAGES = 174


@dataclass(frozen=True)
class FewShotDigits(FewShotClassification):
    """scikit-learn's handwritten digits, 8×8 pixels: learn on 0 to 3 to learn 7 to 9."""

    ways: int = 3

    name = "few_shot_digits"
    summary = "N-way K-shot classification of handwritten digits, meta-tested on digits never seen"

    @property
    def largest(self) -> tuple[int, int]:
        return min(map(len, DIGITS.values())), N_IMAGES

    def classes(self, split: Split) -> Tensor:
        return _classes(split)


@cache
def _classes(split: Split) -> Tensor:
    pixels, labels = images()
    return torch.stack([pixels[labels == digit][:N_IMAGES] for digit in DIGITS[split]])
