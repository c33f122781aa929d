"""The engine and the meta-gradients against the plain loop of :mod:`evometa.inner.reference`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from compute_device import DEVICE, ON_CPU, on_device

from evometa import native
from evometa.genome.genes import Value
from evometa.inner import reference
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.task_set import PreparedTasks
from evometa.inner.unroll import advance, begin, loss_and_grad, unroll
from evometa.meta import TaskStream
from evometa.rng import numpy_generator
from evometa.rules.feature_table import METZ, RECURRENT_FEATURES, SHARED_FEATURES, VARYING_FEATURES
from evometa.rules.learner_structure import learner_space
from evometa.rules.registry import RULES
from evometa.tasks import build_family

N_TASKS, N_STEPS, N_CANDIDATES = 4, 12, 2
#: Each step rounds to 2⁻²⁴ what the next ones amplify. In N_STEPS steps errors add up to 1.2e-6; a factor of
#: ten is left for what the curvature of the tasks makes of them.
FLOAT32_BOUND = 10 * N_STEPS * 2.0**-24
#: The plain loop runs on a CPU: on another device tanh, exp and log have other last digits as well.
FLOAT64_BOUND = 1e-12 if ON_CPU else 1e-11

Structure = tuple[str, Mapping[str, Value]]
_RATES: dict[str, Value] = {"lr": 1e-3, "nominal_lr": 1e-2}


def _learned(family: str, **genes: Value) -> Structure:
    rates = {name: rate for name, rate in _RATES.items() if name == "lr" or genes.get("nominal") is not None}
    return family, {**rates, **genes}


def _drawn(family: str, number: int) -> Structure:
    """A structure from anywhere in the search space."""
    space = learner_space(RULES[family])
    genes = space.sample(numpy_generator(7, "structures", family, number))
    return family, {**genes, **{name: rate for name, rate in _RATES.items() if name in genes}}


HAND_DESIGNED: dict[str, Structure] = {
    name: (name, {"lr": 1e-3}) for name, family in RULES if not family.learned
}
OTHERS: dict[str, Structure] = {
    "adam with a learned schedule": ("adam", {"lr": 1e-3, "schedule": "recurrent"}),
    "nadam with a cosine": ("nadam", {"lr": 1e-3, "schedule": "warmup_cosine"}),
    "lstm 2×20": _learned("recurrent"),
    "lstm 1×4 of everything": _learned(
        "recurrent",
        layers=1,
        hidden=4,
        features=RECURRENT_FEATURES,
        shared_features=SHARED_FEATURES,
        output="direction_magnitude",
    ),
    "lstm 2×32 scales adam": _learned(
        "recurrent",
        hidden=32,
        features=("gradient", "rms_average_0.9"),
        output="rms_normalised",
        nominal="adam",
        combine="scale",
    ),
    "gru 1×20 beside sgd, learned schedule": _learned(
        "recurrent",
        cell="gru",
        layers=1,
        features=("log_sign", "parameter"),
        nominal="sgd",
        combine="add",
        schedule="recurrent",
    ),
    "gru 2×4": _learned(
        "recurrent",
        cell="gru",
        hidden=4,
        features=("log_sign_average_0.5", "rms_gradient"),
        shared_features=("progress",),
        output="rms_normalised",
    ),
    "gru 1×32 beside adam": _learned(
        "recurrent",
        cell="gru",
        layers=1,
        hidden=32,
        output="direction_magnitude",
        nominal="adam",
        combine="add",
        schedule="cosine",
    ),
    "vanilla 1×32 scales sgd": _learned(
        "recurrent",
        cell="vanilla",
        layers=1,
        hidden=32,
        features=("gradient", "average_0.99"),
        shared_features=("loss",),
        nominal="sgd",
        combine="scale",
    ),
    "vanilla 2×20 of everything": _learned(
        "recurrent",
        cell="vanilla",
        features=RECURRENT_FEATURES,
        shared_features=("time",),
        output="direction_magnitude",
    ),
    "mlp 2×4, Metz": _learned("mlp"),
    "mlp 1×32 of everything, beside adam": _learned(
        "mlp",
        layers=1,
        hidden=32,
        features=VARYING_FEATURES,
        shared_features=SHARED_FEATURES,
        output="rms_normalised",
        nominal="adam",
        combine="add",
    ),
    "mlp 3×20 scales sgd": _learned(
        "mlp",
        layers=3,
        hidden=20,
        features=("gradient", "log_sign", "row_0.9", "reciprocal_column_0.99"),
        shared_features=("loss",),
        output="direct",
        nominal="sgd",
        combine="scale",
    ),
    "mlp 1×4, learned schedule": _learned(
        "mlp",
        layers=1,
        features=("factored_gradient_0.999", "average_0.5"),
        shared_features=(),
        output="direct",
        schedule="recurrent",
    ),
    "mlp 2×32, Metz, scales adam": _learned(
        "mlp",
        hidden=32,
        features=METZ,
        shared_features=SHARED_FEATURES,
        nominal="adam",
        combine="scale",
        schedule="piecewise_linear",
    ),
    **{f"a {name} rule, {n}": _drawn(name, n) for name in ("recurrent", "mlp") for n in range(2)},
    "meta-LSTM": ("meta_lstm", {"initial_lr": 1e-3}),
    "meta-GRU of everything": (
        "meta_lstm",
        {
            "cell": "gru",
            "features": RECURRENT_FEATURES,
            "shared_features": SHARED_FEATURES,
            "initial_lr": 1e-3,
        },
    ),
    "hierarchical with a global level": _learned(
        "hierarchical", global_level=True, hidden=4, tensor_hidden=4
    ),
    "graph": ("graph", {"hidden": 4, "nominal_lr": 1e-3}),
}
STRUCTURES = HAND_DESIGNED | OTHERS
#: Task families by name, as a campaign's configuration names them.
TASKS: dict[str, tuple[str, dict[str, object]]] = {
    "digits": ("digits", {"widths": [6], "depths": [1], "tasks_per_architecture": 2}),
    "quadratic": ("quadratic", {}),
    "rosenbrock": ("rosenbrock", {}),
    "module": ("module_tasks:family", {"name": "layer_norm"}),
}
#: Every structure on one family in turn, and some on all (some of those that follow SGD diverge on some).
CASES = list(
    dict.fromkeys(
        [
            *((name, list(TASKS)[number % len(TASKS)]) for number, name in enumerate(HAND_DESIGNED)),
            *((name, list(TASKS)[number % len(TASKS)]) for number, name in enumerate(OTHERS, start=1)),
            *((structure, tasks) for structure in ("adam", "lstm 2×20", "mlp 2×4, Metz") for tasks in TASKS),
        ]
    )
)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """What the plain loop found: losses ``(P, T, K + 1)`` and held-out losses ``(P, T)``."""

    losses: Floats
    valid_losses: Floats


@pytest.fixture(scope="module")
def plain(cohort_of: Any, prepared_of: Any) -> Any:
    """The truth of a case in float64, computed once."""

    @cache
    def found(structure: str, tasks: str) -> Truth:
        losses, valid_losses = [], []
        parts = prepared_of(_family(tasks), N_TASKS, N_STEPS + 1, torch.float64)
        for candidate in cohort_of(*STRUCTURES[structure], n=N_CANDIDATES):
            subject = reference.Subject.of(candidate, torch.float64)
            runs = [(part, t, reference.train(subject, part, t, N_STEPS)) for part, t in _each(parts)]
            losses.append(torch.stack([run.losses for _, _, run in runs]))
            held_out = [reference.valid_loss(part, t, run.params) for part, t, run in runs]
            valid_losses.append(torch.stack(held_out))
        return Truth(torch.stack(losses).numpy(), torch.stack(valid_losses).numpy())

    return found


def _family(tasks: str) -> Any:
    return build_family(*TASKS[tasks])


def _each(parts: Sequence[PreparedTasks]) -> list[tuple[PreparedTasks, int]]:
    return [(part, t) for part in parts for t in range(part.tasks.n_tasks)]


def _errors(
    candidates: list[Candidate], parts: Sequence[PreparedTasks], truth: Truth, dtype: torch.dtype
) -> tuple[Floats, Floats]:
    """Relative errors of the engine's losses and held-out losses."""
    cohort = Cohort.of(candidates, DEVICE, dtype)
    sent = map(on_device, parts)
    records = [unroll(cohort, part.tasks, part.params, part.indices, N_STEPS) for part in sent]
    losses = np.concatenate([record.losses for record in records], axis=1)
    valid_losses = np.concatenate([record.valid_losses for record in records], axis=1)
    assert np.isfinite(truth.losses).all()
    assert losses.shape == (len(candidates), N_TASKS, N_STEPS + 1)
    return np.abs(losses / truth.losses - 1), np.abs(valid_losses / truth.valid_losses - 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("structure", "tasks"), CASES)
