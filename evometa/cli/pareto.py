"""``evometa pareto CAMPAIGN``: the front, beside the tuned hand-designed rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evometa.cli.output import Column, Format, Listing, emit
from evometa.cli.parameters import (
    AllowCodeOption,
    CampaignArgument,
    FormatOption,
    StorageOption,
    code_of,
    open_campaign,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from evometa.objectives import Objective
    from evometa.store import CampaignStore

    Values = npt.NDArray[np.float64] | None

_SPLITS = ("meta_valid", "meta_test")


def pareto(
    campaign: CampaignArgument,
    storage: StorageOption = None,
    allow_code: AllowCodeOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show the Pareto front: every objective on meta_valid (chosen by) and meta_test (reported only).

    The tuned hand-designed rules follow, measured on the same tasks. ◆ marks the knee: the best trade-off.
    """
    with code_of(campaign, allow_code), open_campaign(campaign, storage) as store, store.snapshot():
        listing = front_listing(store)
    emit(listing, form)


def front_listing(store: CampaignStore) -> Listing:
    """The front's members, then the baselines. Raises StoreError before the first generation."""
    from evometa.campaign import read_baselines, read_front

    front = read_front(store)
    rows: list[dict[str, object]] = []
    for index, genome in enumerate(front.genomes):
        is_knee = index == front.knee
        test = None if front.test_values is None else front.test_values[index]
        rows.append(
            {
                "genome": f"{genome.id} ◆" if is_knee else genome.id,
                "rule": f"{genome.family} “{genome.name}”" if genome.name else genome.family,
                "id": genome.id,
                "kind": "evolved",
                "family": genome.family,
                "name": genome.name,
                "knee": is_knee,
                **_values(front.objectives, front.values[index], test),
            }
        )
    for baseline in read_baselines(store):
        rates = ", ".join(f"{rate:.3g}" for rate in baseline.learning_rates)
        rows.append(
            {
                "genome": "baseline",
                "rule": f"{baseline.rule}, lr {rates}",
                "id": "",
                "kind": "baseline",
                "family": baseline.rule,
                "name": f"tuned, lr {rates}",
                "knee": False,
                **_values(front.objectives, baseline.values, baseline.test_values),
            }
        )
    columns = [
        *(Column(key, readers="people") for key in ("genome", "rule")),
        *(Column(key, readers="programs") for key in ("id", "kind", "family", "name", "knee")),
    ]
    for objective in front.objectives:
        columns += _columns(objective, rows, _SPLITS if front.final else _SPLITS[:1])
    when = "" if front.final else f" after generation {store.last_generation()}, not yet final"
    return Listing(f"Pareto front of {store.name}{when}", columns, rows)


def _columns(
    objective: Objective, rows: Sequence[Mapping[str, object]], splits: Sequence[str]
) -> list[Column]:
    """One for each split; people see one only where both hold the same, as for costs."""
    keys = [f"{objective.name}.{split}" for split in splits]
    same = all(len({row[key] for key in keys}) == 1 for row in rows)
    return [
        Column(
            key,
            "\n".join(filter(None, [objective.name, objective.unit, "" if same else split])),
            readers="programs" if same and key != keys[0] else "all",
        )
        for key, split in zip(keys, splits, strict=True)
    ]


def _values(objectives: list[Objective], valid: Values, test: Values) -> dict[str, object]:
    """``objective.split`` → value."""
    found: dict[str, object] = {}
    for split, values in zip(_SPLITS, (valid, test), strict=True):
        if values is not None:
            found |= {f"{o.name}.{split}": float(values[j]) for j, o in enumerate(objectives)}
    return found
