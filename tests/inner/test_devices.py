"""An inner step stays on its device: nothing is sent there, asked back, or left on the host.

There need be no GPU: on PyTorch's device ``meta``, which knows shapes and types but no values, asking for a
value fails, and so does mixing tensors of two devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from evometa.genome.genes import Value
from evometa.inner.cohort import Candidate, Cohort
from evometa.inner.graphs import StaticLoop
from evometa.inner.task_set import prepare, request
from evometa.inner.unroll import UnrollState, advance, begin, loss_and_grad
from evometa.rng import torch_generator
from evometa.rules.learner import Learner
from evometa.rules.learner_structure import learner_space
from evometa.rules.registry import RULES, SCHEDULES
from evometa.tasks.base import TaskBatch, send
from evometa.tasks.registry import TASKS
from evometa.tasks.supervised import supervised
from evometa.trees import Tree

CPU, META = torch.device("cpu"), torch.device("meta")


#: These copy numbers from the host. Device ``meta`` lets them pass without copying, so they are named.
FROM_HOST = (
    torch.tensor,
    torch.as_tensor,
    torch.asarray,
    torch.from_numpy,
    torch.scalar_tensor,
    Tensor.new_tensor,
)


class HostCopies(TorchDispatchMode):
    """Notes operations that send tensors between host and device, or work on the host.

    Single numbers on the host are no matter: they travel with the operation, and a graph keeps them.
    """

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in tree_leaves((args, kwargs, result)) if isinstance(value, Tensor)]
        host = [tensor for tensor in tensors if tensor.device.type == "cpu"]
        if any(tensor.dim() for tensor in host) or (
            host and "copy" in str(func) and len(host) < len(tensors)
        ):
            self.found.append(str(func))
        return result


class HostNumbers(TorchFunctionMode):
    """Notes calls that make tensors of the host's numbers."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in FROM_HOST:
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


def cohort(family: str, n: int, **genes: Value) -> Cohort:
    complete = learner_space(RULES[family]).complete({"schedule": "constant", **genes})
    learner = Learner.of(family, complete)
    members = [
        Candidate(f"c{i}", family, complete, learner.init_weights(torch_generator(i, family)))
        for i in range(n)
    ]
    return Cohort.of(members, META)


