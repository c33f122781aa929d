"""What can be read from a campaign database."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from itertools import groupby
from typing import cast

from evometa.errors import StoreError
from evometa.genome.genome import Genome
from evometa.store.genome_queries import LISTED, GenomeQueries
from evometa.store.lock import is_held
from evometa.store.paths import LOCK
from evometa.store.records import (
    Baseline,
    CampaignState,
    Evaluation,
    GenerationRecord,
    GenerationTotals,
    JournalEntry,
    Purpose,
    Timing,
)
from evometa.store.rows import (
    Row,
    baseline_of,
    entry_of,
    evaluation_of,
    finite,
    generation_record,
    nan_where_none,
    timing_of,
    totals_of,
)

_EVALUATIONS = """
    SELECT number, genome_id, generation, split, purpose, inner_steps, e.status, message,
        position, family, description, t.status, initial_loss, final_loss, valid_loss, reference_loss,
        final_ratio, anytime_ratio
    FROM evaluations AS e LEFT JOIN task_results AS t ON t.evaluation = e.number"""
_FAILURES = """
    SELECT why, count(*), min(id) FROM (
        SELECT substr(weights_origin, instr(weights_origin, 'refinement failed')) AS why, id FROM genomes
        WHERE instr(weights_origin, 'refinement failed')
        UNION ALL
        SELECT status || ': ' || message, genome_id FROM evaluations
        WHERE purpose = 'fitness' AND status IN ('timeout', 'out_of_memory', 'error')
    ) GROUP BY why ORDER BY count(*) DESC, min(id)"""
_INNER_STEPS = """
    SELECT (SELECT ifnull(sum(refinement_inner_steps + evaluation_inner_steps), 0) FROM generations)
        + (SELECT ifnull(sum(inner_steps), 0) FROM evaluations WHERE purpose != 'fitness')
        + (SELECT ifnull(sum(inner_steps), 0) FROM baselines)"""


class Queries(GenomeQueries):
    """Reading from an open campaign. Every method sees whole generations only.

    Raises StoreError for names that are not there and for a damaged file.
    """

    def config(self) -> str:
        """The fully resolved configuration, JSON."""
        return str(self._rows("SELECT config FROM campaign")[0][0])

    def status(self) -> CampaignState:
        """``finished`` with the final evaluations in, ``running`` under a driver, else ``interrupted``."""
        if self._rows("SELECT finished FROM campaign")[0][0]:
            return "finished"
        return "running" if is_held(self.path.with_name(LOCK)) else "interrupted"

    def last_generation(self) -> int | None:
        """Index of the last whole generation; None before the first."""
        return cast(int | None, self._rows("SELECT max(generation) FROM generations")[0][0])

    def generations(self) -> list[GenerationRecord]:
        """The record of every generation, in order."""
        with self.snapshot():
            return self._generation_records("", ())

    def totals(self) -> list[GenerationTotals]:
        """What every generation came to, in order; quick however many candidates there were."""
        rows = self._rows(
            """SELECT generation, hypervolume, n_failures, refinement_inner_steps, evaluation_inner_steps
            FROM generations ORDER BY generation"""
        )
        return [totals_of(row) for row in rows]

    def generation(self, index: int) -> GenerationRecord:
        """The record of one generation."""
        with self.snapshot():
            self._require_generation(index)
            return self._generation_records("WHERE generation = ?", (index,))[0]

    def population(self, generation: int) -> list[Genome]:
        """The genomes that survived ``generation``, in order."""
        return self._candidate_genomes(generation, "place IS NOT NULL", "place")

    def front(self, generation: int) -> list[Genome]:
        """The campaign's Pareto front after ``generation``."""
        return self._candidate_genomes(generation, "in_front", "position")

    def objective_values(self, generation: int) -> dict[str, dict[str, float]]:
        """Genome id → objective → value, for every candidate of ``generation``; nan where there is none."""
        values: dict[str, dict[str, float]] = {}
        with self.snapshot():
            self._require_generation(generation)
            rows = self._rows(
                """SELECT genome_id, objective, value FROM candidates
                JOIN objective_values USING (generation, genome_id)
                JOIN objectives AS o USING (generation) WHERE o.name = objective AND generation = ?
                ORDER BY candidates.position, o.position""",
                (generation,),
            )
        for genome_id, objective, value in rows:
            values.setdefault(genome_id, {})[objective] = nan_where_none(value, "objective_values")
        return values

    def best_values(self, generation: int) -> dict[str, float]:
        """Objective → its least value in the front after ``generation``; nan without any."""
        with self.snapshot():
            self._require_generation(generation)
            return self._best_values("AND generation = ?", (generation,)).get(generation, {})

    def best_by_generation(self) -> dict[int, dict[str, float]]:
        """:meth:`best_values` of every generation, in order."""
        return self._best_values("", ())

    def front_sizes(self) -> dict[int, int]:
        """How many genomes are in the front after each generation, in order."""
        rows = self._rows("SELECT generation, sum(in_front) FROM candidates GROUP BY generation")
        return {generation: int(finite(size, "candidates")) for generation, size in rows}

    def evaluations(
        self,
        *,
        genome_ids: Iterable[str] | None = None,
        generation: int | None = None,
        split: str | None = None,
        purpose: Purpose | None = None,
    ) -> list[Evaluation]:
        """The evaluations that meet every condition given, in the order in which they were made."""
        conditions = {"generation = ?": generation, "split = ?": split, "purpose = ?": purpose}
        if genome_ids is not None:
            conditions[f"genome_id IN {LISTED}"] = json.dumps(list(genome_ids))
        given = {sql: value for sql, value in conditions.items() if value is not None}
        where = f"WHERE {' AND '.join(given)}" if given else ""
        rows = self._rows(f"{_EVALUATIONS} {where} ORDER BY number, position", tuple(given.values()))
        return [evaluation_of(list(group)) for _, group in groupby(rows, key=lambda row: row[0])]

    def weights_bytes(self, content_hash: str) -> bytes:
        """The safetensors bytes stored under their SHA-256."""
        rows = self._rows("SELECT data FROM weights WHERE hash = ?", (content_hash,))
        if not rows:
            raise StoreError(f"campaign {self.name!r} holds no weights {content_hash!r}")
        return bytes(rows[0][0])

    def streams(self, generation: int) -> dict[str, int]:
        """Name → seed of the random streams that ``generation`` drew from."""
        return dict(self._rows("SELECT name, seed FROM streams WHERE generation = ?", (generation,)))

    def baselines(self) -> list[Baseline]:
        """The tuned hand-designed rules, in the order in which they came."""
        rows = self._rows(
            "SELECT task, rule, horizon, learning_rate, grid, inner_steps FROM baselines ORDER BY number"
        )
        return [baseline_of(row) for row in rows]

    def journal(self) -> list[JournalEntry]:
        """What was found out about the machine, in the order of finding; none before schema 2."""
        if self._schema() < 2:
            return []
        rows = self._rows("SELECT topic, line, data FROM journal ORDER BY number")
        return [entry_of(row) for row in rows]

    def timings(self) -> list[Timing]:
        """Wall-clock seconds of every phase, in order."""
        rows = self._rows("SELECT generation, phase, seconds, inner_steps FROM timings ORDER BY number")
        return [timing_of(row) for row in rows]

    def failures(self) -> list[tuple[str, int, str]]:
        """Why genomes could not be meta-trained or evaluated at all, how many, and the first of them.

        The most frequent reason comes first. That a training diverged is no failure of this kind.
        """
        rows = self._rows(_FAILURES)
        return [(str(why), int(finite(number, "genomes")), str(first)) for why, number, first in rows]

    def n_inner_steps(self) -> int:
        """The whole cost: refinement, evaluations, final evaluations, tuning of baselines."""
        return int(finite(self._rows(_INNER_STEPS)[0][0], "evaluations"))

    def seconds(self) -> float:
        """How long all generations took together, of all sessions."""
        rows = self._rows("SELECT ifnull(sum(seconds), 0) FROM timings WHERE phase = 'generation'")
        return float(finite(rows[0][0], "timings"))

    def _candidate_genomes(self, generation: int, condition: str, order: str) -> list[Genome]:
        with self.snapshot():
            self._require_generation(generation)
            rows = self._rows(
                f"SELECT genome_id FROM candidates WHERE generation = ? AND {condition} ORDER BY {order}",
                (generation,),
            )
            return self.genomes(row[0] for row in rows)

    def _best_values(self, condition: str, parameters: Row) -> dict[int, dict[str, float]]:
        found = self._rows(
            f"SELECT name FROM objectives WHERE true {condition} GROUP BY name ORDER BY min(position)",
            parameters,
        )
        names = [row[0] for row in found]
        if not names:
            return {}
        # A column an objective: grouped by its name as well, a million values would be sorted first.
        least = ", ".join(["min(CASE objective WHEN ? THEN value END)"] * len(names))
        rows = self._rows(
            f"""SELECT generation, {least} FROM candidates
            JOIN objective_values USING (generation, genome_id)
            WHERE in_front {condition} GROUP BY generation""",
            (*names, *parameters),
        )
        return {
            generation: {
                str(name): nan_where_none(value, "objective_values")
                for name, value in zip(names, values, strict=True)
            }
            for generation, *values in rows
        }

    def _generation_records(self, where: str, parameters: Row) -> list[GenerationRecord]:
        def by_generation(columns: str, table: str, order: str) -> dict[int, list[Row]]:
            groups: dict[int, list[Row]] = defaultdict(list)
            sql = f"SELECT generation, {columns} FROM {table} {where} ORDER BY generation, {order}"
            for row in self._rows(sql, parameters):
                groups[row[0]].append(row[1:])
            return groups

        objectives = by_generation("name, reference", "objectives", "position")
        candidates = by_generation("genome_id, place, in_front", "candidates", "position")
        values = by_generation("genome_id, objective, value", "objective_values", "genome_id")
        totals = by_generation(
            "hypervolume, n_failures, refinement_inner_steps, evaluation_inner_steps",
            "generations",
            "generation",
        )
        return [
            generation_record(index, objectives[index], candidates[index], values[index], row)
            for index, (row,) in totals.items()
        ]

    def _require_generation(self, index: int) -> None:
        last = self.last_generation()
        if last is None or not 0 <= index <= last:
            has = "none yet" if last is None else f"0 to {last}"
            raise StoreError(f"campaign {self.name!r} has no generation {index} (it has {has})")
