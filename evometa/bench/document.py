"""The bench as a JSON document: everything that was found, and all that is needed to find it again.

Equal specs give equal documents on one machine, but for what stands under ``seconds``.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch

from evometa.bench.baselines import named
from evometa.bench.figures import TARGET_AT, BenchFigures, Figures
from evometa.bench.generalisation import GeneralisationRow
from evometa.bench.measure import ADAM_STEPS, Results
from evometa.bench.metrics import final_metrics
from evometa.bench.spec import BenchSpec, GenomeFile
from evometa.bench.speedup import DECAY
from evometa.bench.speedup_estimates import Bounded
from evometa.bench.statistics import Estimate
from evometa.bench.timing import StepTime
from evometa.tasks.registry import metric_of

FORMAT = "evometa.bench"
#: Counts changes of what the keys mean.
VERSION = 1


def document(
    results: Results,
    found: BenchFigures,
    rows: Sequence[GeneralisationRow],
    times: Mapping[str, StepTime],
    *,
    device: torch.device,
    command: str = "",
) -> dict[str, object]:
    """Plain JSON data; numbers that are not finite are null."""
    spec = results.spec
    genomes = {genome.label: genome for genome in spec.genomes}
    whole: dict[str, object] = {
        "format": FORMAT,
        "version": VERSION,
        "command": command,
        "versions": _versions(results),
        "machine": machine(device),
        "settings": _settings(spec),
        "pool": found.pool,
        "tasks": [
            {"task": task.label, "family": task.family, "source": task.source, "target": float(target),
             "metric": metric.title if (metric := metric_of(task.family)) else None}
            for task, target in zip(results.tasks, found.targets, strict=True)
        ],
        "entrants": [_entrant(results, one, genomes.get(one.entry.label)) for one in found.entrants],
        "generalisation": [asdict(row) for row in rows],
        "seconds": {
            one.label: {
                "all_runs": one.seconds,
                "step": times[one.label].step,
                "forward_and_backward": times[one.label].gradient,
                "overhead": times[one.label].overhead,
            }
            for one in results.entries
        },
    }  # fmt: skip
    return {key: plain(value) for key, value in whole.items()}


def machine(device: torch.device) -> dict[str, object]:
    """What computed, as far as it bears upon results."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "device": device.type,
        "gpu": gpu,
    }


def plain(value: object) -> object:
    """``value`` as JSON carries it."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _:
            return value


def _versions(results: Results) -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in ("evometa", "torch", "numpy")}
    for name in results.spec.rivals:
        found |= named(name).versions()
    return dict(sorted(found.items()))


def _settings(spec: BenchSpec) -> dict[str, object]:
    return {
        "sources": [{"use": source.use, "options": source.options} for source in spec.sources],
        "baselines": list(spec.rivals),
        "split": spec.split,
        "tasks": spec.n_tasks,
        "seeds": spec.n_seeds,
        "trials": spec.n_trials,
        "horizon": spec.horizon,
        "seed": spec.seed,
        "adam_horizon": ADAM_STEPS * spec.horizon,
        "target_at": TARGET_AT,
        "moving_average": DECAY,
    }


def _entrant(results: Results, one: Figures, genome: GenomeFile | None) -> dict[str, object]:
    entry = one.entry
    there = [task.label for task, on in zip(results.tasks, entry.on, strict=True) if on]
    metrics = [value for value, on in zip(final_metrics(results, entry), entry.on, strict=True) if on]
    by_task = one.speedup.by_task if one.speedup else [None] * len(there)
    found: dict[str, object] = {
        "label": entry.label,
        "kind": entry.kind,
        "speedup": _bounded(one.speedup.overall if one.speedup else None),
        "score": one.score,
        "final_ratio": _estimate(one.final_ratio),
        "probability_of_improvement": _estimate(one.improvement),
        "divergence_rate": one.divergence_rate,
        "state_bytes_per_param": entry.state_bytes_per_param,
        "tasks": [
            {"task": task, "speedup": _bounded(bound), "final_ratio": _estimate(ratio),
             "steps_to_target": float(steps), "final_metric": metric}
            for task, bound, ratio, steps, metric in zip(
                there, by_task, one.final_ratios, one.steps_to_target, metrics, strict=True
            )
        ],
    }  # fmt: skip
    if genome is not None:
        candidate = genome.candidate
        found["against"] = {label: _estimate(ratio) for label, ratio in one.against.items()}
        found["genome"] = {
            "id": candidate.id,
            "family": candidate.family,
            "genes": dict(candidate.genes),
            "horizon": genome.horizon,
            "provenance": dict(genome.provenance),
        }
    else:
        found["tuned"] = [
            {"source": source, "rate": tuned.rate, "at_edge": tuned.at_edge,
             "rates": list(tuned.rates), "scores": list(tuned.scores)}
            for source, tuned in entry.tuned.items()
        ]  # fmt: skip
    return found


def _estimate(found: Estimate) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high}


def _bounded(found: Bounded | None) -> dict[str, object] | None:
    return None if found is None else {**_estimate(found.found), "is_lower_bound": found.is_lower_bound}
