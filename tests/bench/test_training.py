"""Baselines trained at once against plain loops over models with the very same optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lion_pytorch import Lion
from schedulefree import AdamWScheduleFree
from small_networks import SmallNetwork
from torch import Tensor, optim
from torch.optim.lr_scheduler import CosineAnnealingLR

from evometa.bench import training
from evometa.bench.baselines import BASELINES, Baseline, named
from evometa.bench.training import train
from evometa.errors import BenchError
from evometa.inner.evaluate import evaluate
from evometa.inner.task_set import TaskRequest, prepare, request
from evometa.inner.unroll import loss_and_grad
from evometa.objectives.baseline import baseline_candidate

CPU = torch.device("cpu")
HORIZON = 12
NETWORKS = request("small_networks:family", {}, "meta_train", 2, HORIZON + 1, 3)
DIGITS = request(
    "digits",
    {"widths": [6], "depths": [1], "activations": ["tanh"], "batch_size": 16, "tasks_per_architecture": 3},
    "meta_train",
    3,
    HORIZON + 1,
    3,
)
QUADRATICS = request("quadratic", {"dim": 4}, "meta_train", 3, HORIZON + 1, 3)
each_baseline = pytest.mark.parametrize("name", BASELINES)

Params = list[tuple[str, torch.nn.Parameter]]


def _all(make: Callable[..., optim.Optimizer], **settings: Any) -> Callable[..., list[optim.Optimizer]]:
    return lambda params, lr: [make([param for _, param in params], lr=lr, **settings)]


def _muon(params: Params, lr: float) -> list[optim.Optimizer]:
    matrices = ("hidden.weight", "head.weight")
    return [
        optim.Muon([p for name, p in params if name in matrices], lr=lr, adjust_lr_fn="match_rms_adamw"),
        optim.AdamW([p for name, p in params if name not in matrices], lr=lr),
    ]


#: What a training script would have, written down independently of the table.
SCRIPTS: dict[str, Callable[[Params, float], list[optim.Optimizer]]] = {
    "sgd": _all(optim.SGD),
    "momentum": _all(optim.SGD, momentum=0.9),
    "nesterov": _all(optim.SGD, momentum=0.9, nesterov=True),
    "rmsprop": _all(optim.RMSprop),
    "adam": _all(optim.Adam),
    "adamw": _all(optim.AdamW),
    "nadam": _all(optim.NAdam),
    "adafactor": _all(optim.Adafactor),
    "lion": _all(Lion),
    "schedule_free_adamw": _all(AdamWScheduleFree),
    "muon": _muon,
}


def losses_of_a_script(name: str, rate: float, wanted: TaskRequest, task: int) -> list[float]:
    """Losses along one training of a SmallNetwork in float64, as anybody would write it."""
    (part,) = prepare(wanted, CPU, torch.float64)
    model = SmallNetwork().double()
    initial = part.tasks.layout.views(part.params[task])
    model.load_state_dict({key: value.clone() for key, value in initial.items()})
    rule, _, schedule = name.partition("+")
    optimizers = SCRIPTS[rule](list(model.named_parameters()), rate)
    schedulers = [CosineAnnealingLR(each, HORIZON) for each in optimizers] if schedule else []
    assert part.indices is not None

    def loss_on(k: int) -> Tensor:
        assert part.indices is not None
        batch = part.tasks.batch(part.indices[:, k])
        return F.cross_entropy(model(batch["x"][task]), batch["y"][task])

    losses = []
    for k in range(HORIZON + 1):
        switch(optimizers, "eval")
        losses.append(loss_on(k).item())
        switch(optimizers, "train")
        if k == HORIZON:
            break
        for each in optimizers:
            each.zero_grad()
        loss_on(k).backward()
        for step in (*optimizers, *schedulers):
            step.step()
    return losses


def switch(optimizers: Iterable[optim.Optimizer], mode: str) -> None:
    """What Schedule-Free wants: the model at the average for evaluation, and back for training."""
    for each in optimizers:
        if isinstance(each, AdamWScheduleFree):
            getattr(each, mode)()


@each_baseline
def test_training_at_once_is_a_plain_loop_over_models(name: str) -> None:
    rates = [3e-3, 0.1]
    run = train(named(name), rates, NETWORKS, CPU, torch.float64)
    expected = [[losses_of_a_script(name, rate, NETWORKS, task) for task in range(2)] for rate in rates]
    np.testing.assert_allclose(run.record.losses, expected, rtol=1e-9)
    assert (run.record.status == "complete").all()
    assert np.ptp(run.record.losses[:, 0, -1]) > 1e-4  # the rates matter


@each_baseline
def test_runs_trained_at_once_are_those_trained_alone(name: str) -> None:
    """To the last bit: neither tasks nor learning rates see one another."""
    rates = [1e-3, 0.03]
    together = train(named(name), rates, DIGITS, CPU).record
    for task in range(DIGITS.n_tasks):
        for index, rate in enumerate(rates):
            alone = train(named(name), [rate], replace(DIGITS, only=(task, task + 1)), CPU).record
            np.testing.assert_array_equal(alone.losses[0, 0], together.losses[index, task])
            np.testing.assert_array_equal(alone.valid_losses[0, 0], together.valid_losses[index, task])


def test_looking_at_an_average_along_the_way_does_not_disturb_the_training() -> None:
    """To the last bit, over enough steps that roundings on the way there and back would be seen."""
    n_updates = 200
    wanted = replace(DIGITS, n_steps=n_updates + 1)
    (part,) = prepare(wanted, CPU)
    assert part.indices is not None
    batches = [part.tasks.batch(part.indices[:, k]) for k in range(n_updates + 1)]
    params = torch.nn.Parameter(part.params.clone())
    optimizer = AdamWScheduleFree([params], lr=0.03)
    optimizer.train()
    for batch in batches[:-1]:
        params.grad = loss_and_grad(part.tasks, params.detach()[None], batch)[1][0].clone()
        optimizer.step()
    optimizer.eval()
    final = loss_and_grad(part.tasks, params.detach()[None], batches[-1])[0]
    run = train(named("schedule_free_adamw"), [0.03], wanted, CPU)
    np.testing.assert_array_equal(run.record.losses[..., -1], final.double().numpy())


@pytest.mark.parametrize("name", ["adafactor", "muon"])
def test_what_is_not_element_wise_must_not_be_trained_as_if_it_were(name: str) -> None:
    row = named(name)
    wrong = replace(row, parts=(replace(row.parts[0], elementwise=True), *row.parts[1:]))
    run, pretended = (train(each, [0.03], DIGITS, CPU).record for each in (row, wrong))
    assert not np.allclose(run.losses[..., 1:], pretended.losses[..., 1:], rtol=1e-4)


ENGINE_GENES: dict[str, dict[str, float]] = {
    "sgd": {},
    "momentum": {"one_minus_momentum": 0.1},
    "nesterov": {"one_minus_momentum": 0.1},
    "rmsprop": {"one_minus_beta2": 0.01, "eps": 1e-8},
    "adam": {"one_minus_beta1": 0.1, "one_minus_beta2": 1e-3, "eps": 1e-8},
    "adamw": {"one_minus_beta1": 0.1, "one_minus_beta2": 1e-3, "eps": 1e-8, "weight_decay": 1e-2},
    "nadam": {"one_minus_beta1": 0.1, "one_minus_beta2": 1e-3, "eps": 1e-8, "momentum_decay": 4e-3},
    "lion": {"one_minus_beta1": 0.1, "one_minus_moment_decay": 0.01, "weight_decay": 1e-2},
}


def _for_engine(name: str) -> Baseline:
    """Lion's package decays no weights unless told to, and the engine's rule always does."""
    row = named(name)
    if name != "lion":
        return row
    return replace(row, parts=(replace(row.parts[0], settings={"weight_decay": 1e-2}),))


@pytest.mark.parametrize("name", ENGINE_GENES)
@pytest.mark.parametrize("wanted", [DIGITS, QUADRATICS], ids=["digits", "quadratics"])
def test_curves_are_paired_with_those_of_genomes(name: str, wanted: TaskRequest) -> None:
    rates = [1e-3, 0.02]
    run = train(_for_engine(name), rates, wanted, CPU, torch.float64)
    genomes = [baseline_candidate(name, rate, ENGINE_GENES[name]) for rate in rates]
    record = evaluate(genomes, wanted, CPU, torch.float64)
    np.testing.assert_allclose(run.record.losses, record.losses, rtol=1e-8)
    np.testing.assert_allclose(run.record.valid_losses, record.valid_losses, rtol=1e-8)
    assert run.record.descriptions == record.descriptions
    assert run.record.final_window == record.final_window


@pytest.mark.parametrize("name", ["sgd", "schedule_free_adamw"])
def test_a_run_that_diverges_is_marked_and_leaves_the_others_alone(name: str) -> None:
    wanted = replace(QUADRATICS, n_steps=101)
    run = train(named(name), [1e-3, 1e30], wanted, CPU).record
    assert (run.status == [["complete"] * 3, ["diverged"] * 3]).all()
    first_lost = np.isfinite(run.losses[1]).argmin(axis=-1)
    for task, step in enumerate(first_lost):
        assert np.isnan(run.losses[1, task, step + 1 :]).all()
    np.testing.assert_array_equal(run.losses[:1], train(named(name), [1e-3], wanted, CPU).record.losses)


def test_where_all_diverge_training_ends_early() -> None:
    run = train(named("sgd"), [1e30], replace(QUADRATICS, n_steps=10**6), CPU)
    assert (run.record.status == "diverged").all()


FLOATS_PER_PARAM = {
    "sgd": 0,
    "momentum": 1,
    "rmsprop": 1,
    "adam+cosine": 2,
    "nadam": 2,
    "lion": 1,
    "schedule_free_adamw": 2,
}


@pytest.mark.parametrize("name", FLOATS_PER_PARAM)
def test_the_state_is_measured_in_bytes_per_parameter(name: str) -> None:
    run = train(named(name), [1e-3, 1e-2], DIGITS, CPU)
    assert run.state_bytes_per_param == 4 * FLOATS_PER_PARAM[name]


def test_the_state_of_what_treats_matrices_otherwise_is_counted_tensor_by_tensor() -> None:
    n_biases, n_weights = 6 + 10, 64 * 6 + 6 * 10
    factors = (64 + 6) + (6 + 10)
    adafactor = train(named("adafactor"), [1e-3, 1e-2], DIGITS, CPU).state_bytes_per_param
    assert adafactor == pytest.approx(4 * (n_biases + factors) / (n_biases + n_weights))
    muon = train(named("muon"), [1e-3, 1e-2], DIGITS, CPU).state_bytes_per_param
    assert muon == pytest.approx((8 * n_biases + 4 * n_weights) / (n_biases + n_weights))


def test_time_is_measured_and_that_of_the_optimizer_apart() -> None:
    run = train(named("adam"), [1e-3], DIGITS, CPU)
    assert 0 < run.optimizer_seconds < run.seconds < 60


def test_on_a_gpu_the_time_of_the_optimizer_is_read_from_its_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in: events that are a second apart in the queue, whatever it takes to put them there."""
    queue: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            self.place = len(queue)
            queue.append(stream)

        def elapsed_time(self, other: Event) -> float:
            return 1000.0 * (other.place - self.place)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"that of {device}")
    clock = training._Clock(torch.device("cuda:1"))
    for _ in range(3):
        with clock():
            queue.append("work")
    assert queue == ["that of cuda:1", "work", "that of cuda:1"] * 3
    assert clock.seconds == 6.0


