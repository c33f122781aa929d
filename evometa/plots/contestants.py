"""Who is compared in a figure: members of the front and tuned hand-designed rules, ready to be run."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import torch

from evometa.campaign.results import Front, campaign_config, stored_candidate
from evometa.genome.genome import Genome
from evometa.inner.cohort import Candidate
from evometa.inner.task_set import TaskRequest, request
from evometa.objectives.baseline import baseline_candidate
from evometa.rng import derive_seed
from evometa.store import Baseline, CampaignStore

CPU = torch.device("cpu")

#: The part someone plays in a comparison, a key of :data:`evometa.plots.style.STROKES`.
Role = Literal["best", "knee", "member", "adam", "other"]


@dataclass(frozen=True)
class Contestant:
    """One curve's subject.

    Attributes:
        label: how a legend calls it.
        role: what it stands for.
        candidates: what is run, one a task source (a tuned rule has a learning rate for each).
    """

    label: str
    role: Role
    candidates: tuple[Candidate, ...]


def front_contestants(store: CampaignStore, front: Front) -> list[Contestant]:
    """Every member of the front; one that is both best in the first objective and knee plays the best."""
    n_sources = len(campaign_config(store).tasks)
    best = front.best(front.objectives[0].name)
    found = []
    for index, genome in enumerate(front.genomes):
        role: Role = "best" if index == best else "knee" if index == front.knee else "member"
        candidate = stored_candidate(store, genome)
        found.append(Contestant(_label(genome, front, index), role, (candidate,) * n_sources))
    return found


def highlighted(store: CampaignStore, front: Front) -> list[Contestant]:
    """The best in the first objective and the knee, once where they are the same."""
    chosen = [one for one in front_contestants(store, front) if one.role != "member"]
    return sorted(chosen, key=lambda one: one.role)


def tuned_rule(store: CampaignStore, rule: str, role: Role) -> Contestant:
    """A hand-designed rule at the learning rates the campaign tuned for each of its task sources."""
    rows = _tuned(store)[rule]
    candidates = tuple(baseline_candidate(rule, row.learning_rate) for row in rows)
    return Contestant(f"tuned {rule}", role, candidates)


def best_rival(store: CampaignStore) -> str | None:
    """The hand-designed rule, Adam aside, with the least loss where it was tuned; None without any."""
    scores = {rule: _tuning_score(rows) for rule, rows in _tuned(store).items() if rule != "adam"}
    return min(scores, key=lambda rule: (scores[rule], rule)) if scores else None


def fresh_tasks(store: CampaignStore, figure: str, number: int, n_tasks: int) -> TaskRequest:
    """``n_tasks`` meta_valid tasks of source ``number`` that the campaign has not used, for ``figure``."""
    config = campaign_config(store)
    source = config.tasks[number]
    seed = derive_seed(config.seed, f"figure/{figure}/{number}")
    return request(source.use, source.options, "meta_valid", n_tasks, source.horizon + 1, seed)


def _label(genome: Genome, front: Front, index: int) -> str:
    first = front.objectives[0].name
    parts = []
    if index == front.best(first):
        parts.append(f"best {first}")
    if index == front.knee:
        parts.append("knee")
    return f"{' and '.join(parts) or 'front'} · {genome.id} {genome.family}"


def _tuned(store: CampaignStore) -> dict[str, list[Baseline]]:
    """The tuned rules by name, one row a task source, in the sources' order."""
    rows: dict[str, list[Baseline]] = defaultdict(list)
    for row in sorted(store.baselines(), key=lambda row: int(row.task)):
        rows[row.rule].append(row)
    return rows


def _tuning_score(rows: list[Baseline]) -> float:
    """Geometric mean over task sources of the score at the tuned learning rate."""
    return math.fsum(math.log(dict(row.grid)[row.learning_rate]) for row in rows) / len(rows)
