"""The table of each group, and its part of the JSON document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.groups import threads, throughput
from benchmarks.groups.campaign import Share
from benchmarks.groups.growth import N_ENDS, Campaign, Listing
from benchmarks.groups.mixed import Mixed
from benchmarks.groups.racing import Saving
from benchmarks.groups.scaling import LINEAR, Growth
from benchmarks.groups.throughput import Contest
from benchmarks.machine import n_cores
from benchmarks.reach import Figure
from benchmarks.report import TITLES, number, rates_of, show
from benchmarks.roofline.rates import TRIAD_BYTES, best
from benchmarks.roofline.work import Work
from benchmarks.rounds import Timing
from benchmarks.workload import RULES, Mode, Workload

_JAX = ("jax", "jax-tuned")
_MODES: dict[Mode, str] = {
    "forward": "Inner training, forward",
    "bptt": "Meta-gradients by BPTT",
    "pes": "Meta-gradients by PES",
}


def show_rates(console: Console, contests: Iterable[Contest]) -> dict[str, float]:
    """What the roofline is made of, medians over all rounds."""
    rounds = [rates for contest in contests for rates in contest.rates]
    rates = {name: median(one[name] for one in rounds) for name in rounds[0]}
    rows = [["matrix products, Gflop/s", number(best(rates, "product") / 1e9)]]
    if "multiply-add registers" in rates:
        rows.append(["multiply-adds from registers, Gflop/s", number(rates["multiply-add registers"] / 1e9)])
    rows.append(["transcendental functions, 10⁹/s", number(best(rates, "transcendental") / 1e9)])
    for size in TRIAD_BYTES:
        if f"triad {size}" in rates:
            rows.append([f"triad of {size / 2**10:,.0f} KiB, GB/s", number(rates[f"triad {size}"] / 1e9)])
    show(console, "Rates of this machine, all of it busy, medians of the rounds", ["rate", "all of it"], rows)
    return rates


def show_throughput(
    console: Console, mode: Mode, contests: Mapping[str, Contest], works: Mapping[str, Work], *, quick: bool
) -> dict[str, Any]:
    """Inner steps a second of every contestant, ratios, and shares of the roofline of rules in ``works``."""
    others = [name for name in throughput.CONTESTANTS if name != "evometa"]
    rows, ratio_rows, document = [], [], {}
    for rule, contest in contests.items():
        own, ratios = contest.timings, contest.ratios(others)
        rows.append([RULES[rule][0], *(rates_of(own.get(name)) for name in throughput.CONTESTANTS)])
        rows[-1] += [number(own[n].facts["compile_seconds"]) if n in own else "–" for n in _JAX]
        ratio_rows.append([RULES[rule][0], *(number(ratios[n]) if n in ratios else "–" for n in others)])
        document[rule] = {
            "ratios": ratios,
            "contestants": {name: timing.to_json() for name, timing in own.items()},
        }
        if rule in works:
            found = document[rule]["roofline"] = _roofline(contest, works[rule])
            ratio_rows[-1] += [number(found["inner_steps_per_second"]), f"{found['share']:.0%}"]
    headers = ["rule", *(TITLES[name] for name in throughput.CONTESTANTS)]
    headers += [f"{TITLES[name]} compiles, s" for name in _JAX]
    title = f"{_MODES[mode]}: inner steps/s ({_sizes(mode, quick=quick)})"
    notes = ["medians of the rounds, ± half the distance between slowest and fastest"]
    show(console, title, headers, rows, notes + _reduced(mode, quick=quick))
    headers = ["rule", *(f"× {TITLES[name]}" for name in others)]
    headers += ["roofline, inner steps/s", "share reached"] if works else []
    show(console, f"{_MODES[mode]}: evometa over the others", headers, ratio_rows)
    return document


def _roofline(contest: Contest, work: Work) -> dict[str, Any]:
    """The work, the rates and the share of every round, and medians."""
    ceilings, shares = contest.ceilings(work), contest.shares(work)
    return {
        "work": asdict(work),
        "inner_steps_per_second": median(ceilings),
        "share": median(shares),
        "shares": shares,
        "rates": list(contest.rates),
    }


def _sizes(mode: Mode, *, quick: bool) -> str:
    size = (throughput.QUICK if quick else throughput.SIZES)[mode]
    particles = f" × {2 * Workload.n_pairs} particles" if mode == "pes" else ""
    n_steps = f"{size.n_segments} × {size.n_steps}" if mode == "pes" else str(size.n_steps)
    return f"P={size.n_candidates}{particles}, T={size.n_tasks}, K={n_steps}, digits MLP 64–32–10, batch 64"


def _reduced(mode: Mode, *, quick: bool) -> list[str]:
    """A note on who does less in one repetition."""
    if quick:
        return []
    reduced = [f"{TITLES[name]} P={p}, K={k}" for name, (p, k) in throughput.SIZES[mode].reduced.items()]
    return [f"in one repetition, recurrent rules: {'; '.join(reduced)}"] if reduced else []


def show_mixed(console: Console, mixed: Mixed) -> dict[str, Any]:
    """The mixed generation."""
    n_workers = round(mixed.whole["evometa"].facts["n_workers"])
    rows = [
        [
            title,
            f"{mixed.seconds(name):.2f}",
            f"{mixed.parts_seconds(name):.2f}",
            f"{mixed.overhead(name):.3f}",
        ]
        for name, title in (
            ("evometa-1", "evometa, one worker"),
            ("evometa", f"evometa, {n_workers} workers"),
        )
    ]
    document: dict[str, Any] = {
        "seconds": {name: mixed.seconds(name) for name in mixed.whole},
        "parts_seconds": {name: mixed.parts_seconds(name) for name in mixed.parts},
        "overhead": {name: mixed.overhead(name) for name in mixed.parts},
        "workers_speedup": mixed.efficiency,
        "n_structures": len(mixed.parts["evometa"]),
    }
    notes = [f"{n_workers} workers are {mixed.efficiency:.2f}× as fast as one"]
    if mixed.jax_seconds is not None:
        compiled = mixed.whole["jax"].facts["compile_seconds"]
        rows.append([f"JAX, with {compiled:.0f} s of compiling", f"{mixed.jax_seconds:.2f}", "–", "–"])
        document["jax_compile_seconds"] = compiled
        document["jax_seconds"] = mixed.jax_seconds
        notes.append(f"JAX takes {mixed.jax_seconds / mixed.seconds('evometa'):.1f}× as long as evometa")
    title = f"A mixed generation: 32 candidates of {document['n_structures']} structures, T=8, K=100"
    show(console, title, ["", "seconds", "its parts alone", "ratio"], rows, notes)
    return document


def show_scaling(console: Console, grown: Mapping[str, list[Growth]]) -> dict[str, Any]:
    """Exponents."""
    rows = [
        [
            RULES[rule][0],
            growth.size,
            ", ".join(map(str, growth.values)),
            ", ".join(f"{seconds:.3f}" for seconds in growth.seconds),
            f"{growth.exponent:.2f}",
            "yes" if growth.is_linear else "no",
        ]
        for rule, growths in grown.items()
        for growth in growths
    ]
    headers = ["rule", "varied", "values", "seconds", "exponent", f"within {LINEAR[0]}–{LINEAR[1]}"]
    show(console, "Growth of the time of an evaluation: time ∝ size^exponent", headers, rows)
    return {
        rule: {
            growth.size: {
                "values": list(growth.values),
                "seconds": list(growth.seconds),
                "exponent": growth.exponent,
            }
            for growth in growths
        }
        for rule, growths in grown.items()
    }


def show_memory(console: Console, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Peak resident memory."""
    keys = ("peak_bytes", "driver_bytes", "largest_child_bytes")
    rows = [[title, *(f"{one[key] / 1e6:,.0f}" for key in keys)] for title, one in found.items()]
    headers = ["workload", "in all, MB", "driver, MB", "largest worker, MB"]
    show(console, "Peak resident memory of a fresh process and its workers", headers, rows)
    return found