@pytest.mark.parametrize("name", ["adam+cosine", "muon"])
def test_settings_trained_some_at_a_time_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = [1e-3, 3e-3, 0.03]
    whole = train(named(name), rates, DIGITS, CPU)
    monkeypatch.setattr(training, "_MOST_COORDINATES", 1)
    apart = train(named(name), rates, DIGITS, CPU)
    np.testing.assert_array_equal(apart.record.losses, whole.record.losses)
    assert apart.state_bytes_per_param == whole.state_bytes_per_param


def test_tasks_of_several_architectures_are_trained_one_after_the_other() -> None:
    wanted = replace(DIGITS, options='{"batch_size": 16, "tasks_per_architecture": 1}')
    run = train(named("muon"), [1e-2], wanted, CPU).record
    assert len(set(run.descriptions)) > 1
    np.testing.assert_array_equal(
        run.losses[0, :, 0], evaluate([baseline_candidate("sgd", 1e-2)], wanted, CPU).losses[0, :, 0]
    )
    assert (run.losses[..., -1] < run.losses[..., 0]).all()


def test_a_baseline_for_matrices_refuses_tasks_without_any() -> None:
    with pytest.raises(BenchError, match=r"'muon' is made for matrices, and quadratic l2l.* has none"):
        train(named("muon"), [1e-2], QUADRATICS, CPU)


def test_a_training_without_an_update_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 minibatches, 1"):
        train(named("adam"), [1e-2], replace(DIGITS, n_steps=1), CPU)
