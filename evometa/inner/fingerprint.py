"""A functional hash: what says that two learners make the same updates, whatever their genes are called.

Learners without weights are tried out on a few made-up gradients, in float64; updates that float32 cannot
tell apart give equal hashes, so momentum with a decay of 0 is SGD. (Real, Liang et al. 2020, "AutoML-Zero:
evolving machine learning algorithms from scratch", compare programs in this way.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.unroll import UnrollState, advance, begin
from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules.base import StepContext

#: Tensors of the made-up model: rules may work matrix by matrix.
_LAYOUT = Layout.of({"weight": (3, 4), "bias": (4,), "scale": ()})
_N_TASKS = 2
#: Steps in a row at the start of training, where biases are corrected; then as many over the rest of it.
_N_STEPS = 3
#: Most steps at which the schedule is looked at by itself.
_MOST_FACTORS = 4096


def is_probed(candidate: Candidate) -> bool:
    """Whether the hash is of updates; else it is of all that they are made from, which is as good as unique.

    Weights that were meta-trained give the same updates only if they are the same weights. Schedules that
    answer to the loss would have to be tried on a whole training.
    """
    return not candidate.weights and candidate.learner.schedule.elementwise


def ingredients_hash(candidate: Candidate, weights: str | None) -> str:
    """The hash of a candidate's structure, its continuous genes and the content hash of its weights."""
    learner = candidate.learner
    return _hash(json.dumps([learner.structure, learner.hyper, weights], sort_keys=True).encode())


def updates_hashes(candidates: Sequence[Candidate], horizons: Sequence[int]) -> list[str]:
    """The hash of what each of ``candidates``, of equal structure and to be probed, does in training.

    ``horizons`` are the lengths of training that it shall be equal for.
    """
    cohort = Cohort.of(candidates, torch.device("cpu"), torch.float64)
    seen = [part for horizon in horizons for part in (_updates(cohort, horizon), _factors(cohort, horizon))]
    rows = np.concatenate([part.reshape(len(candidates), -1) for part in seen], axis=1)
    return [_hash(row.tobytes()) for row in _rounded(rows)]


@torch.no_grad()
def _updates(cohort: Cohort, horizon: int) -> npt.NDArray[np.float64]:
    """The made-up model's params after each step ``(P, …)``."""
    generator = torch_generator(0, "fingerprint")
    early = range(min(_N_STEPS, horizon))
    late = range(horizon - 1, _N_STEPS - 1, -max(1, horizon // _N_STEPS))
    steps = [*early, *reversed(late)]
    shape = (len(steps), _N_TASKS, _LAYOUT.size)
    params = torch.randn(shape[1:], generator=generator, dtype=torch.float64)
    exponents = torch.empty(shape, dtype=torch.float64).uniform_(-3.0, 1.0, generator=generator)
    gradients = torch.randn(shape, generator=generator, dtype=torch.float64) * 10.0**exponents
    losses = torch.rand(shape[:2], generator=generator, dtype=torch.float64)
    carry, passed = begin(cohort, _LAYOUT, params), []
    for step, gradient, loss in zip(steps, gradients, losses, strict=True):
        here = UnrollState(carry.params, carry.state, step)
        each = loss.expand(cohort.n_candidates, -1), gradient.expand(cohort.n_candidates, -1, -1)
        carry = advance(cohort, _LAYOUT, here, *each, horizon)
        passed.append(carry.params)
    return torch.stack(passed, dim=1).numpy()


@torch.no_grad()
def _factors(cohort: Cohort, horizon: int) -> npt.NDArray[np.float64]:
    """The course of the schedule's factor ``(P, …)``: between two of the steps above it may drop.

    Relative to its largest, since the updates above tell how large it is together with the rule's rate.
    """
    n_looks = min(horizon, _MOST_FACTORS)
    count = torch.linspace(0, horizon - 1, n_looks, dtype=torch.float64).round().unsqueeze(1)
    planned = torch.full((), float(horizon), dtype=torch.float64)
    context = StepContext(_LAYOUT, count, planned, None)
    factor, _ = cohort.learner.schedule.factor({}, cohort.hyper, {}, context)
    course = factor.expand(n_looks, cohort.n_candidates).T
    return (course / course.abs().amax(dim=1, keepdim=True).clamp(min=1e-300)).numpy()


def _rounded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """``values`` in float32, in which models are trained; one NaN is as good as another, and -0.0 is 0."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32) + np.float32(0)
    rounded[np.isnan(rounded)] = np.nan
    return rounded


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
