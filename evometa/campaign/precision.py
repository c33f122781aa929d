"""What a lower precision does to selection: the order of the first genomes in it and in float32."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from evometa.campaign.fitness import Evaluated
from evometa.campaign.runs import objective_values
from evometa.genome.genome import Genome
from evometa.inner.modes import Precision
from evometa.objectives import find_objective
from evometa.store import JournalEntry


def precision_entry(
    precision: Precision,
    genomes: Sequence[Genome],
    lowered: Mapping[str, Evaluated],
    exact: Mapping[str, Evaluated],
) -> JournalEntry:
    """Kendall's tau between the meta-losses of ``genomes`` in ``precision`` and in float32, on equal tasks.

    Tau is 1 for the same order, 0 for unrelated ones and −1 for the reverse (Kendall 1938; ties as in tau-b);
    null where all genomes are equally good in one of the two, so that there is no order.
    """
    from scipy import stats  # takes longer to import than all of evometa, and every command would wait for it

    tau = float(stats.kendalltau(_meta_losses(genomes, lowered), _meta_losses(genomes, exact)).statistic)
    told = "there is no order to compare" if math.isnan(tau) else f"Kendall's tau is {tau:.3f}"
    line = (
        f"precision: {len(genomes)} genomes ranked by meta_loss in {precision} and in float32, on the same "
        f"tasks: {told} (1: the same order)"
    )
    return JournalEntry("precision", line, {"kendall_tau": None if math.isnan(tau) else tau})


def _meta_losses(genomes: Sequence[Genome], found: Mapping[str, Evaluated]) -> npt.NDArray[np.float64]:
    runs = {genome.id: found[genome.id].runs for genome in genomes}
    return objective_values(genomes, runs, [find_objective("meta_loss")])[:, 0]