def show_campaign(console: Console, share: Share) -> dict[str, Any]:
    """What is not inner training."""
    rows = [
        ["whole campaign, s", f"{share.total_seconds:.1f}"],
        ["workers' runs, s", f"{share.inner_seconds:.1f}"],
        ["of them counting operations, s", f"{share.counting_seconds / share.n_workers:.1f}"],
        ["of them unpacking results, s", f"{share.driving_seconds / share.n_workers:.1f}"],
        ["figure, s", f"{share.figure_seconds:.1f}"],
        ["everything else, s a generation", f"{share.other_seconds_per_generation:.3f}"],
        ["not inner training", f"{share.other:.1%}"],
    ]
    title = (
        f"A campaign, population {share.population}, {share.generations} generations, "
        f"T={share.n_tasks}, K={share.horizon}"
    )
    show(console, title, ["", "measured"], rows)
    return share.to_json()


def show_growth(console: Console, grew: Campaign, listing: Listing) -> dict[str, Any]:
    """Memory and database over generations, and how long it takes to look at a large database."""
    rows = []
    for name, title in (
        ("driver_bytes", "driver, resident"),
        ("workers_bytes", "workers, resident"),
        ("database_bytes", "database"),
    ):
        values = getattr(grew, name)
        (first, last), (slope, fit) = grew.ends(values), grew.slope(values)
        rows.append([title, f"{first / 1e6:,.1f}", f"{last / 1e6:,.1f}", f"{slope / 1e3:,.1f}", f"{fit:.3f}"])
    n = len(grew.driver_bytes)
    headers = ["", f"first {N_ENDS}, MB", f"last {N_ENDS}, MB", "kB a generation, second half", "R²"]
    notes = [
        f"{grew.n_genomes:,} genomes, {grew.n_evaluations:,} evaluations, {grew.n_task_results:,} runs",
        f"{grew.bytes_per_evaluation:,.0f} bytes an evaluation, {grew.bytes_per_task_result:,.0f} a run,"
        f" without {grew.weights_bytes / 1e6:.1f} MB of weights",
    ]
    show(console, f"A campaign of {n} generations", headers, rows, notes)
    rows = [
        [f"evometa {verb}", f"{median(seconds):.2f}", f"{listing.alone(verb):.2f}"]
        for verb, seconds in listing.seconds.items()
    ]
    title = (
        f"{listing.n_evaluations:,} evaluations, {listing.n_task_results:,} task results,"
        f" {listing.database_bytes / 1e6:,.0f} MB"
    )
    show(console, title, ["", "s", "without the start, s"], rows)
    return {"campaign": grew.to_json(), "listing": asdict(listing)}


