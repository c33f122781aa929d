"""``evometa doctor``: what a user reads about a sound, a damaged and a mended campaign."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from evometa.store import content_digest


@pytest.fixture
def copied(finished, fresh_storage: Path) -> Path:
    """The database of a copy of the tiny campaign, to be damaged."""
    target = fresh_storage / "tiny"
    shutil.copytree(finished.database.parent, target)
    return target / "campaign.db"


def alter(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(statement).rowcount, "the campaign has nothing of the kind"
        connection.commit()


def test_a_sound_campaign(evometa, finished) -> None:
    done = evometa("doctor", finished.name, "--storage", finished.storage)
    assert (done.code, done.err) == (0, "")
    assert done.out == "Campaign tiny: sound (4 generations, 16 genomes)\n"


#: SQL → the first generation to compute again, words of what is said.
DAMAGE = {
    "UPDATE weights SET data = substr(data, 1, length(data) - 1) "
    "WHERE hash = (SELECT germline FROM genomes WHERE generation = 1 AND germline IS NOT NULL LIMIT 1)": (
        1,
        "do not match their hash",
    ),
    "UPDATE genomes SET genes = json_set(genes, '$.lr', 'fast') WHERE id = '003-001'": (3, "003-001"),
    "UPDATE genomes SET genes = json_set(genes, '$.colour', 'red') WHERE id = '001-000'": (1, "'colour'"),
    "DELETE FROM candidates WHERE generation = 1": (1, "generation 1 has 0 candidates"),
}


@pytest.mark.parametrize("statement", DAMAGE)
def test_damage_is_told_mended_and_computed_again(
    statement: str, evometa, finished, copied: Path, fresh_storage: Path
) -> None:
    first, words = DAMAGE[statement]
    alter(copied, statement)
    told = evometa("doctor", "tiny", "--storage", fresh_storage)
    assert told.code == 1
    assert words in told.out
    assert f"keeps the generations before {first}" in told.out
    mended = evometa("doctor", "tiny", "--storage", fresh_storage, "--repair")
    assert mended.code == 0
    assert f"Mended: rolled back to generation {first - 1}" in mended.out
    assert f"The file as it was: {copied}.found-1" in mended.out
    assert evometa("doctor", "tiny", "--storage", fresh_storage).code == 0
    assert evometa("run", finished.experiment, "--storage", fresh_storage, "--resume").code == 0
    assert content_digest(copied) == content_digest(finished.database)


def test_a_file_that_was_cut_off(evometa, finished, copied: Path, fresh_storage: Path) -> None:
    data = copied.read_bytes()
    copied.write_bytes(data[: 3 * len(data) // 4])
    refused = evometa("status", "tiny", "--storage", fresh_storage)
    assert refused.code == 2
    assert "'evometa doctor' tells what can be kept" in refused.err
    told = evometa("doctor", "tiny", "--storage", fresh_storage)
    assert told.code == 1
    assert "keeps the generations that can be read" in told.out
    assert "read out of the damaged file" in evometa("doctor", copied, "--repair").out
    assert evometa("run", finished.experiment, "--storage", fresh_storage, "--resume").code == 0
    assert content_digest(copied) == content_digest(finished.database)


def test_a_configuration_that_cannot_be_read_is_no_case_for_repair(evometa, copied: Path) -> None:
    alter(copied, "UPDATE campaign SET config = '{\"tasks\": 3}'")
    told = evometa("doctor", copied)
    assert told.code == 1
    assert "Restore" in told.out
    mended = evometa("doctor", copied, "--repair")
    assert mended.code == 2
    assert "cannot be mended" in mended.err
    assert "Traceback" not in mended.err


def test_a_campaign_that_is_not_there(evometa, fresh_storage: Path) -> None:
    done = evometa("doctor", "nothing", "--storage", fresh_storage)
    assert done.code == 2
    assert "unknown campaign 'nothing'" in done.err
