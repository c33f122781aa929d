"""What evometa is to reach, and whether a document of measurements says that it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.groups.memory import GENERATION
from benchmarks.groups.scaling import LINEAR
from benchmarks.workload import RULES

#: Rule → the least multiple of JAX, as one writes it and tuned, forward and of BPTT; and of the naive loop.
_FORWARD = {"lstm": 1.6, "gru": 1.3, "mlp": 3.0, "adam": 1.2}
_BPTT = {"lstm": 2.0, "gru": 2.5, "mlp": 1.3}
_NAIVE = {"lstm": 6.0, "gru": 6.0, "mlp": 20.0, "adam": 20.0}
#: Rule → the least percentage of the roofline.
_ROOFLINE = {"lstm": 75.0, "gru": 75.0, "mlp": 60.0}


@dataclass(frozen=True)
class Figure:
    """One figure and the bounds it is to keep, in ``unit``; a bound of None is none."""

    what: str
    value: float
    least: float | None = None
    most: float | None = None
    unit: str = ""

    @property
    def is_reached(self) -> bool:
        """Whether the value keeps its bounds."""
        above = self.least is None or self.value >= self.least
        return above and (self.most is None or self.value <= self.most)

    @property
    def shown(self) -> str:
        """The value with its unit."""
        return f"{self.value:.3g}{self.unit}"

    @property
    def target(self) -> str:
        """The bounds with their unit."""
        if self.least is None:
            return f"≤ {self.most:g}{self.unit}"
        return (
            f"≥ {self.least:g}{self.unit}"
            if self.most is None
            else f"{self.least:g}–{self.most:g}{self.unit}"
        )


def figures(document: Mapping[str, Any]) -> list[Figure]:
    """The figures of the groups and rules that were measured, rules in the order of the tables."""
    return [
        *_of_rules(document),
        *_of_the_mixed_generation(document.get("mixed")),
        *_of_memory(document.get("memory", {})),
        *_of_the_campaign(document.get("campaign")),
        *_of_scaling(document.get("scaling", {})),
    ]


def _of_rules(document: Mapping[str, Any]) -> Iterator[Figure]:
    forward, bptt = document.get("forward", {}), document.get("bptt", {})
    for rule, (title, _) in RULES.items():
        yield from _against_jax(f"{title}: forward over JAX", forward.get(rule), _FORWARD.get(rule))
        if rule in forward and rule in _ROOFLINE:
            share = 100 * forward[rule]["roofline"]["share"]
            yield Figure(f"{title}: share of the roofline", share, _ROOFLINE[rule], unit=" %")
        yield from _against_jax(f"{title}: BPTT over JAX", bptt.get(rule), _BPTT.get(rule))
        if rule in forward:
            ratio = forward[rule]["ratios"]["naive"]
            yield Figure(f"{title}: forward over the naive loop", ratio, _NAIVE[rule], unit="×")


def _against_jax(what: str, found: Mapping[str, Any] | None, least: float | None) -> Iterator[Figure]:
    """Against each of the JAX programs."""
    for name, suffix in (("jax", ""), ("jax-tuned", ", tuned")):
        if found and name in found["ratios"]:
            yield Figure(what + suffix, found["ratios"][name], least, unit="×")


def _of_the_mixed_generation(mixed: Mapping[str, Any] | None) -> Iterator[Figure]:
    if mixed is None:
        return
    for name, workers in (("evometa-1", "one worker"), ("evometa", "all workers")):
        yield Figure(
            f"mixed generation over its parts, {workers}", mixed["overhead"][name], most=1.15, unit="×"
        )
    if "jax_seconds" in mixed:
        ratio = mixed["jax_seconds"] / mixed["seconds"]["evometa"]
        yield Figure("mixed generation over JAX with compilations", ratio, 10.0, unit="×")


def _of_memory(memory: Mapping[str, Any]) -> Iterator[Figure]:
    if GENERATION in memory:
        peak = memory[GENERATION]["peak_bytes"] / 1e9
        yield Figure(f"peak memory, {GENERATION}", peak, most=2.0, unit=" GB")


def _of_the_campaign(campaign: Mapping[str, Any] | None) -> Iterator[Figure]:
    if campaign is not None:
        share = 100 * campaign["other_share"]
        yield Figure("campaign: share that is not inner training", share, most=2.0, unit=" %")


def _of_scaling(scaling: Mapping[str, Any]) -> Iterator[Figure]:
    for rule, sizes in scaling.items():
        for size, growth in sizes.items():
            yield Figure(f"{RULES[rule][0]}: exponent of {size}", growth["exponent"], *LINEAR)
