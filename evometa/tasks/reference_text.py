"""English text that CPython ships: the reference that ``help("TOPIC")`` prints (``pydoc_data.topics``)."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from evometa.errors import TaskError
from evometa.tasks.base import Split

#: The topics of each split. What two of them quote from each other is in the same split: the sections of a
#: long topic are topics themselves.
TOPICS: dict[Split, tuple[str, ...]] = {
    "meta_train": ("specialnames", "compound", "formatstrings", "execmodel", "assignment", "comparisons"),
    "meta_valid": ("debugger", "typesmapping", "strings", "calls", "operator-summary", "identifiers"),
    "meta_test": ("types", "typesseq", "string-methods", "import", "objects", "raise"),
}

#: Printable ASCII, so that models have the same size whatever the text of a Python version holds.
FIRST_CHARACTER, N_CHARACTERS = " ", 95

#: Typographic signs, as a typewriter has them.
_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "..."})


@cache
def reference_text(split: Split) -> Tensor:
    """The text of ``split`` as character numbers (n,), 0 to 94; every run of white space is one space.

    No paragraph is in two splits. The text differs between versions of Python. Raises TaskError where Python
    lacks it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise TaskError(
            "this Python lacks pydoc_data.topics, the text that the task family 'text' reads; install all of "
            "Python's standard library"
        ) from error
    missing = [topic for topic in TOPICS[split] if topic not in topics]
    if missing:
        raise TaskError(
            f"this Python's pydoc_data.topics lacks {missing[0]!r}, which the task family 'text' reads; "
            "use CPython 3.11 to 3.13"
        )
    others = [topic for other in TOPICS if other != split for topic in TOPICS[other]]
    elsewhere = {paragraph for topic in others for paragraph in _paragraphs(topics[topic])}
    own = [p for topic in TOPICS[split] for p in _paragraphs(topics[topic]) if p not in elsewhere]
    codes = torch.frombuffer(bytearray(" ".join(own).encode("ascii")), dtype=torch.uint8)
    return codes.long() - ord(FIRST_CHARACTER)


def _paragraphs(text: str) -> list[str]:
    plain = text.translate(_PLAIN).encode("ascii", "ignore").decode("ascii")
    return [" ".join(paragraph.split()) for paragraph in plain.split("\n\n") if paragraph.strip()]
