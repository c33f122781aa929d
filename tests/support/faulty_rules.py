"""A rule that goes wrong as its gene ``fault`` says: a number, so that good and bad share a chunk.

Like a native kernel it takes a whole cohort in one call, which alone may look at the values of genes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from evometa.genome.genes import Choice, LogReal, Real
from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.rules.base import Hyper, RuleFamily, StepContext, UpdateRule
from evometa.rules.registry import RULES
from evometa.trees import Tree

Row = tuple[Tensor, Tensor]


def _raise(text: str) -> Row:
    raise ValueError(text)


def _slowly(row: Row) -> Row:
    time.sleep(0.05)
    return row


#: Fault → ``(updates made so far, (params, state) of one candidate) → what becomes of them``.
FAULTS: Mapping[str, Callable[[int, Row], Row]] = {
    "none": lambda step, row: row,
    "diverges": lambda step, row: (-1e3 * row[0], row[1]),
    "gives NaN": lambda step, row: (row[0] * torch.nan, row[1]),
    "has an exploding state": lambda step, row: (row[0] + 0.0 * row[1], 1e6 * row[1]),
    "raises": lambda step, row: _raise("no such step\nas this one"),
    "raises on the 50th step": lambda step, row: _raise("one step too many") if step == 49 else row,
    "asks for too much memory": lambda step, row: (torch.empty(10**15), row[1]),
    "is slow": lambda step, row: _slowly(row),
    "has NaN meta-gradients": lambda step, row: (
        (row[0] * torch.nan, row[1]) if torch.is_grad_enabled() else row
    ),
    "raises in meta-training": lambda step, row: _raise("no graph") if torch.is_grad_enabled() else row,
}


class FaultyRule(UpdateRule):
    """Gradient descent; state: ``size (T, N)``, which is one. Weights: ``scale ()`` of the step."""

    def __init__(self, broken: bool) -> None:
        self.broken = broken

    def init_weights(self, generator: torch.Generator) -> Tree:
        return {"scale": torch.ones(())}

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        return {"size": torch.ones_like(params)}

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        if self.broken:
            raise KeyError("a number of its own")
        return -hyper["lr"] * weights["scale"] * grads, state

    def has_kernel(self, grads: Tensor, params: Tensor) -> bool:
        return not (grads.requires_grad or self.broken)

    def advance(
        self,
        weights: Tree,
        hyper: Hyper,
        state: Tree,
        grads: Tensor,
        params: Tensor,
        context: StepContext,
        factor: Tensor,
        *,
        overwrite: bool = False,
    ) -> tuple[Tensor, Tree]:
        rate = (hyper["lr"] * weights["scale"]).reshape(-1, 1, 1) * factor.unsqueeze(-1)
        rows = zip((params - rate * grads).unbind(), state["size"].unbind(), strict=True)
        faults = [FAULTS[list(FAULTS)[int(number)]] for number in hyper["fault"].tolist()]
        step = int(context.step)
        moved, sizes = zip(*(fault(step, row) for fault, row in zip(faults, rows, strict=True)), strict=True)
        return torch.stack(moved), {"size": torch.stack(sizes)}


class FaultyFamily(RuleFamily):
    """The registry row; the gene ``fault`` is a number of ``FAULTS`` in their order.

    ``broken`` ones fail whatever they are given, also when only their cost is asked for.
    """

    name = "faulty"
    summary = "gradient descent that goes wrong"
    learned: ClassVar[bool] = True

    @property
    def space(self) -> Space:
        return Space(
            (
                LogReal("lr", 1e-5, 1.0, 1e-2),
                Real("fault", 0.0, float(len(FAULTS)), 0.0),
                Choice("broken", (False, True)),
            )
        )

    def build(self, genes: Genes) -> FaultyRule:
        return FaultyRule(bool(genes["broken"]))

    def describe(self, genes: Genes) -> str:
        return "Goes wrong."

    def formula(self, genes: Genes) -> str:
        return "Δ = ?"


@contextmanager
def registered() -> Iterator[None]:
    """The rule is one of evometa's inside the block, so that seed genomes may name it."""
    RULES.add(FaultyFamily.name, FaultyFamily())
    try:
        yield
    finally:
        del RULES._members[FaultyFamily.name]


def write_seed(folder: Path, name: str, family: str, **genes: object) -> None:
    """A seed genome; for the faulty rule ``fault`` is a name of ``FAULTS``."""
    if "fault" in genes:
        genes["fault"] = float(list(FAULTS).index(str(genes["fault"])))
    document = {
        "format": "evometa.genome",
        "version": 1,
        "id": name,
        "name": name,
        "family": family,
        "genes": {"schedule": "constant", **genes},
        "weights": None,
        "germline": None,
        "lineage": {"parents": [], "operator": "seed", "generation": 0, "weights": "none"},
    }
    (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
