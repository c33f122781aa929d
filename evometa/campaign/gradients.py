"""Which task sources of a campaign have their gradients compiled: chosen once, by the driver, and noted.

Eager and compiled gradients differ in their last digits. So workers are told which to compute, and a campaign
that goes on does as its journal says.
"""

from __future__ import annotations

from dataclasses import asdict

from evometa.campaign.baselines import hand_designed
from evometa.campaign.events import Listener
from evometa.campaign.ingredients import blamed_on
from evometa.config import CampaignConfig, TaskSource
from evometa.errors import TaskError
from evometa.evolution.reproduction import Child, first_generation
from evometa.evolution.search_space import SearchSpace
from evometa.execution import Executor
from evometa.inner.gradient_choice import (
    N_CANDIDATES,
    GradientChoice,
    choose,
    has_choice,
    time_compiled,
    time_eager,
)
from evometa.inner.task_set import PreparedTasks, prepare, request
from evometa.meta import ESTIMATORS, meta_genes
from evometa.meta.genes import whole
from evometa.rng import derive_seed
from evometa.rules.learner_structure import has_weights
from evometa.store import CampaignStore, JournalEntry
from evometa.tasks.base import Split
from evometa.tasks.options import described


def settle_gradients(
    config: CampaignConfig, space: SearchSpace, store: CampaignStore, executor: Executor, listener: Listener
) -> frozenset[int]:
    """Numbers of the sources whose gradients are compiled: as the journal says, or chosen and noted there.

    Raises ConfigError, naming the source, when its tasks cannot be drawn.
    """
    numbers = range(len(config.tasks))
    if store.last_generation() is not None:
        noted = {entry.topic: entry.data for entry in store.journal()}
        return frozenset(n for n in numbers if noted.get(_topic(n), {}).get("compiled"))
    if executor.device.type != "cpu" or executor.precision == "bfloat16":
        return frozenset()  # a GPU replays recorded steps instead, and autocast needs the loss itself
    first = first_generation(space, (), config.evolution.population, config.seed)
    compiled = set()
    for number in numbers:
        n_calls = planned_calls(config, config.tasks[number], first)
        with blamed_on(f"tasks.{number}"):
            choice = _choice(config, config.tasks[number], n_calls, executor, listener)
        if choice is None:
            continue
        entry = JournalEntry(_topic(number), choice.line(), asdict(choice))
        store.note(entry)
        listener.note(entry)
        if choice.compiled:
            compiled.add(number)
    return frozenset(compiled)


def planned_calls(config: CampaignConfig, source: TaskSource, first: list[Child]) -> int:
    """About how many gradients, of N_CANDIDATES on ``source.n_tasks`` tasks each, the campaign will compute.

    Everyone is evaluated when born and in each later generation in which it lives. ``first`` are the children
    of one generation, whose meta-training stands for that of all.
    """
    evolution, n_rules = config.evolution, len(hand_designed())
    trainings = (2 * evolution.generations - 1) * evolution.population * source.n_tasks
    trainings += n_rules * config.baseline.n_points * config.baseline.n_tasks
    trainings += n_rules * (config.final.n_tasks + config.final.test_tasks)
    meta_steps = evolution.generations * sum(map(_refinement_steps, first)) / len(config.tasks)
    steps = trainings * (source.horizon + 1) + meta_steps * config.refinement.n_tasks
    return round(steps / (source.n_tasks * N_CANDIDATES))


def _refinement_steps(child: Child) -> int:
    """Inner steps on each task of a child's meta-training."""
    if not has_weights(child.family, child.genes) or child.genes["meta.write_back"] == "none":
        return 0
    genes = meta_genes(child.genes)
    n_trainings = ESTIMATORS[str(genes["meta.estimator"])].footprint(genes).n_trainings
    return whole(genes, "meta.steps") * whole(genes, "meta.truncation") * n_trainings


def _choice(
    config: CampaignConfig, source: TaskSource, n_calls: int, executor: Executor, listener: Listener
) -> GradientChoice | None:
    """The choice for one source; None where there is nothing to choose."""
    samples = [_sample(config, source, split, executor) for split in ("meta_train", "meta_valid")]
    if not has_choice(samples):
        return None

    def compiled_seconds() -> tuple[float, float]:
        listener.phase("compilation", 1)
        return time_compiled(samples[0])

    def eager_seconds() -> float:
        try:
            return time_eager(samples[0])
        except Exception as error:  # user code may raise anything; the cause is named and chained
            what = f"tasks {source.use!r} (meta_train) cannot be trained on"
            raise TaskError(f"{what}: {described(error)}") from error

    mode = config.execution.compile
    return choose(source.use, mode, n_calls, executor.n_workers, eager_seconds, compiled_seconds)


def _sample(
    config: CampaignConfig, source: TaskSource, split: Split, executor: Executor
) -> tuple[PreparedTasks, ...]:
    seed = derive_seed(config.seed, "gradients", split)
    return prepare(request(source.use, source.options, split, source.n_tasks, 1, seed), executor.device)


def _topic(number: int) -> str:
    return f"gradient.{number}"