class Attention(nn.Module):
    """An embedding, attention, a layer norm, a convolution and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.convolution = nn.Conv1d(4, 3, 2)
        self.register_buffer("scale", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embedding(x)
        hidden = self.norm(hidden + self.attention(hidden, hidden, hidden, need_weights=False)[0])
        return self.convolution(hidden.mT).mean(-1) * self.scale


def own_tasks() -> list[TaskBatch]:
    generator = torch_generator(0, "own")
    x = torch.randint(5, (40, 6), generator=generator)
    y = torch.randint(3, (40,), generator=generator)
    family = supervised(
        name="own",
        model=Attention,
        loss=nn.functional.cross_entropy,
        train=(x, y),
        valid=(x, y),
        batch_size=4,
    )
    return family.sample("meta_train", 3, generator)


def tasks_of(use: str) -> list[TaskBatch]:
    if use == "own":
        return own_tasks()
    options = {"tasks_per_architecture": 3} if use == "digits" else {}
    return [part.tasks for part in prepare(request(use, options, "meta_train", 3, 4, seed=1), CPU)]


def on_meta(tasks: TaskBatch) -> tuple[TaskBatch, Tensor, Tensor | None]:
    """Tasks, initial params and the rows of four minibatches on the device without values."""
    generator = torch_generator(0, "rows")
    indices = tasks.index_stream(4, generator)
    params = tasks.init_params(generator).to(META)
    return tasks.to(META), params, None if indices is None else indices.to(META)


def replayed_step(members: Cohort, tasks: TaskBatch, params: Tensor, indices: Tensor | None) -> list[str]:
    """Make one step as a GPU would record it; what in it had to do with the host."""

    def step(params: Tensor, state: Tree, rows: Tensor | None, count: Tensor) -> tuple[Tensor, Tensor, Tree]:
        losses, grads = loss_and_grad(tasks, params, tasks.batch(rows))
        after = advance(
            members, tasks.layout, UnrollState(params, state, 0), losses, grads, 3, overwrite=True, step=count
        )
        assert after.params.shape == grads.shape == params.shape
        assert {name: value.shape for name, value in after.state.items()} == {
            name: value.shape for name, value in state.items()
        }
        return losses, after.params, after.state

    carry = begin(members, tasks.layout, params, tasks.gradient_delay)
    history = torch.empty((4, members.n_candidates, tasks.n_tasks), device=META)
    loop = StaticLoop(step, carry.params, carry.state, indices, history)
    found: list[str] = []
    with torch.no_grad(), HostCopies(found), HostNumbers(found):
        loop.advance()
    return found


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("use", [*TASKS.built_in, "own"])
def test_a_step_of_every_task_family_stays_on_the_device(use: str, n: int) -> None:
    for tasks in tasks_of(use):
        assert replayed_step(cohort("adam", n), *on_meta(tasks)) == []


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("family", RULES.built_in)
def test_a_step_of_every_rule_stays_on_the_device(family: str, n: int) -> None:
    for tasks in tasks_of("digits"):
        assert replayed_step(cohort(family, n), *on_meta(tasks)) == []


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(
    ("family", "cell", "output"),
    [
        ("mlp", None, "direct"),
        ("mlp", None, "rms_normalised"),
        ("recurrent", "vanilla", "direct"),
        ("recurrent", "gru", "direction_magnitude"),
        ("recurrent", "lstm", "rms_normalised"),
    ],
)
def test_a_step_with_every_feature_stays_on_the_device(
    family: str, cell: str | None, output: str, n: int
) -> None:
    space = learner_space(RULES[family])
    genes: dict[str, Value] = {name: space[name].options for name in ("features", "shared_features")}
    genes |= {"output": output, "nominal": "adam", "hidden": 4}
    if cell:
        genes["cell"] = cell
    for tasks in tasks_of("digits"):
        assert replayed_step(cohort(family, n, **genes), *on_meta(tasks)) == []


@pytest.mark.parametrize("schedule", SCHEDULES.built_in)
def test_a_step_of_every_schedule_stays_on_the_device(schedule: str) -> None:
    for tasks in tasks_of("rosenbrock"):
        assert replayed_step(cohort("sgd", 2, schedule=schedule), *on_meta(tasks)) == []


def test_a_gpu_fetches_tasks_from_pinned_memory_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in: what is asked of PyTorch where there is no GPU to send to."""
    sent: list[tuple[str, tuple[int, ...]]] = []

    def pin_memory(value: Tensor) -> Tensor:
        sent.append(("pinned", tuple(value.shape)))
        return value

    def to(value: Tensor, target: torch.device | torch.dtype, **options: bool) -> Tensor:
        if isinstance(target, torch.device):
            sent.append(
                ("sent, not awaited" if options == {"non_blocking": True} else "sent", tuple(value.shape))
            )
        return value

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(Tensor, "to", to)
    repeated = torch.ones(2, 3).expand(4, 2, 3)
    assert torch.equal(send(repeated, torch.device("cuda"), torch.float32), repeated)
    assert sent == [("pinned", (1, 2, 3)), ("sent, not awaited", (1, 2, 3))]


def test_what_tasks_share_stays_shared_on_the_device() -> None:
    (tasks,) = own_tasks()
    moved = tasks.to(META, torch.float64)
    scale = moved.constants["frozen.scale"]
    assert (scale.shape, scale.stride(0), scale.dtype) == ((3, 3), 0, torch.float64)
    assert moved.train_rows is not None
    assert moved.train_rows.stride(0) == 0
    assert moved.rows["x"].dtype == torch.int64
