"""Few-shot classification of characters: scripts of meta_test are never seen before."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from evometa.tasks.base import Split
from evometa.tasks.few_shot import FewShotClassification
from evometa.tasks.glyph_data import N_INSTANCES, SCRIPTS, glyphs


@dataclass(frozen=True)
class FewShotGlyphs(FewShotClassification):
    """Characters of twelve scripts, 20 images of 16×16 pixels each, see :mod:`evometa.tasks.glyph_data`."""

    name = "few_shot_glyphs"
    summary = "N-way K-shot classification of characters, meta-tested on scripts never seen"

    @property
    def largest(self) -> tuple[int, int]:
        return min(sum(map(len, scripts.values())) for scripts in SCRIPTS.values()), N_INSTANCES

    def classes(self, split: Split) -> Tensor:
        return glyphs(split).images.flatten(2)
