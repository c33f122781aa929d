"""The bench card: one page on one genome, which says where it loses as plainly as where it wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evometa.bench.figures import TARGET_AT, BenchFigures, n_solved
from evometa.bench.generalisation import GeneralisationRow
from evometa.bench.measure import ADAM_STEPS, Results
from evometa.bench.metrics import mean_metrics
from evometa.bench.spec import YARDSTICK, BenchSpec, GenomeFile
from evometa.bench.statistics import Estimate
from evometa.bench.timing import BATCH_SIZE, SIZES, StepTime
from evometa.errors import clipped

Verdict = Literal["wins", "loses", "undecided"]


@dataclass(frozen=True)
class CardRow:
    """One comparison: final losses of the genome over the rival's; below 1 the genome is better."""

    group: str
    name: str
    ratio: Estimate
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """On which side of 1 the interval lies."""
        return "wins" if self.ratio.high < 1 else "loses" if self.ratio.low > 1 else "undecided"


@dataclass(frozen=True)
class Card:
    """What stands on the page.

    Attributes:
        headline: the speedup in a sentence.
        facts: title → text.
        rows: all comparisons, in groups.
        search: what compute the search took.
        method: how all was measured.
    """

    title: str
    headline: str
    facts: Mapping[str, str]
    rows: tuple[CardRow, ...]
    search: str
    method: str


#: Groups of rows, in order.
ON_TASKS, AGAINST, ELSEWHERE = "task by task", "all tasks", "tasks unlike these"


def card(
    results: Results,
    found: BenchFigures,
    rows: Sequence[GeneralisationRow],
    times: Mapping[str, StepTime],
    genome: GenomeFile,
) -> Card:
    """The card of one genome of a bench."""
    spec, ours = results.spec, found.of(genome.label)
    comparisons = [
        CardRow(ON_TASKS, f"{task.label}, against {YARDSTICK}", ratio)
        for task, ratio in zip(results.tasks, ours.final_ratios, strict=True)
    ]
    comparisons += [CardRow(AGAINST, f"against {name}", ratio) for name, ratio in ours.against.items()]
    comparisons += [
        CardRow(ELSEWHERE, f"{row.change}, against {YARDSTICK}", row.final_ratio, _diverged(row))
        for row in rows
        if row.label == genome.label
    ]
    return Card(
        title=f"Bench card: {genome.label}",
        headline=_headline(found, genome.label),
        facts=_facts(results, found, times, genome),
        rows=tuple(comparisons),
        search=search_text(genome.provenance),
        method=_method(spec, found.pool),
    )


def markdown(page: Card) -> str:
    """The card as a Markdown page."""
    lines = [f"# {page.title}", "", f"**{page.headline}**", "", "| figure | value |", "|---|---|"]
    lines += [f"| {title} | {_cell(text)} |" for title, text in page.facts.items()]
    titles = {"loses": "Where it loses", "wins": "Where it wins", "undecided": "Where it is undecided"}
    for verdict, title in titles.items():
        those = [row for row in page.rows if row.verdict == verdict]
        lines += ["", f"## {title}", ""]
        if not those:
            lines.append("Nowhere in this bench.")
            continue
        lines += ["| where | final loss over its rival's (95 %) |", "|---|---|"]
        lines += [f"| {_cell(f'{r.group}: {r.name}')} | {shown(r.ratio)}{r.note} |" for r in those]
    lines += ["", "## What its search took", "", _cell(page.search), "", "## How it was measured", ""]
    return "\n".join([*lines, page.method, ""])


def shown(found: Estimate) -> str:
    """A figure with its interval."""
    return f"{found.value:.3g} ({found.low:.3g}–{found.high:.3g})"


def search_text(provenance: Mapping[str, object]) -> str:
    """What compute a search took, as the file of its genome says; else that it does not."""
    search = provenance.get("search")
    known = search if isinstance(search, Mapping) else {}
    steps, seconds = known.get("inner_steps"), known.get("seconds")
    parts = []
    if isinstance(steps, int):
        parts.append(f"{steps:,} inner steps")
    if isinstance(seconds, int | float):
        parts.append(f"{seconds:,.0f} s")
    campaign = provenance.get("campaign")
    whose = f" (campaign {clipped(campaign)}, seed {provenance.get('seed')})" if isinstance(
        campaign, str
    ) else ""  # fmt: skip
    return ", ".join(parts) + whose if parts else f"Not recorded{whose}."


