"""ES, PES and hybrids against meta-gradients written down by hand, over many seeds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from evometa.inner import plan
from evometa.meta import ESTIMATORS

#: σ is small enough for what its square adds to vanish beside the standard error.
GENES = {"loss": "mean", "sigma": (1e-4, 1e-3), "pairs": 64}
FEW = {**GENES, "pairs": 3}
N_SEEDS = 40


def errors(setting: Any, name: str, *, truncated: bool) -> Tensor:
    """Estimates minus what they should be, ``(seeds, segments, P, 2)``, each seed on tasks of its own."""
    seeded = [setting.with_seed(seed) for seed in range(N_SEEDS)]
    return torch.stack([one.estimates(name, **GENES) - one.exact(truncated=truncated) for one in seeded])


def in_standard_errors(found: Tensor) -> Tensor:
    """How far the mean over seeds is from 0."""
    return (found.mean(dim=0) / (found.std(dim=0) / len(found) ** 0.5)).abs()


def test_es_is_unbiased_within_segments_and_blind_to_earlier_ones(setting: Any) -> None:
    assert float(in_standard_errors(errors(setting, "es", truncated=True)).max()) < 3
    bias = errors(setting, "es", truncated=False)[..., 0]
    assert float(in_standard_errors(bias[:, 0]).max()) < 3, "nothing comes before the first segment"
    assert float(in_standard_errors(bias[:, 1:]).min()) > 5
    assert float(in_standard_errors(bias.sum(dim=1)).min()) > 5


def test_pes_is_unbiased_for_the_whole_episode(setting: Any) -> None:
    found = errors(setting, "pes", truncated=False)
    assert float(in_standard_errors(found).max()) < 3
    assert float(in_standard_errors(found.sum(dim=1)).max()) < 3
    # and tells the two apart: a truncated gradient is not what it estimates
    other = errors(setting, "pes", truncated=True)[..., 0]
    assert float(in_standard_errors(other.sum(dim=1)).min()) > 5


def test_es_and_pes_part_where_the_second_segment_begins_and_meet_in_the_next_episode(setting: Any) -> None:
    found = []
    for name in ("es", "pes"):
        problem = setting.problem(estimator=name, **FEW)
        session = ESTIMATORS[name].begin(problem)
        found.append([session.estimate(problem.cohort.weights).grads["rule.rate"] for _ in range(5)])
    same = [torch.allclose(es, pes, rtol=1e-9) for es, pes in zip(*found, strict=True)]
    assert same == [True, False, False, True, False]


def test_es_goes_on_from_the_unperturbed_training(setting: Any) -> None:
    """With perturbations that do nothing, its losses are those of backpropagation's own training."""
    seen = []
    for name in ("tbptt", "es"):
        problem = setting.problem(estimator=name, **{**FEW, "sigma": 1e-12})
        session = ESTIMATORS[name].begin(problem)
        seen.append(torch.stack([session.estimate(problem.cohort.weights).losses for _ in range(4)]))
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", ["es", "pes"])
def test_pieces_do_not_change_the_estimate(setting: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    together = setting.estimates(name, **FEW)
    monkeypatch.setattr(plan, "CPU_MAPPED_FLOATS", 1)
    torch.testing.assert_close(setting.estimates(name, **FEW), together, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("second", ["es", "pes"])
def test_a_hybrid_is_the_weighted_sum_of_its_parts(setting: Any, second: str) -> None:
    mix = (0.25, 1.0)
    weight = torch.tensor(mix, dtype=torch.float64).unsqueeze(-1)
    parts = setting.estimates("tbptt", loss="mean", second_order=True), setting.estimates(second, **FEW)
    found = setting.estimates(f"tbptt+{second}", **FEW, second_order=True, mix=mix)
    torch.testing.assert_close(found, (1 - weight) * parts[0] + weight * parts[1], rtol=1e-9, atol=1e-12)
