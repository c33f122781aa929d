"""What ``evometa show CAMPAIGN GENOME`` tells of a genome: words, formula, genes, evaluations, lineage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from math import nan

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from evometa.campaign.results import campaign_objectives, stored_candidate
from evometa.campaign.runs import Runs, objective_values
from evometa.cli.output import Column, Fact, Listing, Report, Section, printable
from evometa.evolution.search_space import full_space
from evometa.genome.genome import Genome
from evometa.rules.cost import Cost, measure_cost
from evometa.rules.learner import Learner
from evometa.store import CampaignStore, Evaluation, TaskResult
from evometa.tasks.registry import metric_of

#: Losses of a run, and how they are headed.
_TOLD = {
    "initial_loss": "at the start",
    "final_loss": "at the end",
    "valid_loss": "held out",
    "reference_loss": "tuned Adam's\nat the end",
}


def genome_report(store: CampaignStore, genome_id: str) -> Report:
    """Everything about one genome of a campaign. Raises StoreError for an id that is not there."""
    genome = store.genome(genome_id)
    weights = dict(stored_candidate(store, genome).weights)
    learner = Learner.of(genome.family, genome.genes).as_trained(weights)
    called = f" ({genome.name})" if genome.name else ""
    equal_to = store.first_with_updates_of(genome_id)
    none = "none yet" if equal_to is None else f"none: the updates are those of {equal_to}"
    return Report(
        f"Genome {genome.id}{called} of campaign {store.name}",
        _facts(genome, learner, equal_to),
        (
            Section("genes", _genes(genome)),
            Section("values", _values(store, genome, none)),
            *_metrics(store, genome),
            Section("evaluations", _evaluations(store, genome, none)),
            _lineage(store, genome),
        ),
    )


def _facts(genome: Genome, learner: Learner, equal_to: str | None) -> list[Fact]:
    try:
        cost = measure_cost(learner)
    except Exception:  # a rule of a user's own may raise anything; its evaluations say what
        cost = Cost(nan, nan, 0, nan)
    lineage = genome.lineage
    return [
        Fact("id", genome.id),
        Fact("name", genome.name),
        Fact("family", genome.family, "rule family"),
        Fact("description", learner.describe(), "what it does"),
        Fact("formula", learner.formula(), "formula"),
        Fact("operator", lineage.operator, "made by"),
        Fact("parents", lineage.parents, "parents"),
        Fact("born", lineage.generation, "born in generation"),
        Fact("weights_origin", lineage.weights, "weights"),
        Fact("weights", genome.weights),
        Fact("germline", genome.germline),
        Fact("equal_to", equal_to, "the same updates as"),
        Fact("n_weights", cost.n_weights, "number of weights"),
        Fact("state_floats_per_param", cost.state_floats_per_param, "state", _per_parameter("floats")),
        Fact("flops_per_param", cost.flops_per_param, "arithmetic", _per_parameter("FLOPs a step")),
    ]


def _per_parameter(unit: str) -> Callable[[float], str]:
    return lambda value: f"{value:.4g} {unit} for each parameter"


def _genes(genome: Genome) -> Listing:
    space = full_space(genome.family, initialisation="init" in genome.genes)
    rows = [
        {"gene": name, "value": value, "allowed": space[name].allowed, "note": space[name].note}
        for name, value in genome.genes.items()
    ]
    columns = [Column("gene"), Column("value"), Column("allowed"), Column("note", "what it sets")]
    return Listing("Genes", columns, rows)


def _values(store: CampaignStore, genome: Genome, none: str) -> Listing:
    """Objective values by purpose, pooled over all evaluations made for it."""
    objectives = campaign_objectives(store)
    by_purpose: dict[tuple[str, str], list[Evaluation]] = {}
    for evaluation in store.evaluations(genome_ids=[genome.id]):
        by_purpose.setdefault((evaluation.purpose, evaluation.split), []).append(evaluation)
    rows: list[dict[str, object]] = []
    for (purpose, split), evaluations in by_purpose.items():
        pooled = Runs.of([row for evaluation in evaluations for row in evaluation.tasks])
        (values,) = objective_values([genome], {genome.id: pooled}, objectives)
        named = {o.name: float(value) for o, value in zip(objectives, values, strict=True)}
        rows.append({"purpose": purpose, "split": split, "runs": len(pooled.status), **named})
    columns = [
        Column("purpose"),
        Column("split"),
        Column("runs"),
        *(Column(o.name, f"{o.name} [{o.unit}]" if o.unit else o.name) for o in objectives),
    ]
    return Listing("Objective values", columns, rows, empty=none)


def _metrics(store: CampaignStore, genome: Genome) -> list[Section]:
    """Means of the completed runs' losses in the units that their families tell them in, if any do."""
    pooled: dict[tuple[str, str, str], list[TaskResult]] = {}
    for evaluation in store.evaluations(genome_ids=[genome.id]):
        for run in evaluation.tasks:
            if run.status == "complete":
                pooled.setdefault((evaluation.purpose, evaluation.split, run.family), []).append(run)
    rows: list[dict[str, object]] = []
    for (purpose, split, family), runs in pooled.items():
        if (metric := metric_of(family)) is None:
            continue
        losses = {name: np.array([getattr(run, name) for run in runs]) for name in _TOLD}
        means = {name: float(metric.of(values).mean()) for name, values in losses.items()}
        named = {"purpose": purpose, "split": split, "family": family, "metric": metric.title}
        rows.append({**named, "runs": len(runs), **means})
    columns = [
        *map(Column, ("purpose", "split", "family", "metric", "runs")),
        *(Column(name, title) for name, title in _TOLD.items()),
    ]
    listing = Listing("Losses in the units of their families", columns, rows)
    return [Section("metrics", listing)] if rows else []


