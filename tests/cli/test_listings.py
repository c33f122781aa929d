"""What the verbs that look at campaigns and registries print, in each form."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from evometa.campaign import read_baselines, read_front
from evometa.rules.hand_designed import HAND_DESIGNED
from evometa.rules.registry import RULES
from evometa.store import CampaignStore

LISTINGS = [
    "list",
    "status tiny",
    "show tiny",
    "show tiny 001-000",
    "pareto tiny",
    "tasks",
    "rules",
    "schedules",
    "estimators",
    "objectives",
]


def as_json(evometa, *words):
    outcome = evometa(*words, "--format", "json")
    assert (outcome.code, outcome.err) == (0, "")
    return json.loads(outcome.out)


@pytest.fixture
def store(finished):
    with CampaignStore.open(finished.database, readonly=True) as opened:
        yield opened


@pytest.mark.parametrize("command", LISTINGS)
def test_json_and_csv_are_all_that_is_printed(evometa, command: str) -> None:
    assert as_json(evometa, *command.split())
    outcome = evometa(*command.split(), "-f", "csv")
    header, *rows = csv.reader(io.StringIO(outcome.out))
    assert rows
    assert {len(row) for row in rows} == {len(header)}
    assert (outcome.code, outcome.err) == (0, "")


@pytest.mark.parametrize("command", LISTINGS)
def test_tables_are_never_cut_where_no_window_limits_them(evometa, command: str) -> None:
    outcome = evometa(*command.split())
    assert outcome.code == 0
    assert outcome.out
    assert "…" not in outcome.out


def test_list_names_the_campaign_and_its_best_values(evometa, store: CampaignStore) -> None:
    (row,) = as_json(evometa, "list")
    assert (row["name"], row["state"], row["generations"]) == ("tiny", "finished", 4)
    assert row["best"] == store.best_values(3)


def test_list_without_campaigns_says_how_to_begin_one(evometa, tmp_path: Path) -> None:
    outcome = evometa("list", "--storage", tmp_path / "nowhere")
    assert outcome.code == 0
    assert "evometa run" in outcome.out
    assert not (tmp_path / "nowhere").exists()


def test_list_tells_of_a_damaged_campaign_beside_the_others(evometa, finished, tmp_path: Path) -> None:
    shutil.copytree(finished.database.parent, tmp_path / "runs" / "whole")
    (tmp_path / "runs" / "torn").mkdir()
    (tmp_path / "runs" / "torn" / "campaign.db").write_bytes(finished.database.read_bytes()[:500])
    states = {row["name"]: row["state"] for row in as_json(evometa, "list", "--storage", tmp_path / "runs")}
    assert states == {"torn": "unreadable", "whole": "finished"}
    assert "truncated or damaged" in evometa("list", "--storage", tmp_path / "runs").out


def test_status_counts_what_the_store_holds(evometa, store: CampaignStore) -> None:
    facts = as_json(evometa, "status", "tiny")
    assert facts["state"] == "finished"
    assert (facts["generations"], facts["generations_planned"]) == (4, 4)
    assert facts["inner_steps"] == store.n_inner_steps()
    assert facts["genomes"] == store.n_genomes()
    assert facts["best.meta_loss"] == store.best_values(3)["meta_loss"]
    assert "4 of 4" in evometa("status", "tiny").out


def test_pareto_has_the_front_with_its_knee_then_the_baselines(evometa, store: CampaignStore) -> None:
    rows = as_json(evometa, "pareto", "tiny")
    front, baselines = read_front(store), read_baselines(store)
    evolved = [row for row in rows if row["kind"] == "evolved"]
    assert [row["id"] for row in evolved] == [genome.id for genome in front.genomes]
    assert [row["knee"] for row in evolved].index(True) == front.knee
    assert [row["family"] for row in rows[len(evolved) :]] == [one.rule for one in baselines]
    assert {row["family"] for row in rows[len(evolved) :]} == {family.name for family in HAND_DESIGNED}
    for column, values in (("meta_valid", front.values), ("meta_test", front.test_values)):
        printed = [[row[f"{o.name}.{column}"] for o in front.objectives] for row in evolved]
        np.testing.assert_array_equal(printed, values)


def test_pareto_table_has_units_and_marks_the_knee(evometa) -> None:
    table = evometa("pareto", "tiny").out
    assert "× tuned Adam" in table
    assert table.count("◆") == 1
    assert table.count("meta_test") == 1  # state is the same on both splits, so it is told once


def test_show_campaign_has_its_whole_configuration_and_every_generation(evometa, store) -> None:
    document = as_json(evometa, "show", "tiny")
    assert document["config"] == json.loads(store.config())
    assert [row["generation"] for row in document["by_generation"]] == [0, 1, 2, 3]
    assert [row["hypervolume"] for row in document["by_generation"]] == [
        record.hypervolume for record in store.generations()
    ]


def test_show_genome_explains_every_gene(evometa, store: CampaignStore) -> None:
    genome = next(one for one in store.genomes() if one.family == "recurrent")
    document = as_json(evometa, "show", "tiny", genome.id)
    genes = {row["gene"]: row["value"] for row in document["genes"]}
    assert genes == {k: list(v) if isinstance(v, tuple) else v for k, v in genome.genes.items()}
    assert all(row["allowed"] for row in document["genes"])
    assert document["weights_origin"] == genome.lineage.weights
    assert document["n_weights"] > 0
    assert "θ" in document["formula"]


def test_show_genome_draws_its_ancestors_as_a_tree(evometa, store: CampaignStore) -> None:
    genome = next(one for one in store.genomes() if one.lineage.parents)
    ancestors = [one.id for one in store.ancestors(genome.id)]
    document = as_json(evometa, "show", "tiny", genome.id)
    assert [row["id"] for row in document["ancestors"]] == ancestors
    text = evometa("show", "tiny", genome.id).out
    lineage = text[text.index("Lineage") :]
    assert genome.lineage.operator in lineage
    assert all(identity in lineage for identity in ancestors)


def test_values_of_a_front_member_are_those_of_the_front(evometa, store: CampaignStore) -> None:
    front = read_front(store)
    knee = front.genomes[front.knee]
    values = {row["purpose"]: row for row in as_json(evometa, "show", "tiny", knee.id)["values"]}
    for j, objective in enumerate(front.objectives):
        assert values["final"][objective.name] == front.values[front.knee, j]
        assert values["report"][objective.name] == front.test_values[front.knee, j]


def test_a_campaign_can_be_named_by_the_path_of_its_folder_or_database(evometa, finished) -> None:
    by_name = evometa("status", "tiny", "-f", "json").out
    for path in (finished.database, finished.database.parent):
        assert evometa("status", path, "--storage", "elsewhere", "-f", "json").out == by_name


def test_rules_tell_which_are_learned(evometa) -> None:
    learned = {row["name"]: row["learned"] for row in as_json(evometa, "rules")}
    assert learned == {name: family.learned for name, family in RULES}


def test_objectives_tell_their_units(evometa) -> None:
    units = {row["name"]: row["unit"] for row in as_json(evometa, "objectives")}
    assert units["state_floats"] == "floats/param"
