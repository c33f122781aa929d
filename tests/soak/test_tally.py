"""The soak's report."""

from __future__ import annotations

from pathlib import Path

import pytest
from soak.tally import BEGIN, END, Fault, placed, report, table

FAULTS = [
    Fault("SIGTERM driver", "evaluation", survived=True),
    Fault("SIGKILL driver", "commit", survived=True),
    Fault("SIGKILL driver", "commit", survived=False),
]


def test_faults_are_counted_by_phase_and_kind_and_the_lost_ones_apart() -> None:
    assert table(FAULTS).splitlines() == [
        "| struck in | SIGKILL driver | SIGTERM driver | injected | survived | lost |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| evaluation |  | 1 | 1 | 1 | 0 |",
        "| commit | 2 |  | 2 | 1 | 1 |",
        "| **all** | 2 | 1 | 3 | 2 | 1 |",
    ]


@pytest.mark.parametrize("fault", [("SIGSTOP driver", "commit"), ("SIGKILL driver", "lunch")])
def test_a_fault_that_no_row_or_column_is_for_is_refused(fault: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=f"{fault[0]}.*{fault[1]}"):
        table([*FAULTS, Fault(*fault, survived=True)])


def test_the_report_says_when_where_and_of_what_it_is(tmp_path: Path) -> None:
    first, *rest = report(FAULTS, ["Readers: 3."], 600.0, tmp_path).splitlines()
    assert "not under version control" in first
    assert "GiB of memory; 10 minutes." in first
    assert rest[0] == ""
    assert rest[-1] == "Readers: 3."


def test_the_report_takes_the_place_of_the_last_one_and_leaves_the_guide_alone() -> None:
    guide = f"# Guide\n\n{BEGIN}\nold\n{END}\n\nThe end.\n"
    new = placed(guide, "| new |")
    assert new == f"# Guide\n\n{BEGIN}\n| new |\n{END}\n\nThe end.\n"
    assert placed(new, "old") == guide


def test_a_guide_without_a_place_for_it_is_left_alone() -> None:
    with pytest.raises(ValueError, match="no lines"):
        placed(f"# Guide\n{BEGIN}\nhalf of it\n", "| new |")