def _evaluations(store: CampaignStore, genome: Genome, none: str) -> Listing:
    rows = []
    for one in store.evaluations(genome_ids=[genome.id]):
        ends = Counter(task.status for task in one.tasks)
        rows.append(
            {
                "generation": one.generation,
                "split": one.split,
                "purpose": one.purpose,
                "runs": dict(ends),
                "inner_steps": one.inner_steps,
                "message": one.message,
            }
        )
    columns = [
        Column("generation"),
        Column("split"),
        Column("purpose"),
        Column("runs", "runs by status", show=_counts),
        Column("inner_steps"),
        Column("message"),
    ]
    return Listing("Evaluations", columns, rows, empty=none)


def _counts(ends: Mapping[str, int]) -> str:
    return printable(", ".join(f"{number} {status}" for status, number in ends.items()))


def _lineage(store: CampaignStore, genome: Genome) -> Section:
    """For programs every ancestor once, the youngest first; for people a tree."""
    ancestors = store.ancestors(genome.id)
    rows = [
        {
            "id": one.id,
            "family": one.family,
            "name": one.name,
            "operator": one.lineage.operator,
            "generation": one.lineage.generation,
            "parents": one.lineage.parents,
            "weights_origin": one.lineage.weights,
        }
        for one in ancestors
    ]
    columns = [Column(key) for key in rows[0]] if rows else [Column("id")]
    tree = _tree(genome, {one.id: one for one in ancestors})
    view: RenderableType = Group(Text("Lineage", style="bold"), tree)
    return Section("ancestors", Listing("Lineage", columns, rows), instead=view)


def _tree(genome: Genome, ancestors: Mapping[str, Genome]) -> Tree:
    """The genome over its parents over theirs; who stands in it already is not unfolded again."""
    root = Tree(_branch(genome))
    seen: set[str] = set()
    waiting = [(root, name) for name in reversed(genome.lineage.parents)]
    while waiting:
        branch, name = waiting.pop()
        parent = ancestors[name]
        if name in seen:
            branch.add(Text(printable(f"{name} (see above)"), style="dim"))
            continue
        seen.add(name)
        above = branch.add(_branch(parent))
        waiting += [(above, older) for older in reversed(parent.lineage.parents)]
    return root


def _branch(genome: Genome) -> Text:
    called = f" “{genome.name}”" if genome.name else ""
    weights = f" · weights {genome.lineage.weights}" if genome.weights else ""
    rest = f" {genome.family}{called} · {genome.lineage.operator}{weights}"
    return Text.assemble((printable(genome.id), "bold"), printable(rest))
