"""Campaigns that are killed again and again lose nothing. With ``make soak``."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from soak.campaigns import KINDS
from soak.trial import Trial

#: How many faults strike each kind of campaign in each phase; more may strike where nobody aimed.
SHARES = {
    "start-up": 1,
    "creation": 1,
    "migration": 6,
    "refinement": 6,
    "evaluation": 5,
    "commit": 7,
    "final": 1,
    "anywhere": 2,
}


def shares(name: str) -> dict[str, int]:
    """Those of a kind of campaign."""
    if not KINDS[name].learns:  # there is no refinement to strike
        return {**SHARES, "refinement": 0, "evaluation": 9}
    if KINDS[name].workers:  # a driver that starts workers takes longer
        return {**SHARES, "migration": 3, "commit": 3, "anywhere": 1}
    return SHARES


def test_the_soak_strikes_as_often_as_is_promised() -> None:
    planned = [shares(name) for name in KINDS]
    assert sum(sum(plan.values()) for plan in planned) >= 200
    for phase in ("evaluation", "refinement", "commit", "migration"):
        assert sum(plan[phase] for plan in planned) >= 30


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", KINDS)
def test_a_campaign_that_is_struck_again_and_again_finds_what_an_undisturbed_one_does(
    name: str, tmp_path: Path, record_property: Any
) -> None:
    trial = Trial(KINDS[name], tmp_path, random.Random(name))
    trial.measure()
    trial.strike(shares(name))
    record_property("faults", [list(fault) for fault in trial.faults])
    assert trial.problems == []
