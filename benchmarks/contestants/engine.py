"""evometa as a campaign runs it: units of work cut by the chunk plan, on as many workers as it would have."""

from __future__ import annotations

from functools import partial
from itertools import count
from unittest.mock import patch

import torch

from benchmarks.machine import n_cores
from benchmarks.workload import SEED, Workload
from evometa.campaign.fitness import evaluation_units
from evometa.campaign.lifetime import WeightBank, refine
from evometa.execution import Executor, pick_workers, work
from evometa.execution.units import ProbeUnit
from evometa.genome.genome import Genome
from evometa.inner.record import Status
from evometa.process import threads


class Engine:
    """The campaign's path: from submitting units to having all results, with warm workers.

    ``n_workers``: 0 for a campaign's default.
    """

    n_workers = 0

    def __init__(self, workload: Workload, device: torch.device) -> None:
        self.workload = workload
        self.executor = Executor(device, pick_workers(self.n_workers, device))
        self.facts = {"n_workers": float(self.executor.n_workers)}
        self.seeds = count(SEED)
        # Where there are fewer units than workers, as on a GPU, later repetitions would meet some that begin.
        self.executor.run([ProbeUnit()] * self.executor.n_workers)
        if workload.mode == "forward":
            self.units = [
                unit
                for cohort in workload.dealt(workload.n_cohorts)
                for unit in evaluation_units(cohort.candidates, workload.request(), self.executor)
            ]
        else:
            self.bank = WeightBank()
            self.genomes = [
                Genome(one.id, one.family, one.genes, name, name)
                for one in workload.candidates
                for name in (self.bank.put(dict(one.weights)),)
            ]
        for _ in range(self.executor.n_workers if device.type == "cuda" else 1):
            self.run()

    def run(self) -> int:
        if self.workload.mode == "forward":
            return self._evaluate()
        return self._refine(next(self.seeds))

    def close(self) -> None:
        self.executor.stop()

    def _evaluate(self) -> int:
        results = self.executor.run(self.units)
        for result in results:
            if result.status != Status.COMPLETE or result.value is None:
                raise RuntimeError(result.message)
        return sum(result.value.n_inner_steps for result in results)  # type: ignore[union-attr, misc]

    def _refine(self, seed: int) -> int:
        """One lifetime's meta-training; every repetition draws tasks of its own, as generations do."""
        bank = WeightBank(dict(self.bank.blobs))
        refined = refine(self.genomes, bank, [self.workload.stream(seed)], self.executor)
        failed = [genome for genome in refined.genomes if "failed" in genome.lineage.weights]
        if failed:
            raise RuntimeError(failed[0].lineage.weights)
        return refined.n_inner_steps


class EngineOnOneWorker(Engine):
    """The same in this process alone."""

    n_workers = 1


class EngineOnThreads(EngineOnOneWorker):
    """The same in this process, with a thread of PyTorch's for each core, which no campaign does."""

    def run(self) -> int:
        with patch.object(work, "one_thread", partial(threads, n_cores())):
            return super().run()