def solved_text(n_tasks: int, n_all: int) -> str:
    """What to think of speedups where tuned Adam has solved ``n_tasks`` of all tasks."""
    return (
        f"tuned Adam solves {n_tasks} of {n_all} tasks to below their noise floor, "
        "so that final losses say little: take a shorter horizon"
    )


def _headline(found: BenchFigures, label: str) -> str:
    ours = found.of(label)
    if ours.speedup is None:
        return f"Final loss {shown(ours.final_ratio)} times tuned Adam's."
    overall = ours.speedup.overall
    low, high = overall.found.low, overall.found.high
    verdict = "faster than" if low > 1 else "slower than" if high < 1 else "about as fast as"
    least = "at least " if overall.is_lower_bound else ""
    return f"Speedup over tuned Adam: {least}{shown(overall.found)}: {verdict} tuned Adam."


def _facts(
    results: Results, found: BenchFigures, times: Mapping[str, StepTime], genome: GenomeFile
) -> dict[str, str]:
    ours, adam = found.of(genome.label), found.of(YARDSTICK)
    own, theirs = times[genome.label], times[YARDSTICK]
    candidate = genome.candidate
    best = min((one for one in found.entrants if one.entry.kind == "baseline"), key=lambda one: -one.score)
    solved = n_solved(results, found)
    caution = {"caution": solved_text(solved, len(results.tasks))} if solved else {}
    told, adams = mean_metrics(results, ours.entry), mean_metrics(results, adam.entry)
    metrics = {f"{title} at the end": f"{told[title]:.4g} (tuned Adam {adams[title]:.4g})" for title in told}
    reached = int((ours.steps_to_target <= results.spec.horizon).sum())
    return {
        **caution,
        "rule": f"{candidate.family}, schedule {candidate.genes.get('schedule', 'constant')}",
        "trained horizon": f"{genome.horizon:,} steps" if genome.horizon else "not recorded",
        "final loss over tuned Adam's": shown(ours.final_ratio),
        **metrics,
        "a run ends lower than Adam's with probability": shown(ours.improvement),
        f"as low as tuned Adam after {TARGET_AT:.0%} of the steps": f"{reached} of {len(results.tasks)} "
        "tasks",
        "AlgoPerf score": f"{ours.score:.3f} (Adam {adam.score:.3f}, best: {best.entry.label} "
        f"{best.score:.3f}; {found.pool})",
        "runs that diverged": f"{ours.divergence_rate:.1%} (tuned Adam {adam.divergence_rate:.1%})",
        "state": f"{ours.entry.state_bytes_per_param:.3g} bytes per parameter "
        f"(Adam {adam.entry.state_bytes_per_param:.3g})",
        "a step takes": f"{own.overhead:.2f} times forward and backward (Adam {theirs.overhead:.2f}), "
        f"perceptron {'-'.join(map(str, SIZES))}, batch {BATCH_SIZE}, one thread",
    }


def _method(spec: BenchSpec, pool: str) -> str:
    names = ", ".join(dict.fromkeys(source.use for source in spec.sources))
    return (
        f"{spec.n_tasks} {spec.split} tasks each of {names}; {spec.n_seeds} seeds; {spec.horizon} steps. "
        f"Each baseline has its learning rate tuned over {spec.n_trials} values on other tasks; the genome "
        f"is not tuned. Speedup: Adam's steps, with the best rate for each budget up to {ADAM_STEPS} times "
        "as many, over the genome's, to the loss it ends at; interquartile mean over tasks. Intervals: 95 %, "
        f"bootstrap over seeds; they say nothing of other tasks. Pool: {pool}."
    )


def _diverged(row: GeneralisationRow) -> str:
    return f"; {row.divergence_rate:.0%} of its runs diverged" if row.divergence_rate else ""


def _cell(text: str) -> str:
    """Text as a cell of a table: what came from a file neither ends the cell nor makes marks."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
