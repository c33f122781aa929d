"""A functional hash: what says that two learners make the same updates, whatever their genes are called.

Learners that are formulas, without weights or with weights that only move their numbers, are tried out on a
few made-up gradients, in float64; updates that float32 cannot tell apart give equal hashes, so momentum with
a decay of 0 is SGD. (Real, Liang et al. 2020, "AutoML-Zero: evolving machine learning algorithms from
scratch", compare programs in this way.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evometa.inner.cohort import Candidate, grouped
from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules.base import StepContext
from evometa.rules.learner import Learner
from evometa.rules.registry import RULES
from evometa.rules.schedule_space import schedule_space
from evometa.trees import Tree, stack, take, tree_map, under_prefix

#: Tensors of the made-up model: rules may work matrix by matrix.
_LAYOUT = Layout.of({"weight": (3, 4), "bias": (4,), "scale": ()})
_N_TASKS = 2
#: Steps in a row at the start of training, where biases are corrected; then as many over the rest of it.
_N_STEPS = 3
#: Most steps at which the schedule is looked at by itself.
_MOST_FACTORS = 4096


def is_probed(candidate: Candidate) -> bool:
    """Whether the hash is of updates; else it is of all that they are made from, which is as good as unique.

    Networks that were meta-trained give the same updates only if they have the same weights. Schedules that
    answer to the loss would have to be tried on a whole training, and so would rules of a user's own, which
    may do something else at a step that is not tried.
    """
    is_known = candidate.family in RULES.built_in_members
    learner = candidate.learner
    is_formula = not candidate.weights or (learner.rule_family.is_formula and learner.initialisation is None)
    return is_known and is_formula and learner.schedule.elementwise


def ingredients_hash(candidate: Candidate, weights: str | None) -> str:
    """The hash of a candidate's structure, its continuous genes and the content hash of its weights."""
    learner = candidate.learner
    return _hash(json.dumps([learner.structure, learner.hyper, weights], sort_keys=True).encode())


def by_rule(candidates: Sequence[Candidate]) -> dict[Hashable, list[int]]:
    """Indices of candidates grouped by the structure of their rule, whatever their schedules."""
    return grouped((candidate.family, candidate.learner.parts[0]) for candidate in candidates)


@torch.no_grad()
def updates_hashes(candidates: Sequence[Candidate], horizons: Sequence[int]) -> list[str]:
    """The hash of what each of ``candidates``, to be probed and of equal :func:`by_rule`, does in training.

    ``horizons`` are the lengths of training that it shall be equal for.
    """
    learners = [candidate.learner for candidate in candidates]
    weights = stack([tree_map(Tensor.double, under_prefix("rule", one.weights)) for one in candidates])
    seen = [part for horizon in horizons for part in _seen(learners, weights, horizon)]
    rows = torch.cat([part.reshape(len(candidates), -1) for part in seen], dim=1).numpy()
    return [_hash(row.tobytes()) for row in _rounded(rows)]


def _seen(learners: Sequence[Learner], weights: Tree, horizon: int) -> tuple[Tensor, Tensor]:
    """The made-up model's params after each step, and the course of the schedule's factor, each ``(P, …)``.

    The course, because between two of the steps it may drop; relative to its largest, since the params tell
    how large it is together with the rule's rate.
    """
    early = range(min(_N_STEPS, horizon))
    late = range(horizon - 1, _N_STEPS - 1, -max(1, horizon // _N_STEPS))
    steps = torch.tensor([*early, *reversed(late)], dtype=torch.float64)
    looks = torch.linspace(0, horizon - 1, min(horizon, _MOST_FACTORS), dtype=torch.float64).round()
    factors = _factors(learners, torch.cat([steps, looks]), horizon)
    course = factors[:, len(steps) :]
    course = course / course.abs().amax(dim=1, keepdim=True).clamp(min=1e-300)
    return _updates(learners, weights, steps, factors, horizon), course


def _updates(
    learners: Sequence[Learner], weights: Tree, steps: Tensor, factors: Tensor, horizon: int
) -> Tensor:
    """The params after each of ``steps`` ``(P, K, T, N)``, on which the schedules give ``factors``."""
    rule, generator = learners[0].rule, torch_generator(0, "fingerprint")
    shape = (len(steps), _N_TASKS, _LAYOUT.size)
    start = torch.randn(shape[1:], generator=generator, dtype=torch.float64)
    # Some so near zero that a step changes their sign, where thresholds act.
    start = start * 10.0 ** torch.empty_like(start).uniform_(-6.0, 0.0, generator=generator)
    exponents = torch.empty(shape, dtype=torch.float64).uniform_(-3.0, 1.0, generator=generator)
    gradients = torch.randn(shape, generator=generator, dtype=torch.float64) * 10.0**exponents
    losses = torch.rand(shape[:2], generator=generator, dtype=torch.float64)

    def spread(value: Tensor) -> Tensor:
        return value.expand(len(learners), *value.shape)

    own = [name for name in learners[0].hyper if name not in schedule_space()]
    hyper = _stacked(learners, own)
    fresh = rule.init_state(take(weights, 0), start, _LAYOUT)
    params, state, passed = spread(start), tree_map(spread, fresh), []
    planned = torch.full((), float(horizon), dtype=torch.float64)
    for k, (step, gradient, loss) in enumerate(zip(steps, gradients, losses, strict=True)):
        context = StepContext(_LAYOUT, step, planned, loss)

        def update(
            weights: Tree,
            hyper: Tree,
            state: Tree,
            params: Tensor,
            factor: Tensor,
            gradient: Tensor = gradient,
            context: StepContext = context,
        ) -> tuple[Tensor, Tree]:
            change, after = rule.update(weights, hyper, state, gradient, params, context)
            return params + factor * change, after

        params, state = torch.vmap(update)(weights, hyper, state, params, factors[:, k])
        passed.append(params)
    return torch.stack(passed, dim=1)


def _factors(learners: Sequence[Learner], steps: Tensor, horizon: int) -> Tensor:
    """What each schedule multiplies the step by at ``steps`` ``(P, K)``."""
    planned = torch.full((), float(horizon), dtype=torch.float64)
    context = StepContext(_LAYOUT, steps.unsqueeze(1), planned, None)
    found = torch.empty((len(learners), len(steps)), dtype=torch.float64)
    for members in grouped(learner.parts[1] for learner in learners).values():
        some = [learners[index] for index in members]
        hyper = _stacked(some, [name for name in some[0].hyper if name in schedule_space()])
        factor, _ = some[0].schedule.factor({}, hyper, {}, context)
        found[members] = factor.expand(len(steps), len(members)).T
    return found


def _stacked(learners: Sequence[Learner], names: Sequence[str]) -> Tree:
    """Continuous genes ``(P,)``."""
    return {
        name: torch.tensor([learner.hyper[name] for learner in learners], dtype=torch.float64)
        for name in names
    }


def _rounded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """``values`` in float32, in which models are trained; one NaN is as good as another, and -0.0 is 0."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32) + np.float32(0)
    rounded[np.isnan(rounded)] = np.nan
    return rounded


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
