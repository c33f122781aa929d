"""``python -m benchmarks``: measure, print tables, write one JSON document."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from contextlib import nullcontext
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks import machine, report, tables
from benchmarks.families_table import show_families
from benchmarks.groups import (
    campaign,
    families,
    growth,
    jax_plans,
    memory,
    mixed,
    optimizers,
    racing,
    scaling,
    threads,
    throughput,
)
from benchmarks.optimizer_table import show_optimizers
from benchmarks.reach import figures
from benchmarks.roofline.team import roofline
from benchmarks.rounds import Progress
from benchmarks.teams import has_jax, teams
from benchmarks.workload import RULES, Mode
from evometa.cli import output

#: JSON documents go here unless told otherwise.
RESULTS = Path(__file__).parent / "results"


class Device(StrEnum):
    """What is measured; ``auto`` is the GPU where there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Group(StrEnum):
    """What can be measured by itself; some only when asked for."""

    FORWARD = "forward"
    BPTT = "bptt"
    PES = "pes"
    MIXED = "mixed"
    SCALING = "scaling"
    MEMORY = "memory"
    CAMPAIGN = "campaign"
    GROWTH = "growth"
    RACING = "racing"
    THREADS = "threads"
    OPTIMIZERS = "optimizers"
    FAMILIES = "families"
    JAX_PLANS = "jax-plans"


#: What ``--rule`` takes.
Rule = StrEnum("Rule", list(RULES))  # type: ignore[misc]

#: Groups about the memory of processes, threads, operations by the clock, and JAX's plans for a CPU.
_ON_CPU_ALONE = (Group.MEMORY, Group.GROWTH, Group.THREADS, Group.FAMILIES, Group.JAX_PLANS)
_WHEN_ASKED = (Group.GROWTH, Group.RACING, Group.THREADS, Group.FAMILIES, Group.JAX_PLANS)
_MODES: dict[Group, Mode] = {Group.FORWARD: "forward", Group.BPTT: "bptt", Group.PES: "pes"}


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 5,
    only: Annotated[
        list[Group] | None,
        typer.Option(
            help="Measure this group only; may be repeated."
            "  [default: all but growth, racing, threads, families, jax-plans]"
        ),
    ] = None,
    rule: Annotated[
        list[Rule] | None,
        typer.Option(help="In forward, bptt and pes this rule only; may be repeated.  [default: all]"),
    ] = None,
    device: Annotated[Device, typer.Option(help="Where everything is computed.")] = Device.AUTO,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON document.  [default: benchmarks/results/DATE.json]"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes, to see that it runs.")] = False,
) -> None:
    """Measure evometa beside a naive loop, eager vmap, JAX and this machine's roofline."""
    console = output.console()
    started = time.perf_counter()
    on_gpu = device == Device.CUDA or (device == Device.AUTO and torch.cuda.is_available())
    place = "cuda" if on_gpu else "cpu"
    if device == Device.CUDA:
        _refuse(not torch.cuda.is_available(), "torch finds no CUDA GPU; use --device cpu")
    unfit = [group.value for group in only or [] if on_gpu and group in _ON_CPU_ALONE]
    _refuse(bool(unfit), f"{', '.join(unfit)}: measured on a CPU alone; use --device cpu")
    everything = [g for g in Group if g not in _WHEN_ASKED and not (on_gpu and g in _ON_CPU_ALONE)]
    chosen = list(dict.fromkeys(only or everything))
    found = machine.describe() | ({"gpu": machine.gpu()} if on_gpu else {})
    for line in report.machine_lines(found):
        console.print(line, soft_wrap=True)
    if not has_jax():
        console.print("JAX is not installed; for its columns: pip install -e '.[benchmark]'")
    document: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": found,
        "rounds": rounds,
        "quick": quick,
    }
    path = out or RESULTS / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}.json"
    with console.status("") as status:

        def progress(what: str, number: int, n_all: int) -> None:
            status.update(f"{what} ({number} of {n_all}), {time.perf_counter() - started:.0f} s")

        for group in chosen:
            rules = rule or list(RULES)
            document |= _measured(group, rules, rounds, place, progress, console, quick=quick)
            report.write(path, document)  # a group that fails later does not take this one with it
    if not on_gpu:  # the targets are those of two cores
        document["reach"] = tables.show_reach(console, figures(document), quick=quick)
    document["seconds"] = time.perf_counter() - started
    report.write(path, document)
    console.print(f"\n{document['seconds'] / 60:.1f} minutes; written to {os.path.relpath(path)}")


