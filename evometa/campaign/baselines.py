"""Tuned baselines of a campaign's task sources, kept between campaigns in a small JSON file."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

from evometa.campaign.blame import on_which_tasks
from evometa.campaign.events import Listener
from evometa.campaign.ingredients import blamed_on
from evometa.config import CampaignConfig, TaskSource
from evometa.errors import TaskError
from evometa.execution import Executor, TuningUnit
from evometa.genome.genome import Genome
from evometa.inner.modes import Precision
from evometa.inner.task_set import TaskRequest, request
from evometa.objectives.baseline import (
    TunedBaseline,
    baseline_candidate,
    baseline_from_json,
    baseline_to_json,
)
from evometa.rng import derive_seed
from evometa.rules.hand_designed import HAND_DESIGNED
from evometa.tasks.registry import TASKS

#: Seed of the tuning tasks. Not the campaign's: all campaigns on one family share the yardstick.
_TUNING_SEED = derive_seed(0, "baseline tuning")
#: Of a rule that is to show on which tasks it fails.
_RATE = 1e-3


def hand_designed() -> list[str]:
    """The rules that serve as baselines: those of the table, which are for any loss."""
    return [family.name for family in HAND_DESIGNED]


def tuned_baselines(
    config: CampaignConfig,
    executor: Executor,
    cache: Path | None,
    listener: Listener,
    compiled: Collection[int] = (),
) -> list[dict[str, TunedBaseline]]:
    """For each task source, every hand-designed rule with its tuned learning rate.

    ``cache`` is a JSON file that is read and added to; None keeps nothing. Only families that come with
    evometa are cached: a user's code may change under the same name. Raises ConfigError, naming the
    source, when its tasks cannot be trained on at all. ``compiled`` are the numbers of the sources whose
    gradients are compiled.
    """
    known = _read(cache)
    found: list[dict[str, TunedBaseline]] = []
    for number, source in enumerate(config.tasks):
        wanted = _tuning_tasks(config, source, number in compiled)
        units = [TuningUnit(rule, wanted, config.baseline.n_points) for rule in hand_designed()]
        keys = {unit: _key(unit, executor.precision) for unit in units}
        missing = [unit for unit in units if keys[unit] not in known or not _cacheable(source)]
        listener.phase("baselines", len(missing))
        with blamed_on(f"tasks.{number}"):
            for unit, result in zip(missing, executor.run(missing, listener.unit), strict=True):
                if not isinstance(result.value, TunedBaseline):
                    which = on_which_tasks(result, baseline_candidate(unit.rule, _RATE), wanted, executor)
                    raise TaskError(
                        f"tasks {source.use!r} (meta_train) cannot be trained on: {result.message}{which}"
                    )
                known[keys[unit]] = result.value
        found.append({unit.rule: known[keys[unit]] for unit in units})
        if missing and cache is not None and _cacheable(source):
            _write(cache, known)
    return found


def with_tuned_rates(
    seeds: Sequence[Genome], baselines: Sequence[Mapping[str, TunedBaseline]]
) -> list[Genome]:
    """Seed genomes whose hand-designed rule starts at its tuned learning rate.

    With several task sources it is the geometric mean of theirs. Other seeds stay as they are.
    """
    tuned = []
    for seed in seeds:
        rates = [by_rule[seed.family].lr for by_rule in baselines if seed.family in by_rule]
        if rates:
            mean = math.exp(sum(map(math.log, rates)) / len(rates))
            seed = replace(seed, genes={**seed.genes, "lr": mean})
        tuned.append(seed)
    return tuned


def _tuning_tasks(config: CampaignConfig, source: TaskSource, compiled: bool) -> TaskRequest:
    n_tasks, n_steps = config.baseline.n_tasks, source.horizon + 1
    return request(source.use, source.options, "meta_train", n_tasks, n_steps, _TUNING_SEED, compiled)


def _cacheable(source: TaskSource) -> bool:
    return source.use in TASKS.built_in


def _key(unit: TuningUnit, precision: Precision) -> str:
    """Names everything the result depends on, the versions that computed it included."""
    facts = [unit.rule, asdict(unit.wanted), unit.n_points, precision, *_versions()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=1)
def _versions() -> list[str]:
    """Asked for once: metadata of packages is read from their files."""
    packages = [importlib.metadata.version(name) for name in ("evometa", "torch", "scikit-learn")]
    return [platform.python_version(), *packages]  # the task family "text" reads what Python ships


def _read(cache: Path | None) -> dict[str, TunedBaseline]:
    """What the cache holds; a baseline that cannot be read is missing, so it is tuned and written again."""
    if cache is None:
        return {}
    try:
        document = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known: dict[str, TunedBaseline] = {}
    for key, entry in document.items() if isinstance(document, dict) else ():
        with suppress(ValueError):
            known[key] = baseline_from_json(entry)
    return known


def _write(cache: Path, known: Mapping[str, TunedBaseline]) -> None:
    partial = cache.with_name(f"{cache.name}.{os.getpid()}.partial")  # another campaign may write it too
    document = {key: baseline_to_json(baseline) for key, baseline in known.items()}
    with suppress(OSError):  # without it the next campaign tunes again, which is no reason to end this one
        try:
            partial.write_text(json.dumps(document), encoding="utf-8")
            partial.replace(cache)
        finally:
            partial.unlink(missing_ok=True)