def show_racing(console: Console, found: Mapping[str, Saving]) -> dict[str, Any]:
    """What racing and the functional hash save, beside the campaign without both."""
    rows = []
    for way, own in found.items():
        low, high = own.interval
        rows.append(
            [
                way,
                f"{own.evaluation_steps:.2f}",
                f"{own.seconds:.2f}",
                f"{np.median([trial.n_generations for trial in own.trials]):g}",
                f"{np.mean([trial.n_skipped for trial in own.trials]):.1f}",
                f"{np.mean([trial.hypervolume for trial in own.trials]):.3f}",
                f"{own.gain:+.3f} ({low:+.3f} to {high:+.3f})",
            ]
        )
    columns = ["", "evaluation steps", "seconds", "generations", "skipped", "hypervolume", "gain (95 %)"]
    n_seeds = len(next(iter(found.values())).trials)
    show(console, f"Racing and equal genomes, {n_seeds} seeds, relative to plain", columns, rows)
    return {way: own.to_json() for way, own in found.items()}


def show_threads(console: Console, timings: Mapping[str, Timing]) -> dict[str, Any]:
    """Workers against threads."""
    n_workers = round(timings["evometa"].facts["n_workers"])
    titles = {
        "evometa": f"{n_workers} workers, one thread each",
        "evometa-threads": f"one worker, {n_cores()} threads",
        "evometa-1": "one worker, one thread",
    }
    rows = [
        [title, f"{median(own.seconds):.2f}", rates_of(own), f"{threads.speedup(timings, name):.2f}"]
        for name, title in titles.items()
        for own in (timings[name],)
    ]
    headers = ["", "seconds", "inner steps/s", "× one worker, one thread"]
    show(console, "The mixed generation by workers and by threads, medians of the rounds", headers, rows)
    return {name: timing.to_json() for name, timing in timings.items()}


def show_jax_plans(console: Console, found: Mapping[str, Mapping[str, Timing]]) -> dict[str, Any]:
    """Every plan that was tried."""
    rows = [
        [key, plan, rates_of(timing), number(timing.facts["compile_seconds"])]
        for key, plans in found.items()
        for plan, timing in sorted(plans.items(), key=lambda item: -item[1].rate)
    ]
    show(console, "Plans of the JAX programs", ["workload", "plan", "inner steps/s", "compiles, s"], rows)
    return {key: {plan: timing.to_json() for plan, timing in plans.items()} for key, plans in found.items()}


def show_reach(console: Console, figures: Sequence[Figure], *, quick: bool) -> list[dict[str, Any]]:
    """What was to be reached, and whether it was; nothing where none of it was measured."""
    if figures:
        rows = [[one.what, one.shown, one.target, "yes" if one.is_reached else "no"] for one in figures]
        notes = ["at --quick's tiny sizes, which say nothing about speed"] if quick else []
        show(console, "Reach", ["figure", "value", "target", "reached"], rows, notes)
    return [{**asdict(one), "reached": one.is_reached} for one in figures]
