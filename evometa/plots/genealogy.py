"""The family tree of the front: who descends from whom, and by which operator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from evometa.campaign.results import read_front
from evometa.genome.genome import Genome
from evometa.plots.style import (
    GREY,
    PALE,
    PALETTE,
    STROKES,
    Stroke,
    family_mark,
    house_style,
    legend_above,
    new_figure,
)
from evometa.store import CampaignStore

#: Operator → how the line from parent to child is drawn; one that is not known here as a mutation.
OPERATORS = {
    "mutation": Stroke(GREY, "-", 1.1),
    "crossover": Stroke(PALETTE[3], "-", 1.3),
    "continuation": Stroke(PALETTE[5], (0, (3, 1)), 1.6),
    "family_change": Stroke(PALETTE[4], (0, (1, 1)), 1.6),
}
_SWEEPS = 20
_INCHES_PER_LANE = 0.24


@dataclass(frozen=True)
class Ancestor:
    """A member of the front or one of its ancestors.

    Attributes:
        id, family, name, operator: of the genome; ``operator`` made it.
        born: its generation.
        until: the last generation in which it is on a line of the tree: when its last child here was
            bred, or for a member of the front the campaign's last generation.
        lane: where it is drawn; two that share one are never there at the same time.
        in_front: whether it is a member of the front.
    """

    id: str
    family: str
    name: str
    operator: str
    born: int
    until: int
    lane: int
    in_front: bool


@dataclass(frozen=True)
class Descent:
    """A line of the tree, ``parent`` → ``child`` by ``operator``; ``main`` for the child's first parent."""

    parent: str
    child: str
    operator: str
    main: bool


@dataclass(frozen=True)
class GenealogyData:
    """The tree above a front: its nodes in order of birth, its lines, its knee, the last generation."""

    nodes: list[Ancestor]
    lines: list[Descent]
    knee: str
    last_generation: int
    n_genomes: int


def genealogy_data(store: CampaignStore) -> GenealogyData:
    """The front of a campaign and all its ancestors. Raises StoreError before the first generation."""
    front = read_front(store)
    last = len(store.generations()) - 1
    members = {genome.id for genome in front.genomes}
    family = {genome.id: genome for genome in front.genomes}
    for genome in front.genomes:
        family.update((ancestor.id, ancestor) for ancestor in store.ancestors(genome.id))
    genomes = sorted(family.values(), key=lambda genome: (genome.lineage.generation, genome.id))
    lines = [
        Descent(parent, genome.id, genome.lineage.operator, place == 0)
        for genome in genomes
        for place, parent in enumerate(genome.lineage.parents)
    ]
    until = {genome.id: last if genome.id in members else genome.lineage.generation for genome in genomes}
    for line in lines:
        until[line.parent] = max(until[line.parent], family[line.child].lineage.generation - 1)
    lanes = assign_lanes(genomes, until)
    nodes = [
        Ancestor(
            id=genome.id,
            family=genome.family,
            name=genome.name,
            operator=genome.lineage.operator,
            born=genome.lineage.generation,
            until=until[genome.id],
            lane=lanes[genome.id],
            in_front=genome.id in members,
        )
        for genome in genomes
    ]
    evaluated = {candidate.genome_id for record in store.generations() for candidate in record.candidates}
    return GenealogyData(nodes, lines, front.genomes[front.knee].id, last, len(evaluated))


def assign_lanes(genomes: Sequence[Genome], until: Mapping[str, int]) -> dict[str, int]:
    """A lane for each genome so that no two overlap in time on one, near to parents and children.

    Each in order of birth takes the free lane nearest to its parents'; then, a few times over, each moves
    to the free lane that is nearest to its relatives.
    """
    span = {genome.id: (genome.lineage.generation, until[genome.id]) for genome in genomes}
    relatives: dict[str, list[str]] = defaultdict(list)
    for genome in genomes:
        for parent in genome.lineage.parents:
            relatives[genome.id].append(parent)
            relatives[parent].append(genome.id)
    occupied: dict[int, set[str]] = defaultdict(set)
    lanes: dict[str, int] = {}

    def is_free(lane: int, identity: str) -> bool:
        start, end = span[identity]
        return all(end < span[other][0] or span[other][1] < start for other in occupied[lane])

    def move(identity: str, n_lanes: int) -> None:
        near = [lanes[other] for other in relatives[identity] if other in lanes]
        wanted = sum(near) / len(near) if near else n_lanes
        if identity in lanes:
            occupied[lanes[identity]].discard(identity)
        free = [lane for lane in range(n_lanes + 1) if is_free(lane, identity)]
        lane = min(free, key=lambda lane: (abs(lane - wanted), lane))
        lanes[identity] = lane
        occupied[lane].add(identity)

    for genome in genomes:
        move(genome.id, len(set(lanes.values())))
    for _ in range(_SWEEPS):
        for genome in reversed(genomes):
            move(genome.id, max(lanes.values()))
    used = {lane: place for place, lane in enumerate(sorted(set(lanes.values())))}
    return {identity: used[lane] for identity, lane in lanes.items()}


