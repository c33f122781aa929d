"""Operators that train many steps refuse what does not fit together, in one line and before any step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from evometa import native
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.unroll import begin
from evometa.native.tasks import PerceptronTasks
from evometa.rng import torch_generator
from evometa.rules.learner import Learner
from evometa.tasks.mlp_model import MLP

P, T, K, B, N_ROWS = 2, 3, 5, 4, 30
MODEL = MLP((4, 5, 3), "tanh", "xavier", "class")
#: Where the tasks and the losses stand among the arguments of every such operator.
X, Y, BATCHES, SIZES, ACTIVATION, TARGET, LOSSES = range(-7, 0)
#: Family, operator, and where the operator takes params, and numbers of every step.
OPERATORS = {
    "adam": ("moments_train", 0, 7),
    "mlp": ("mlp_train", 0, 7),
    "recurrent": ("recurrent_train", 2, 1),
}
each_operator = pytest.mark.parametrize("family", OPERATORS)


@dataclass(frozen=True)
class Call:
    """A call of an operator, as a rule makes it."""

    operator: Callable[..., None]
    arguments: tuple[Any, ...]
    params: int
    numbers: int

    def having(self, *changes: tuple[int, Any]) -> Call:
        """The same with other arguments at some positions."""
        arguments = list(self.arguments)
        for position, value in changes:
            arguments[position] = value
        return replace(self, arguments=tuple(arguments))

    def __call__(self) -> Tensor:
        self.operator(*self.arguments)
        losses: Tensor = self.arguments[LOSSES]
        return losses


@pytest.fixture
def call(family: str, monkeypatch: pytest.MonkeyPatch) -> Call:
    for unit in native.units():
        reason = native.why_unavailable(unit)
        if reason is not None:
            pytest.skip(f"no kernel here: {reason}")
    operator, params, numbers = OPERATORS[family]
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr(torch.ops.evometa, operator, lambda *arguments: made.append(arguments))
    _train(family)
    monkeypatch.undo()
    return Call(getattr(torch.ops.evometa, operator), made[0], params, numbers)


def _train(family: str) -> None:
    drawn = torch_generator(0, "operators")
    inputs = {"features": ("gradient", "average_0.9"), "shared_features": ("time", "loss")}
    learner = Learner.of(family, {"schedule": "constant", **({} if family == "adam" else inputs)})
    weights = learner.init_weights(drawn)
    cohort = Cohort.of(
        [Candidate("", family, dict(learner.genes), weights)] * P, torch.device("cpu"), torch.float64
    )
    x = torch.randn((N_ROWS, 4), generator=drawn, dtype=torch.float64)
    y = torch.randint(3, (N_ROWS,), generator=drawn)
    batches = torch.randint(N_ROWS, (T, K, B), generator=drawn)
    tasks = PerceptronTasks(x, y, batches, MODEL.sizes, MODEL.activation, MODEL.target)
    carry = begin(cohort, MODEL.layout, MODEL.init_params(T, drawn).double(), delay=0)
    learner.train(
        cohort.weights, cohort.hyper, carry.state, carry.params, MODEL.layout, tasks, first=0, horizon=K
    )


def refusal(call: Call) -> str:
    """The one line with which it is refused; params must be as they were."""
    before = call.arguments[call.params].clone()
    with pytest.raises((RuntimeError, ValueError)) as refused:
        call()
    assert torch.equal(call.arguments[call.params], before)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@each_operator
def test_the_call_that_is_changed_below_is_right(call: Call) -> None:
    losses = call()
    assert losses.shape == (K, P, T)
    assert bool(torch.isfinite(losses).all())


@each_operator
@pytest.mark.parametrize("row", [N_ROWS, -1, 2**40, -(2**40)])
def test_rows_that_are_not_there(call: Call, row: int) -> None:
    batches = call.arguments[BATCHES].clone()
    batches[-1, -1, -1] = row
    assert "row that is not there" in refusal(call.having((BATCHES, batches)))


@each_operator
@pytest.mark.parametrize("label", [3, -1, 2**40])
def test_labels_that_are_no_class(call: Call, label: int) -> None:
    labels = call.arguments[Y].clone()
    labels[-1] = label
    assert f"label {label} is out of range for 3 classes" in refusal(call.having((Y, labels)))


@each_operator
@pytest.mark.parametrize(
    ("position", "change", "line"),
    [
        (X, torch.Tensor.float, "x and y have the wrong type"),
        (X, lambda x: x[:, :-1], r"x must be \(…, 4\) and y"),
        (X, lambda x: x[:-1], r"x must be \(…, 4\) and y"),
        (X, lambda x: x.T.contiguous().T, "contiguous"),
        (Y, torch.Tensor.int, "x and y have the wrong type"),
        (Y, torch.Tensor.double, "x and y have the wrong type"),
        (BATCHES, torch.Tensor.int, r"batches must be \(T, K, B\)"),
        (BATCHES, lambda batches: batches[:-1], r"batches must be \(T, K, B\)"),
        (
            BATCHES,
            lambda batches: batches[0],
            r"batches must be \(T, K, B\)|numbers of every step are wanted",
        ),
        (BATCHES, lambda batches: batches[..., :0], r"batches must be \(T, K, B\)"),
        (SIZES, lambda sizes: (4, 6, 3), "params must be"),
        (SIZES, lambda sizes: (4,), "a network has inputs and outputs"),
        (SIZES, lambda sizes: (4, 0, 3), "a layer has units"),
        (ACTIVATION, lambda name: "sine", "unknown activation sine"),
        (TARGET, lambda name: "rank", "unknown target rank"),
        (TARGET, lambda name: "value", "a value is one output"),
        (LOSSES, lambda losses: losses[:-1], r"losses must be \(K, P, T\)"),
        (LOSSES, lambda losses: losses[:, :1], r"losses must be \(K, P, T\)"),
        (LOSSES, lambda losses: losses.mT.contiguous().mT, r"losses must be \(K, P, T\)"),
        (LOSSES, torch.Tensor.float, "Double but found Float"),
    ],
)
def test_tasks_that_do_not_fit_together(
    call: Call, position: int, change: Callable[[Any], Any], line: str
) -> None:
    with pytest.raises(RuntimeError, match=line):
        call.having((position, change(call.arguments[position])))()
    refusal(call.having((position, change(call.arguments[position]))))


@each_operator
@pytest.mark.parametrize(
    "change",
    [
        torch.Tensor.float,
        torch.Tensor.long,
        lambda params: params[..., :-1].contiguous(),
        lambda params: params[0],
    ],
    ids=["float32", "integers", "too few", "no cohort"],
)
def test_params_of_another_kind(call: Call, change: Callable[[Tensor], Tensor]) -> None:
    refusal(call.having((call.params, change(call.arguments[call.params]))))


@each_operator
def test_numbers_of_every_step_are_wanted(call: Call) -> None:
    given = call.arguments[call.numbers]
    if isinstance(given, list):  # a number each, of every step; the last are the schedule's factors
        refusal(call.having((call.numbers, given[:-1])))
        refusal(call.having((call.numbers, [*given[:-1], given[-1][:-1]])))
        refusal(call.having((call.numbers, [*given[:-1], given[-1][:, :-1].expand(-1, 3, -1, -1)])))
        refusal(call.having((call.numbers, [*given[:-1], given[-1].float()])))
        return
    assert given.shape[1] > 0
    longer = torch.cat([given, given[:1]])
    for wrong in (given[:-1], longer, given[:, :-1].contiguous(), given.float()):
        refusal(call.having((call.numbers, wrong)))


@pytest.mark.parametrize(("family", "position"), [("mlp", 5), ("recurrent", 3)])
def test_factors_of_every_step_and_candidate_are_wanted(call: Call, position: int) -> None:
    factors = call.arguments[position]
    assert factors.shape == (K, P, 1)
    for wrong in (factors[:-1], factors.expand(K, P, T - 1).contiguous(), factors[..., 0], factors.float()):
        refusal(call.having((position, wrong)))
    with pytest.raises(RuntimeError):  # perhaps not before the first candidate is trained
        call.having((position, factors[:, :-1].contiguous()))()


@pytest.mark.parametrize(("family", "position"), [("mlp", 2), ("recurrent", 4)])
def test_first_losses_of_every_run_are_wanted(call: Call, position: int) -> None:
    first = call.arguments[position]
    assert first.shape == (P, T)
    for wrong in (first[:-1], first.T.contiguous(), first.float()):
        refusal(call.having((position, wrong)))


@pytest.mark.parametrize("family", ["adam"])
def test_moments_are_wanted_where_the_rule_keeps_them(call: Call) -> None:
    moment = call.arguments[1]
    for wrong in (None, moment[:-1], moment.float(), moment.mT.contiguous().mT):
        refusal(call.having((1, wrong)))