def _refuse(condition: bool, message: str) -> None:
    if condition:
        raise typer.BadParameter(message, param_hint="--device")


def _measured(
    group: Group,
    rules: Collection[str],
    rounds: int,
    device: str,
    progress: Progress,
    console: Console,
    *,
    quick: bool,
) -> dict[str, Any]:
    """Measure a group and show its tables; its parts of the document."""
    match group:
        case Group.FORWARD | Group.BPTT | Group.PES:
            return _throughput(_MODES[group], rules, rounds, device, progress, console, quick=quick)
        case Group.MIXED:
            with teams(*mixed.CONTESTANTS, device=device) as opened:
                generation = mixed.measure(opened, min(rounds, 3), progress, quick=quick)
            found: Any = tables.show_mixed(console, generation)
        case Group.SCALING:
            with teams("evometa", device=device) as opened:
                grown = scaling.measure(opened["evometa"], min(rounds, 3), progress, quick=quick)
            found = tables.show_scaling(console, grown)
        case Group.MEMORY:
            found = tables.show_memory(console, memory.measure(progress, quick=quick))
        case Group.CAMPAIGN:
            found = tables.show_campaign(console, campaign.measure(progress, device, quick=quick))
        case Group.GROWTH:
            grew = growth.measure_campaign(progress, quick=quick)
            listing = growth.measure_listing(progress, rounds, quick=quick)
            found = tables.show_growth(console, grew, listing)
        case Group.RACING:
            found = tables.show_racing(console, racing.measure(progress, device, quick=quick))
        case Group.THREADS:
            with teams(*threads.CONTESTANTS, device=device) as opened:
                timings = threads.measure(opened, rounds, progress, quick=quick)
            found = tables.show_threads(console, timings)
        case Group.OPTIMIZERS:
            with roofline(optimizers.working_sets(), 0.01 if quick else 0.1, device) as machine_rates:
                contests_of_models = optimizers.measure(
                    rounds, progress, machine_rates.measure, device, quick=quick
                )
            found = show_optimizers(console, contests_of_models, on_gpu=device == "cuda")
        case Group.FAMILIES:
            found = show_families(console, _families(rounds, device, progress, quick=quick))
        case Group.JAX_PLANS:
            found = tables.show_jax_plans(console, jax_plans.measure(rounds, progress, quick=quick))
    return {group.value: found}


def _families(rounds: int, device: str, progress: Progress, *, quick: bool) -> list[families.Row]:
    """Every family taken apart, then timed."""
    workloads = families.workloads(quick=quick)
    known: dict[tuple[families.Kind, str], families.Prepared] = {}
    for number, ((kind, name), workload) in enumerate(workloads.items()):
        progress(f"{kind} {name}: operations", number + 1, len(workloads))
        known[kind, name] = families.prepared(workload)
    bounded = [part for one in known.values() for part in (one.work, one.anatomy)]
    with roofline(bounded, 0.01 if quick else 0.1, device) as machine_rates, teams("evometa") as opened:
        return families.measure(known, opened["evometa"], rounds, progress, machine_rates)


def _throughput(
    mode: Mode,
    wanted: Collection[str],
    rounds: int,
    device: str,
    progress: Progress,
    console: Console,
    *,
    quick: bool,
) -> dict[str, Any]:
    """Forward with the roofline, BPTT or PES; {} where the mode has none of the rules."""
    rules = [rule for rule in throughput.rules_of(mode) if rule in wanted]
    if not rules:
        return {}
    works = throughput.works(rules, device, quick=quick) if mode == "forward" else {}
    measuring = roofline(works.values(), 0.01 if quick else 0.1, device) if works else nullcontext()
    with teams(*throughput.CONTESTANTS, device=device) as opened, measuring as machine_rates:
        contests = throughput.measure(mode, rules, opened, rounds, progress, machine_rates, quick=quick)
    rates = {"rates": tables.show_rates(console, contests.values())} if works else {}
    return rates | {mode: tables.show_throughput(console, mode, contests, works, quick=quick)}


if __name__ == "__main__":
    typer.run(main)