@house_style()
def plot_genealogy(data: GenealogyData) -> Figure:
    """Generations from left to right; a genome lives on its lane as long as it still had children."""
    n_lanes = max(node.lane for node in data.nodes) + 1
    n_front = sum(node.in_front for node in data.nodes)
    n_roots = len({node.id for node in data.nodes} - {line.child for line in data.lines})
    figure = new_figure(
        9.0,
        max(3.4, 1.5 + _INCHES_PER_LANE * n_lanes),
        f"Where the front comes from: members ({n_front}) and ancestors ({len(data.nodes) - n_front})",
        f"Of {data.n_genomes} genomes in all; {n_roots} of those shown had no parents. A pale line is a "
        "genome's life until its last child in this picture was bred.",
    )
    axes = figure.subplots()
    at = {node.id: node for node in data.nodes}
    for line in data.lines:
        _draw_line(axes, at[line.parent], at[line.child], line)
    for node in data.nodes:
        _draw_node(axes, node, is_knee=node.id == data.knee, last=data.last_generation)
    axes.set_ylim(n_lanes - 0.4, -0.6)
    axes.set_xlim(-0.4, data.last_generation + 0.25)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(16, integer=True))
    axes.set_xlabel("generation of birth")
    legend_above(axes, _legend(data), n_columns=6)
    return figure


def _draw_line(axes: Axes, parent: Ancestor, child: Ancestor, line: Descent) -> None:
    stroke = OPERATORS.get(line.operator, OPERATORS["mutation"])
    start = max(parent.born, child.born - 1)
    t = np.linspace(0.0, 1.0, 24)
    bend = t * t * (3 - 2 * t)
    axes.plot(
        start + t * (child.born - start),
        parent.lane + bend * (child.lane - parent.lane),
        color=stroke.colour,
        ls=stroke.dash,
        lw=stroke.width if line.main else 0.7 * stroke.width,
        alpha=1.0 if line.main else 0.7,
        zorder=2,
    )


def _draw_node(axes: Axes, node: Ancestor, *, is_knee: bool, last: int) -> None:
    mark = family_mark(node.family)
    axes.plot([node.born, node.until], [node.lane] * 2, color=PALE, lw=1.0, zorder=1)
    axes.plot(node.born, node.lane, mark.marker, ms=7.5, color=mark.colour, mec="white", mew=0.5, zorder=4)
    if is_knee:
        ring = STROKES["knee"].colour
        axes.plot(node.born, node.lane, "o", ms=13, mfc="none", mec=ring, mew=1.6, zorder=5)
    if node.name and node.operator == "seed":
        axes.annotate(
            node.name,
            (node.born, node.lane),
            xytext=(-9, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=7.5,
        )
    if node.in_front:
        text = f"{node.id} {node.name or node.family}" + (" (knee)" if is_knee else "")
        weight = "bold" if is_knee else "normal"
        axes.annotate(
            text,
            (last, node.lane),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            fontweight=weight,
            annotation_clip=False,
        )


def _legend(data: GenealogyData) -> list[Line2D]:
    handles = []
    for family in dict.fromkeys(node.family for node in data.nodes):
        mark = family_mark(family)
        handles.append(
            Line2D([], [], linestyle="none", marker=mark.marker, color=mark.colour, label=family, ms=6.5)
        )
    for name, stroke in OPERATORS.items():
        if any(line.operator == name for line in data.lines):
            label = f"by {name.replace('_', ' ')}"
            handles.append(Line2D([], [], color=stroke.colour, ls=stroke.dash, lw=stroke.width, label=label))
    handles.append(
        Line2D(
            [], [], linestyle="none", marker="o", mfc="none", mec=STROKES["knee"].colour, ms=10, label="knee"
        )
    )
    return handles
