"""Is a campaign what its configuration and its genomes' families say? What ``evometa doctor`` looks at."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path

import torch

from evometa.campaign.persistence import is_known_baseline
from evometa.campaign.results import campaign_config
from evometa.campaign.starts import common_model
from evometa.config import CampaignConfig
from evometa.errors import ConfigError, EvometaError, UnknownNameError, quoted
from evometa.genome.codec import weights_from_bytes
from evometa.genome.genome import BASELINE, Genome
from evometa.rng import torch_generator
from evometa.rules.learner import Learner
from evometa.rules.registry import RULES
from evometa.store import CampaignStore
from evometa.store.examination import Finding, examine
from evometa.store.repair import Mended, repair
from evometa.tasks import TASKS

#: Names and shapes of weights.
_Shapes = Mapping[str, torch.Size]


def diagnose(path: Path) -> list[Finding]:
    """What is wrong with the campaign at ``path``; [] for a sound one. Writes nothing.

    Beside what the database says about itself: the configuration, the population's size, every genome's genes
    and the shapes of its weights. Genomes of families that are not installed here are not looked at closer.
    Raises StoreError where there is no campaign.
    """
    found = examine(path)
    if found:
        return found
    with CampaignStore.open(path, readonly=True) as store, store.snapshot():
        try:
            config = campaign_config(store)
        except ConfigError as error:
            return [Finding(str(error), "restore")]
        return [*_of_plan(store, config), *_of_baselines(store, config), *_of_genomes(store, config)]


def mend(path: Path) -> Mended | None:
    """Mend what :func:`diagnose` finds, as :func:`evometa.store.repair.repair`; None for a sound one."""
    return repair(path, diagnose)


def _of_plan(store: CampaignStore, config: CampaignConfig) -> Iterator[Finding]:
    planned = config.evolution.generations
    for record in store.generations():
        n = len(record.population)
        # Equal genomes are not evaluated: a first generation may have fewer candidates than are planned.
        wanted = min(config.evolution.population, len(record.candidates))
        if n != wanted:
            line = f"the population of generation {record.index} has {n} genomes, {wanted} are wanted"
            yield Finding(line, "roll back", record.index)
        if record.objectives != config.objectives.use:
            line = f"generation {record.index} was ranked by other objectives than the configuration's"
            yield Finding(line, "roll back", record.index)
        if record.index >= planned:
            line = f"generation {record.index} is stored, {planned} are planned"
            yield Finding(line, "roll back", record.index)


def _of_baselines(store: CampaignStore, config: CampaignConfig) -> Iterator[Finding]:
    for row in store.baselines():
        if not is_known_baseline(row, len(config.tasks)):
            line = f"a baseline is of the rule {quoted(row.rule)} and source {quoted(row.task)}, one unknown"
            yield Finding(line, "roll back", 0)


def _of_genomes(store: CampaignStore, config: CampaignConfig) -> Iterator[Finding]:
    expected: dict[Hashable, _Shapes] = {}
    start = None
    for genome in store.genomes():
        if ":" in genome.family and genome.family not in config.evolution.families:
            generation = genome.lineage.generation
            line = f"genome {genome.id} of generation {generation} is of the family {quoted(genome.family)}"
            yield Finding(f"{line}, which the configuration does not name", "roll back", generation)
            continue
        if genome.lineage.operator == BASELINE or genome.family not in RULES:
            continue  # code that a database names is not imported to look at it
        if genome.genes.get("init") == "learned" and start is None:
            if any(source.use not in TASKS for source in config.tasks):
                continue  # nor are tasks, whose model such weights have to fit
            start = common_model(config.tasks).draw_params(torch_generator(0, "doctor"))
        try:
            problem = _problem(store, genome, expected, start)
        except UnknownNameError:  # a schedule that is not installed here
            continue
        if problem:
            generation = genome.lineage.generation
            yield Finding(
                f"genome {genome.id} of generation {generation}: {problem}", "roll back", generation
            )


def _problem(
    store: CampaignStore, genome: Genome, expected: dict[Hashable, _Shapes], start: torch.Tensor | None
) -> str:
    """What is wrong with a genome; "" where nothing is."""
    try:
        learner = Learner.of(genome.family, genome.genes)
        if learner.structure not in expected:
            fresh = learner.init_weights(torch_generator(0, "doctor"), start)
            expected[learner.structure] = {name: value.shape for name, value in fresh.items()}
        for name in {genome.weights, genome.germline} - {None}:
            stored = weights_from_bytes(store.weights_bytes(str(name)))
            if {own: value.shape for own, value in stored.items()} != expected[learner.structure]:
                return f"the weights {str(name)[:12]}… are not of its structure"
    except UnknownNameError:
        raise
    except EvometaError as error:
        return str(error)
    if genome.weights is None and expected[learner.structure]:
        return "it has no weights"
    return ""
