"""Every figure of every kind of campaign becomes files; what cannot be drawn says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

from evometa.errors import EvometaError, StoreError, UnknownNameError
from evometa.plots import FIGURES, draw
from evometa.store import CampaignStore

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("name", FIGURES.names())
def test_a_figure_is_written_as_png_and_svg(name: str, small: CampaignStore, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    files = draw(name, small, tmp_path / "new" / "folder")
    assert [file.name for file in files] == [f"{name}.png", f"{name}.svg"]
    assert files[0].read_bytes().startswith(PNG_SIGNATURE)
    drawing = files[1].read_text(encoding="utf-8")
    assert ElementTree.fromstring(drawing).tag.endswith("svg")
    assert "<!-- small · 3 generations -->" in drawing  # matplotlib notes every text in a comment
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("campaign", ["unfinished", "single"])
@pytest.mark.parametrize("name", FIGURES.names())
def test_every_kind_of_campaign_can_be_drawn(
    name: str, campaign: str, open_store: Callable[[str], CampaignStore]
) -> None:
    figure = FIGURES[name].draw(open_store(campaign))
    figure.draw_without_rendering()
    assert all(axes.has_data() for axes in figure.axes if axes.axison)
    assert figure.texts[0].get_text()


def test_the_note_says_how_far_an_interrupted_campaign_had_come(
    unfinished: CampaignStore, tmp_path: Path
) -> None:
    drawing = draw("hypervolume_history", unfinished, tmp_path)[1].read_text(encoding="utf-8")
    assert "<!-- unfinished · 2 of 9 generations so far -->" in drawing


def test_equal_figures_are_equal_files(small: CampaignStore, tmp_path: Path) -> None:
    first, second = (draw("genealogy", small, tmp_path / run) for run in ("first", "second"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_an_unknown_figure_names_the_closest(small: CampaignStore, tmp_path: Path) -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown figure 'paretofront'; did you mean 'pareto_front'\?"
    ):
        draw("paretofront", small, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_figure_is_refused(small: CampaignStore, tmp_path: Path) -> None:
    with pytest.raises(EvometaError, match="figure 'math:pi' is float, expected a CampaignFigure"):
        draw("math:pi", small, tmp_path)


@pytest.mark.parametrize("name", FIGURES.names())
def test_a_campaign_without_generations_cannot_be_drawn(
    name: str, empty: CampaignStore, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="campaign 'empty' has no finished generation yet"):
        draw(name, empty, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file_is_an_error(small: CampaignStore, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(EvometaError, match=r"cannot write to .*out: File exists; give another folder"):
        draw("genealogy", small, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "in the way"


def test_every_figure_has_a_line_for_listings() -> None:
    for name, figure in FIGURES:
        assert figure.name == name
        assert figure.summary
        assert "\n" not in figure.summary
