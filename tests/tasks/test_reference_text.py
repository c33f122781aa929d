from __future__ import annotations

import pydoc_data.topics
import sys

import pytest

from evometa.errors import TaskError
from evometa.tasks import SPLITS
from evometa.tasks.reference_text import N_CHARACTERS, TOPICS, reference_text


def words(split: str) -> str:
    return "".join(chr(32 + code) for code in reference_text(split).tolist())  # type: ignore[arg-type]


def test_is_english_in_printable_ascii() -> None:
    for split in SPLITS:
        codes = reference_text(split)
        assert codes.min() >= 0
        assert codes.max() < N_CHARACTERS
        assert len(codes) > 50_000
        assert "  " not in words(split)
    assert "iterator" in words("meta_train")
    assert "breakpoint" in words("meta_valid")
    assert "immutable" in words("meta_test")


def test_splits_share_no_topic_and_hardly_a_phrase() -> None:
    topics = [topic for split in SPLITS for topic in TOPICS[split]]
    assert len(set(topics)) == len(topics)
    phrases = [{text[k : k + 60] for k in range(len(text) - 60)} for text in map(words, SPLITS)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert len(phrases[one] & phrases[other]) < 0.002 * min(len(phrases[one]), len(phrases[other]))


def test_typographic_signs_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    quoted = "“It’s”\n\nsaid – once…\n\n  twice"
    monkeypatch.setattr(
        pydoc_data.topics, "topics", {t: quoted * (t == "types") for ts in TOPICS.values() for t in ts}
    )
    codes = reference_text.__wrapped__("meta_test")
    assert "".join(chr(32 + code) for code in codes.tolist()) == '"It\'s" said - once... twice'


def test_missing_text_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydoc_data.topics, "topics", {"types": "text"})
    with pytest.raises(TaskError, match=r"lacks 'typesseq', which the task family 'text' reads"):
        reference_text.__wrapped__("meta_test")
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(TaskError, match=r"this Python lacks pydoc_data\.topics.*'text'"):
        reference_text.__wrapped__("meta_test")
