from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from evometa.errors import TaskError
from evometa.tasks import SPLITS, Split, glyph_data
from evometa.tasks.glyph_data import N_INSTANCES, SCRIPTS, SIZE, glyphs

#: How the Unicode names of a script's characters begin; symbols belong to no script.
NAMES = {"Canadian Aboriginal": "CANADIAN SYLLABICS", "N'Ko": "NKO"}


def likeness(characters: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Correlations ``(n, n)`` of the characters in one font, where nothing moves or shears them."""
    for spread in ("STRETCH", "SHEAR", "SHIFT"):
        monkeypatch.setattr(glyph_data, spread, 0.0)
    monkeypatch.setattr(glyph_data, "EXTENT", (14.0, 14.0))
    monkeypatch.setattr(glyph_data, "N_INSTANCES", 1)
    sans, draws = glyph_data._fonts()[0], np.random.default_rng(0)
    images = [
        glyph_data._filled(*glyph_data._placed([glyph_data._curves(sans, char)], draws))
        for char in characters
    ]
    return torch.corrcoef(torch.from_numpy(np.concatenate(images)).flatten(1))


@pytest.mark.parametrize("split", SPLITS)
def test_images_are_ink_on_paper(split: Split) -> None:
    images = glyphs(split).images
    assert images.dtype == torch.float32
    assert images.shape[1:] == (N_INSTANCES, SIZE, SIZE)
    assert images.min() == 0
    assert images.max() == 1
    ink = images.mean((2, 3))
    assert ink.min() > 0.02
    assert ink.max() < 0.6
    flat = images.reshape(-1, SIZE * SIZE).numpy()
    assert len({row.tobytes() for row in flat}) == len(flat), "two images of one split are the same"


def test_splits_have_scripts_and_characters_of_their_own() -> None:
    scripts = [name for split in SPLITS for name in SCRIPTS[split]]
    characters = [char for split in SPLITS for char in glyphs(split).characters]
    assert len(set(scripts)) == len(scripts)
    assert len(set(characters)) == len(characters)
    for split in SPLITS:
        made = glyphs(split)
        assert len(made.images) == len(made.characters) == len(made.scripts)
        for char, script in zip(made.characters, made.scripts, strict=True):
            if script != "symbols":
                assert unicodedata.name(char).startswith(NAMES.get(script, script.upper()))


def test_no_two_classes_look_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    assert likeness("AΑА", monkeypatch).min() > 0.99, "Latin, Greek and Cyrillic"
    characters = [char for split in SPLITS for char in glyphs(split).characters]
    alike = likeness(characters, monkeypatch).fill_diagonal_(0)
    assert alike.max() < 0.95, [characters[k] for k in divmod(int(alike.argmax()), len(characters))]


@pytest.mark.parametrize("split", SPLITS)
def test_classes_can_be_told_apart(split: Split) -> None:
    """The nearest mean of ten images names half of the others of 20 classes, ten times chance."""
    images = glyphs(split).images[::20].flatten(2)[:20]
    means, others = images[:, ::2].mean(1), images[:, 1::2]
    nearest = torch.cdist(others.flatten(0, 1), means).argmin(1).reshape(others.shape[:2])
    right = (nearest == torch.arange(len(images))[:, None]).float().mean()
    assert right > 0.5


def test_no_class_is_the_box_of_a_missing_character() -> None:
    for font in glyph_data._fonts():
        font.load_glyph(0)
        box, _ = font.get_path()
        for split in SPLITS:
            for char in glyphs(split).characters[::10]:
                if font.get_char_index(ord(char)):
                    font.load_char(ord(char))
                    assert not np.array_equal(font.get_path()[0], box)


def test_a_font_without_the_character_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCRIPTS, "meta_test", {"Han": "漢"})
    with pytest.raises(TaskError, match=r"fonts.*lack.*U\+6F22"):
        glyphs.__wrapped__("meta_test")
    monkeypatch.setattr(glyph_data, "FONTS", ("NoSuchFont",))
    with pytest.raises(TaskError, match=r"without its font NoSuchFont\.ttf"):
        glyphs.__wrapped__("meta_valid")


def square(low: float, high: float, turn: int = 1) -> list[list[list[float]]]:
    corners = [[low, low], [high, low], [high, high], [low, high]][::turn]
    ends = zip(corners, corners[1:] + corners[:1], strict=True)
    steps = np.linspace(0, 1, glyph_data.N_PIECES + 1)[:, None]
    return [((1 - steps) * np.array(a) + steps * np.array(b)).tolist() for a, b in ends]


def test_outlines_are_filled_by_area() -> None:
    rim = glyph_data._filled(np.array(square(2.5, 13.5) + square(5, 11, -1)), np.array([0]))[0]
    assert rim.sum() == pytest.approx(11**2 - 6**2, abs=0.2)
    assert np.all(rim[5:11, 5:11] == 0), "a contour that turns the other way is a hole"
    np.testing.assert_allclose([rim[2, 2], rim[2, 4], rim[4, 4]], [0.25, 0.5, 1], atol=1 / 255)
    both = glyph_data._filled(np.array(square(2, 8) + square(4, 12)), np.array([0]))[0]
    assert both.max() == 1, "contours may overlap"
    assert both.sum() == pytest.approx(6**2 + 8**2 - 4**2)


def test_images_are_the_same_everywhere() -> None:
    """Results on glyphs can be compared as long as this holds; it has no reason to change."""
    pixels = (glyphs("meta_test").images * 255).round().to(torch.uint8)
    assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16] == "b76dff3709794a77"
