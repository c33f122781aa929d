"""The tree holds the front's ancestors, nothing else, and never two genomes in one place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evometa.campaign import read_front
from evometa.genome.genome import Genome, Lineage
from evometa.plots.genealogy import assign_lanes, genealogy_data, plot_genealogy
from evometa.store import CampaignStore


def test_the_nodes_are_the_front_and_its_ancestors(small: CampaignStore) -> None:
    data = genealogy_data(small)
    front = {genome.id for genome in read_front(small).genomes}
    ancestors = {one.id for identity in front for one in small.ancestors(identity)}
    assert {node.id for node in data.nodes} == front | ancestors
    assert {node.id for node in data.nodes if node.in_front} == front
    assert data.knee in front
    assert data.last_generation == 2
    assert data.n_genomes == 18
    assert len(data.nodes) > len(front)  # the campaign has bred


def test_the_lines_are_the_stored_lineages(small: CampaignStore) -> None:
    data = genealogy_data(small)
    stored = {genome.id: genome for genome in small.genomes()}
    expected = {
        (parent, node.id, stored[node.id].lineage.operator)
        for node in data.nodes
        for parent in stored[node.id].lineage.parents
    }
    assert {(line.parent, line.child, line.operator) for line in data.lines} == expected
    for line in data.lines:
        assert line.main == (stored[line.child].lineage.parents[0] == line.parent)


def test_a_parent_lives_until_its_children_are_bred(small: CampaignStore) -> None:
    data = genealogy_data(small)
    nodes = {node.id: node for node in data.nodes}
    for line in data.lines:
        assert nodes[line.parent].born < nodes[line.child].born
        assert nodes[line.parent].until >= nodes[line.child].born - 1
    for node in data.nodes:
        assert node.born <= node.until <= data.last_generation
        assert node.until == data.last_generation or not node.in_front


@st.composite
def genealogies(draw: st.DrawFn) -> tuple[list[Genome], dict[str, int]]:
    """Genomes in order of birth with up to two earlier parents, and how long each lives."""
    genomes: list[Genome] = []
    for generation in range(draw(st.integers(1, 5))):
        born = []
        for index in range(draw(st.integers(1, 5))):
            parents = draw(st.lists(st.sampled_from(genomes), max_size=2, unique_by=id)) if genomes else []
            lineage = Lineage(tuple(parent.id for parent in parents), "crossover", generation)
            born.append(Genome(f"{generation:03d}-{index:03d}", "sgd", {}, lineage=lineage))
        genomes += born
    until = {g.id: draw(st.integers(g.lineage.generation, 5)) for g in genomes}
    return genomes, until


@given(genealogies())
def test_no_two_genomes_share_a_lane_at_one_time(family: tuple[list[Genome], dict[str, int]]) -> None:
    genomes, until = family
    lanes = assign_lanes(genomes, until)
    assert set(lanes) == {genome.id for genome in genomes}
    places = [
        (lanes[genome.id], generation)
        for genome in genomes
        for generation in range(genome.lineage.generation, until[genome.id] + 1)
    ]
    assert len(places) == len(set(places))
    assert set(lanes.values()) == set(range(max(lanes.values()) + 1))  # no lane is left empty


def test_a_single_ancestor_without_children_is_a_tree_too(single: CampaignStore) -> None:
    data = genealogy_data(single)
    assert [node.lane for node in data.nodes] == [0]
    assert data.lines == []
    figure = plot_genealogy(data)
    assert any(data.knee in text.get_text() for text in figure.axes[0].texts)
