"""The outer loop (level 2): breed, refine, evaluate, select, commit; then measure what was found."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from evometa.campaign.baselines import tuned_baselines, with_tuned_rates
from evometa.campaign.budget import spent_budget
from evometa.campaign.equals import functional_hashes, without_equals
from evometa.campaign.events import GenerationSummary, Listener, ObjectiveSummary, Silent
from evometa.campaign.fitness import CommonTasks, Evaluated, evaluate_all
from evometa.campaign.gradients import settle_gradients
from evometa.campaign.ingredients import Ingredients
from evometa.campaign.judgement import judge
from evometa.campaign.lifetime import (
    WeightBank,
    birth,
    candidate_of,
    memory_entry,
    refine,
    wants_refinement,
)
from evometa.campaign.losses import losses_entry
from evometa.campaign.persistence import (
    Bookkeeping,
    Judged,
    Living,
    baseline_genomes,
    commit_final,
    commit_generation,
    restore,
)
from evometa.campaign.precision import precision_entry
from evometa.campaign.starts import common_model, may_learn_start
from evometa.config import CampaignConfig
from evometa.errors import GenomeError
from evometa.evolution.ranking import rank_and_crowding
from evometa.evolution.reproduction import Parents, VariationRates, first_generation, next_generation
from evometa.execution import Executor
from evometa.genome.genome import Genome
from evometa.inner.record import Status
from evometa.inner.task_set import request
from evometa.meta import TaskStream
from evometa.process import one_thread, settled
from evometa.rng import derive_seed
from evometa.store import CampaignStore, JournalEntry
from evometa.tasks.base import Split


class Campaign:
    """An evolution campaign over an open store; :meth:`run` begins or continues it and finishes it."""

    def __init__(
        self,
        config: CampaignConfig,
        store: CampaignStore,
        executor: Executor,
        listener: Listener | None = None,
        cache: Path | None = None,
    ) -> None:
        self.config = config
        self.store = store
        self.executor = executor
        self.listener: Listener = listener or Silent()
        found = Ingredients.of(config)
        self.objectives, self.space, self.seeds = found.objectives, found.space, found.seeds
        self._draw_start = None
        if may_learn_start(self.space):
            self._draw_start = common_model(self.config.tasks).draw_params
        self._cache = cache
        self._compiled: frozenset[int] = frozenset()
        self._n_told_lost = 0

    def run(self) -> None:
        """Run every generation that is not yet in the store, then the final measurements."""
        with one_thread(), settled():
            self._run()

    def _run(self) -> None:
        living = restore(self.store, self.config)
        self._compiled = settle_gradients(self.config, self.space, self.store, self.executor, self.listener)
        if not living.baselines:
            baselines = tuned_baselines(
                self.config, self.executor, self._cache, self.listener, self._compiled
            )
            living = replace(living, baselines=baselines)
        for generation in range(living.generation + 1, self.config.evolution.generations):
            spent = spent_budget(self.store, self.config)
            if spent is not None:
                self._note(spent)
                break
            living = self._generation(living, generation)
        if self.store.status() != "finished":
            self._finish(living)

    def _generation(self, before: Living, generation: int) -> Living:
        started = time.perf_counter()
        book = Bookkeeping()
        born = self._breed(before, generation)
        children = self._refine(born, before.bank, generation, book)
        hashes = self._hashed(children, before.bank)
        fresh = without_equals(children, hashes, self.store.known_updates(hashes.values()))
        judged = self._judge(before, fresh, generation, book)
        if generation == 0 and self.executor.precision != "float32":
            self._compare_precisions(judged, before, book)
        living = self._survive(judged, before, generation)
        book.seconds["generation"] = time.perf_counter() - started
        commit_generation(self.store, self.config, living, judged, children, hashes, book)
        living.bank.keep_only({name for g in living.population for name in (g.weights, g.germline) if name})
        self._announce(living, judged, book)
        self._tell_losses(f"generation {generation}")
        return living

    def _breed(self, before: Living, generation: int) -> list[Genome]:
        """The children of this generation, with weights, not yet refined."""
        settings = self.config.evolution
        if not before.population:
            seeds = with_tuned_rates(self.seeds, before.baselines) if settings.tune_seeds else self.seeds
            children = first_generation(self.space, seeds, settings.population, self.config.seed)
        else:
            rank, crowding = rank_and_crowding(before.values)
            rank = np.where(before.stayed, rank, rank + len(rank))  # few tasks may be lucky ones
            rates = VariationRates(
                settings.mutation_rate,
                settings.mutation_strength,
                settings.crossover_probability,
                settings.continuation_probability,
                settings.family_change_probability,
                settings.fresh_probability,
                settings.tournament_size,
            )
            parents = Parents(before.population, rank, crowding)
            children = next_generation(
                self.space, parents, rates, settings.population, self.config.seed, generation
            )
        if not children:
            raise GenomeError("generation 0 is empty: no seed belongs to a family of this campaign")
        return birth(
            children,
            {genome.id: genome for genome in before.population},
            before.bank,
            self.config.seed,
            generation,
            self._draw_start,
        )

    def _refine(
        self, born: Sequence[Genome], bank: WeightBank, generation: int, book: Bookkeeping
    ) -> list[Genome]:
        """The children after their lifetime's meta-training on meta_train tasks."""
        streams = []
        for number, source in enumerate(self.config.tasks):
            seed = self._seed(book, f"meta_train/{number}", generation)
            wanted = request(source.use, source.options, "meta_train", 1, 1, seed)
            streams.append(
                TaskStream(
                    source.use,
                    wanted.options,
                    self.config.refinement.n_tasks,
                    source.horizon,
                    seed,
                    number in self._compiled,
                )
            )
        self.listener.phase("refinement", sum(map(wants_refinement, born)))
        most = self.config.execution.max_failed_fraction
        refined = refine(born, bank, streams, self.executor, self.listener.unit, most, self.space.spaces)
        book.seconds["refinement"] = refined.seconds
        book.inner_steps["refinement"] = refined.n_inner_steps
        entry = memory_entry(refined.ways, generation, self.executor.max_bytes)
        if entry is not None:
            self._note(entry)
        return refined.genomes

    def _judge(
        self, before: Living, children: Sequence[Genome], generation: int, book: Bookkeeping
    ) -> Judged:
        """Everyone, survivors included, on fresh meta_valid tasks common to all; then selection."""
        tasks = [
            self._common(before, number, "meta_valid", source.n_tasks, generation, book)
            for number, source in enumerate(self.config.tasks)
        ]
        genomes = [*before.population, *children]
        judged, book.seconds["evaluation"] = judge(
            genomes, tasks, before, self.objectives, self.config, self.executor, self.listener
        )
        book.inner_steps["evaluation"] = sum(one.n_inner_steps for one in judged.evaluated.values())
        return judged

    def _hashed(self, children: Sequence[Genome], bank: WeightBank) -> dict[str, str]:
        """The functional hashes of the children, by id; none where nobody asks for them."""
        if not self.config.evolution.skip_equal:
            return {}
        horizons = [source.horizon for source in self.config.tasks]
        return functional_hashes(children, bank, horizons, self.executor)

    def _compare_precisions(self, judged: Judged, before: Living, book: Bookkeeping) -> None:
        """Note whether the precision of this campaign ranks its first genomes as float32 does."""
        tasks = [
            self._common(before, number, "meta_valid", source.n_tasks, 0, book)
            for number, source in enumerate(self.config.tasks)
        ]
        # Who left a race was trained on some of the tasks only, which is no comparison.
        genomes = [genome for genome in judged.genomes if not judged.evaluated[genome.id].pruned]
        self.listener.phase("precision", len(genomes) * len(tasks))
        candidates = [candidate_of(genome, before.bank) for genome in genomes]
        exact, book.seconds["precision"] = evaluate_all(
            candidates, tasks, self.executor.in_precision("float32"), self.listener.unit
        )
        book.inner_steps["precision"] = sum(found.n_inner_steps for found in exact.values())
        self._note(precision_entry(self.executor.precision, genomes, judged.evaluated, exact))

    def _survive(self, judged: Judged, before: Living, generation: int) -> Living:
        """The state that the next generation starts from."""
        population = [judged.genomes[index] for index in judged.kept]
        return Living(
            generation=generation,
            population=population,
            values=judged.values[judged.kept],
            stayed=np.array([judged.evaluated[one.id].status != Status.PRUNED for one in population]),
            runs={genome.id: judged.runs[genome.id] for genome in population},
            bank=before.bank,
            reference=judged.reference,
            baselines=before.baselines,
        )

    def _finish(self, living: Living) -> None:
        """Measure the front and the tuned baselines on fresh meta_valid tasks, then once on meta_test."""
        book = Bookkeeping()
        front = self.store.front(living.generation)  # who left a race may have better values, of fewer tasks
        measured: dict[Split, dict[str, Evaluated]] = {}
        phases: tuple[tuple[Split, str, int], ...] = (
            ("meta_valid", "final", self.config.final.n_tasks),
            ("meta_test", "report", self.config.final.test_tasks),
        )
        for split, phase, n_tasks in phases:
            self.listener.phase(phase, sum(len(front) + len(rules) for rules in living.baselines))
            found: dict[str, Evaluated] = {}
            seconds = 0.0
            for number, rules in enumerate(baseline_genomes(living.baselines)):
                common = self._common(living, number, split, n_tasks, None, book)
                candidates = [candidate_of(genome, living.bank) for genome in (*front, *rules)]
                evaluated, spent = evaluate_all(candidates, [common], self.executor, self.listener.unit)
                seconds += spent
                for identity, one in evaluated.items():
                    found[identity] = found[identity].joined(one) if identity in found else one
            book.seconds[phase] = seconds
            book.inner_steps[phase] = sum(one.n_inner_steps for one in found.values())
            measured[split] = found
        commit_final(self.store, living, measured, book)
        self._tell_losses("the end")

    def _common(
        self,
        living: Living,
        number: int,
        split: Split,
        n_tasks: int,
        generation: int | None,
        book: Bookkeeping,
    ) -> CommonTasks:
        """Tasks of source ``number`` for one generation, or with None for the final measurements."""
        source = self.config.tasks[number]
        seed = self._seed(book, f"{split}/{number}", generation)
        compiled = number in self._compiled
        wanted = request(source.use, source.options, split, n_tasks, source.horizon + 1, seed, compiled)
        return CommonTasks(wanted, living.baselines[number]["adam"].candidate())

    def _seed(self, book: Bookkeeping, name: str, generation: int | None) -> int:
        """The seed of a named stream, noted so that it is stored with what was drawn from it."""
        stream = f"final/{name}" if generation is None else name
        seed = derive_seed(self.config.seed, stream, "all" if generation is None else generation)
        book.streams[stream] = seed
        return seed

    def _note(self, entry: JournalEntry) -> None:
        self.store.note(entry)
        self.listener.note(entry)

    def _tell_losses(self, when: str) -> None:
        """Note how many workers were lost, where there are more than were told of."""
        n_lost = self.executor.losses.total()
        if n_lost > self._n_told_lost:
            self._n_told_lost = n_lost
            self._note(losses_entry(self.executor.losses, when))

    def _announce(self, living: Living, judged: Judged, book: Bookkeeping) -> None:
        best, median = judged.values[judged.front].min(axis=0), np.median(living.values, axis=0)
        self.listener.generation(
            GenerationSummary(
                generation=living.generation,
                n_generations=self.config.evolution.generations,
                objectives=tuple(
                    ObjectiveSummary(objective.name, float(best[j]), float(median[j]))
                    for j, objective in enumerate(self.objectives)
                ),
                hypervolume=judged.hypervolume,
                front_size=len(judged.front),
                n_failures=sum(found.failed for found in judged.evaluated.values()),
                inner_steps=sum(book.inner_steps.values()),
                seconds=book.seconds["generation"],
            )
        )
