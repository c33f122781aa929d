"""Begin or continue a campaign on disk: check everything first, then hold the store while it runs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from evometa import native
from evometa.campaign.bad_rows import refuse_bad_rows
from evometa.campaign.budget import goes_on
from evometa.campaign.events import Listener, Silent
from evometa.campaign.fitness import CommonTasks, trial_runs
from evometa.campaign.ingredients import Ingredients, blamed_on
from evometa.campaign.loop import Campaign
from evometa.campaign.results import campaign_config
from evometa.campaign.runs import Runs, cost_for
from evometa.campaign.starts import common_model, may_learn_start
from evometa.config import CampaignConfig, config_to_json
from evometa.errors import ConfigError, EvometaError, StoreError, quoted
from evometa.execution import Executor, open_executor, pick_device
from evometa.inner.precision import check_precision
from evometa.inner.task_set import request
from evometa.objectives.baseline import baseline_candidate
from evometa.rng import derive_seed
from evometa.store import CampaignStore, JournalEntry, campaign_path
from evometa.tasks import SPLITS, build_family

#: Tuned baselines of all campaigns under one storage root.
BASELINE_CACHE = ".baselines.json"


def run_campaign(
    config: CampaignConfig, root: Path, *, resume: bool = False, listener: Listener | None = None
) -> Path:
    """Run the campaign of ``config`` under the storage root to its end; returns the path of its database.

    With ``resume`` one that is there is continued after its last whole generation, and a finished one is
    left as it is; one that is not there is begun. When interrupted, whole generations are kept.
    Raises, before anything is written, ConfigError for what is wrong with the configuration or differs from
    how the campaign was begun, and StoreError for one that exists (without ``resume``) or that runs. One
    that an error of evometa's ends before its first generation is removed, to be begun again when mended.
    """
    wanted, listener = config.execution, listener or Silent()
    check_precision(wanted.precision, pick_device(wanted.device))
    executor = open_executor(
        wanted.backend,
        device=wanted.device,
        workers=wanted.workers,
        precision=wanted.precision,
        max_memory_bytes=wanted.max_memory_bytes,
        seconds=wanted.timeout_seconds,
        address=wanted.address,
    )
    try:
        kernels = _kernels(executor.device, listener)
        check(config, executor)
        is_new = not os.path.isfile(campaign_path(root, config.name))
        with open_or_create(config, root, resume=resume) as store:
            for entry in kernels:
                store.note(entry)
                listener.note(entry)
            try:
                Campaign(config, store, executor, listener, cache=root / BASELINE_CACHE).run()
            except EvometaError:
                if is_new and store.last_generation() is None:
                    store.close()  # first, because SQLite cannot close a database that is gone
                    store.path.unlink()
                raise
            executor.release()
            return store.path
    except BaseException:
        executor.stop()
        raise


def _kernels(device: torch.device, listener: Listener) -> list[JournalEntry]:
    """Build the native kernels where they will be used, before there are workers that would all do so."""
    if device.type != "cpu":
        return []
    n_unbuilt = native.n_unbuilt()
    if n_unbuilt:
        listener.phase("kernels", n_unbuilt)
    return [JournalEntry("kernels", native.build_all())]


def is_finished(config: CampaignConfig, root: Path) -> bool:
    """Whether the campaign of ``config`` is there, with all the generations it asks and has a budget for.

    Raises ConfigError when it was begun otherwise.
    """
    path = campaign_path(root, config.name)
    if not os.path.isfile(path):  # unlike Path.is_file, also in a directory that may not be searched
        return False
    with CampaignStore.open(path, readonly=True) as store:
        begun = campaign_config(store)
        refuse_changes(begun, config)
        _refuse_code_of_genomes(store, config)
        return store.status() == "finished" and not goes_on(store, config)


def check(config: CampaignConfig, executor: Executor) -> None:
    """Raise ConfigError unless all that ``config`` names is there and its tasks can be trained on.

    One inner step of Adam is made on a task of every split of every source, and judged by every objective;
    data are looked through for values that are not finite.
    """
    found = Ingredients.of(config)
    objectives = found.objectives
    if may_learn_start(found.space):
        with blamed_on("genes.init"):
            common_model(config.tasks)
    reference = baseline_candidate("adam", 1e-3)
    cost = cost_for(objectives, reference.learner)
    seed = derive_seed(config.seed, "trial")
    for number, source in enumerate(config.tasks):
        with blamed_on(f"tasks.{number}"):
            build_family(source.use, source.options)
            wanted = [request(source.use, source.options, split, 1, 2, seed) for split in SPLITS]
            runs = Runs.joined(trial_runs(CommonTasks(one, reference), executor) for one in wanted)
            for one in wanted:
                refuse_bad_rows(one, executor.device)
        with blamed_on(f"objectives.use on tasks.{number} ({source.use})"):
            for objective in objectives:
                objective.strict(runs.outcomes(cost))


def open_or_create(config: CampaignConfig, root: Path, *, resume: bool = False) -> CampaignStore:
    """The store of the campaign of ``config``, open for writing; see :func:`run_campaign`."""
    path = campaign_path(root, config.name)
    if not (resume and os.path.isfile(path)):
        return CampaignStore.create(path, config_json=config_to_json(config))
    store = CampaignStore.open(path)
    try:
        begun = campaign_config(store)
        refuse_changes(begun, config)
        _refuse_code_of_genomes(store, config)
        changed = dataclasses.replace(begun, evolution=config.evolution, budget=config.budget)
        if changed != begun and (store.status() != "finished" or goes_on(store, config)):
            store.replace_config(config_to_json(changed))
    except BaseException:
        store.close()
        raise
    return store


def refuse_changes(begun: CampaignConfig, now: CampaignConfig) -> None:
    """Raise ConfigError, naming the first key, when a resumed campaign would not be the one that was begun.

    The sections ``execution`` and ``budget`` may differ, ``evolution.generations`` may grow, and the name is
    the folder's, which may have been renamed or copied.
    """
    before, after = dict(_leaves(dataclasses.asdict(begun))), dict(_leaves(dataclasses.asdict(now)))
    for key in (*before, *(key for key in after if key not in before)):
        was, is_now = before.get(key), after.get(key)
        if was == is_now or key == "name" or key.startswith(("execution.", "budget.")):
            continue
        if key == "evolution.generations":
            if now.evolution.generations > begun.evolution.generations:
                continue
            raise ConfigError(
                f"campaign {now.name!r} was begun with {key} = {was}: allowed is to raise it, not {is_now}"
            )
        raise ConfigError(
            f"campaign {now.name!r} was begun with {key} = {_text(was)}, not {_text(is_now)}; "
            "resume it as it was begun, or choose another --name"
        )


def _refuse_code_of_genomes(store: CampaignStore, config: CampaignConfig) -> None:
    """Raise StoreError where a stored genome names code that the configuration does not."""
    for family in store.families():
        if ":" in family and family not in config.evolution.families:
            raise StoreError(
                f"campaign {store.name!r} has genomes of the family {quoted(family)}, which is code that "
                "evolution.families does not name; 'evometa doctor' tells what can be kept"
            )


def _leaves(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Dotted key and value of everything in nested tables and lists."""
    if isinstance(value, Mapping):
        entries: Iterable[tuple[object, object]] = value.items()
    elif isinstance(value, Sequence) and not isinstance(value, str):
        entries = enumerate(value)
    else:
        yield key, value
        return
    for name, child in entries:
        yield from _leaves(child, f"{key}.{name}" if key else str(name))


def _text(value: object) -> str:
    return "nothing" if value is None else repr(value)