@pytest.mark.usefixtures("kernels", "module_tasks")
def test_trainings_are_those_of_the_plain_loop(
    structure: str, tasks: str, dtype: torch.dtype, plain: Any, cohort_of: Any, prepared_of: Any
) -> None:
    """In float32 as nearly as rounding allows, by quantiles: a kink's other side makes an outlier."""
    parts = prepared_of(_family(tasks), N_TASKS, N_STEPS + 1, dtype)
    truth = plain(structure, tasks)
    candidates = cohort_of(*STRUCTURES[structure], n=N_CANDIDATES)
    losses, valid_losses = _errors(candidates, parts, truth, dtype)
    if dtype == torch.float32:
        assert np.quantile(losses, 0.99) <= FLOAT32_BOUND
        return
    assert losses.max() <= FLOAT64_BOUND
    assert (np.isnan(valid_losses) == np.isnan(truth.valid_losses)).all()
    assert np.nanmax(valid_losses, initial=0.0) <= FLOAT64_BOUND


@pytest.mark.parametrize(
    "structure", ["adam", "nadam with a cosine", "gru 1×20 beside sgd, learned schedule"]
)
@pytest.mark.usefixtures("kernels")
def test_params_and_state_are_those_of_the_plain_loop(
    structure: str, cohort_of: Any, prepared_of: Any
) -> None:
    candidates = cohort_of(*STRUCTURES[structure], n=2)
    cohort = Cohort.of(candidates, DEVICE, torch.float64)
    part = prepared_of(_family("digits"), 2, N_STEPS + 1, torch.float64)[0]
    sent = on_device(part)
    carry = begin(cohort, sent.tasks.layout, sent.params, delay=0)
    for k in range(N_STEPS):
        losses, grads = loss_and_grad(sent.tasks, carry.params, sent.tasks.batch(sent.indices[:, k]))
        carry = advance(cohort, sent.tasks.layout, carry, losses, grads, N_STEPS)
    for p, candidate in enumerate(candidates):
        subject = reference.Subject.of(candidate, torch.float64)
        for t in range(part.tasks.n_tasks):
            run = reference.train(subject, part, t, N_STEPS)
            torch.testing.assert_close(carry.params[p, t].cpu(), run.params, rtol=1e-10, atol=1e-12)
            for name, value in carry.state.items():
                axis = next(i for i, n in enumerate(run.state[name].shape) if n == 1)
                own = value[p].narrow(axis, t, 1).cpu()
                torch.testing.assert_close(own, run.state[name], rtol=1e-10, atol=1e-12)


#: Structures whose meta-gradients are compared: each cell, both kinds of networks and the learned schedule.
LEARNED = [
    "adam with a learned schedule",
    "lstm 1×4 of everything",
    "gru 1×20 beside sgd, learned schedule",
    "vanilla 1×32 scales sgd",
    "mlp 2×4, Metz",
    "mlp 3×20 scales sgd",
]


@pytest.mark.parametrize(
    ("second_order", "kernels"),
    [
        pytest.param(False, True, id="first-kernels", marks=pytest.mark.cpu_alone("native kernels")),
        pytest.param(False, False, id="first-torch"),
        pytest.param(True, True, id="second"),  # of which kernels have nothing
    ],
)
@pytest.mark.parametrize("structure", LEARNED)
def test_truncated_bptt_equals_autograd_through_the_plain_loop(
    structure: str, second_order: bool, kernels: bool, cohort_of: Any, check_meta_gradients: Any
) -> None:
    use, options = TASKS["digits"]
    stream = TaskStream(use, json.dumps(options), n_tasks=2, horizon=12, seed=3)
    with nullcontext() if kernels else native.disabled():
        check_meta_gradients(cohort_of(*STRUCTURES[structure], n=2), stream, second_order)
