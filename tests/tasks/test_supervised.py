from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.overrides import TorchFunctionMode

from evometa.errors import TaskError
from evometa.inner.meter import MemoryMeter
from evometa.rng import torch_generator
from evometa.tasks import SPLITS, TaskBatch, supervised
from evometa.tasks.supervised import Supervised

GENERATOR = torch_generator(0, "user data")
X = torch.randn((100, 4), generator=GENERATOR)
Y = torch.randint(3, (100,), generator=GENERATOR)
XV = torch.randn((30, 4), generator=GENERATOR)
YV = torch.randint(3, (30,), generator=GENERATOR)


def make_module() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def family(model: Callable[[], nn.Module] = make_module, **changes: object) -> Supervised:
    arguments: dict[str, object] = {
        "name": "mine",
        "model": model,
        "loss": nn.functional.cross_entropy,
        "train": (X, Y),
        "valid": (XV, YV),
        "batch_size": 10,
    }
    return supervised(**{**arguments, **changes})  # type: ignore[arg-type]


def sampled(mine: Supervised, n_tasks: int = 3) -> TaskBatch:
    (batch,) = mine.sample("meta_train", n_tasks, torch_generator(0, "tasks"))
    return batch


def losses_and_grads(batch: TaskBatch) -> tuple[Tensor, Tensor]:
    stream = batch.index_stream(1, torch_generator(0, "rows"))
    assert stream is not None
    rows = batch.batch(stream[:, 0])
    grads, losses = vmap(grad_and_value(batch.loss))(batch.init_params(torch_generator(0, "init")), rows)
    return losses, grads


def test_loss_and_gradient_are_those_of_the_module() -> None:
    batch = sampled(family())
    params = batch.init_params(torch_generator(0, "init"))
    stream = batch.index_stream(1, torch_generator(0, "rows"))
    assert stream is not None
    losses, grads = losses_and_grads(batch)
    for task in range(batch.n_tasks):
        module = make_module()
        module.load_state_dict(batch.layout.views(params[task]))
        rows = stream[task, 0]
        loss = nn.functional.cross_entropy(module(batch.rows["x"][rows]), batch.rows["y"][rows])
        loss.backward()  # type: ignore[no-untyped-call]
        flat = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
        torch.testing.assert_close(losses[task], loss.detach())
        torch.testing.assert_close(grads[task], flat)


def test_every_task_starts_from_an_initialisation_of_the_modules_own() -> None:
    params = sampled(family(), 50).init_params(torch_generator(0))
    weights = params[:, : 4 * 6]
    assert len(torch.unique(params, dim=0)) == 50
    assert float(weights.abs().max()) <= 0.5  # nn.Linear: uniform within 1/√4
    assert float(weights.abs().max()) > 0.49


def test_initialisation_depends_on_the_generator_alone() -> None:
    batch = sampled(family())
    before = torch.get_rng_state()
    first = batch.init_params(torch_generator(1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert torch.equal(batch.init_params(torch_generator(1)), first)
    assert not torch.equal(batch.init_params(torch_generator(2)), first)


def test_every_row_belongs_to_one_split_and_one_side() -> None:
    mine = family()
    train: list[bytes] = []
    valid: list[bytes] = []
    for split, n_train, n_valid in zip(SPLITS, (60, 20, 20), (18, 6, 6), strict=True):
        (batch,) = mine.sample(split, 2, torch_generator(0))
        assert batch.train_rows is not None
        assert batch.valid_rows is not None
        assert batch.train_rows.shape == (2, n_train)
        assert batch.valid_rows.shape == (2, n_valid)
        train += [row.numpy().tobytes() for row in batch.rows["x"][batch.train_rows[0]]]
        valid += [row.numpy().tobytes() for row in batch.rows["x"][batch.valid_rows[0]]]
    assert sorted(train) == sorted(row.numpy().tobytes() for row in X)
    assert sorted(valid) == sorted(row.numpy().tobytes() for row in XV)


def test_inputs_stay_beside_their_targets() -> None:
    x = torch.arange(100.0).unsqueeze(1)
    mine = supervised(
        name="pairs",
        model=lambda: nn.Linear(1, 1),
        loss=nn.functional.mse_loss,
        train=(x, 2 * x),
        valid=(x + 1000, 2 * x + 2000),
        batch_size=5,
    )
    for split in SPLITS:
        (batch,) = mine.sample(split, 1, torch_generator(0))
        assert torch.equal(batch.rows["y"], 2 * batch.rows["x"])


def test_valid_rows_may_be_left_out() -> None:
    batch = sampled(family(valid=None))
    assert batch.valid_rows is None
    assert batch.valid_batch() is None


def test_numpy_arrays_and_tensors_give_the_same_family_and_are_not_edited() -> None:
    x, y = X.double().numpy().copy(), Y.to(torch.int32).numpy().copy()
    from_numpy = sampled(family(train=(x, y), valid=(XV.numpy(), YV.numpy())))
    from_torch = sampled(family())
    assert from_numpy.rows["x"].dtype == torch.float32
    assert from_numpy.rows["y"].dtype == torch.int64
    assert torch.equal(from_numpy.rows["x"], from_torch.rows["x"])
    assert np.array_equal(x, X.double().numpy())


def test_embeddings_take_integer_inputs() -> None:
    tokens = torch.randint(7, (100, 5), generator=torch_generator(0))
    targets = tokens.sum(1).float()

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 4)
            self.out = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(self.embedding(x).mean(-2)).squeeze(-1)
            return out

    mine = family(Bag, loss=nn.functional.mse_loss, train=(tokens, targets), valid=None)
    losses, grads = losses_and_grads(sampled(mine))
    assert torch.isfinite(losses).all()
    assert (grads.abs().sum(1) > 0).all()


def test_buffers_that_stay_and_frozen_parameters_are_constants() -> None:
    class Encoded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("shift", torch.arange(4.0), persistent=False)
            self.scale = nn.Parameter(torch.full((4,), 2.0), requires_grad=False)
            self.out = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(self.scale * x + self.shift)
            return out

    batch = sampled(family(Encoded))
    assert [segment.name for segment in batch.layout.segments] == ["out.weight", "out.bias"]
    params = batch.init_params(torch_generator(0))
    weight, bias = batch.layout.views(params[0]).values()
    scores = (2 * batch.rows["x"][:10] + torch.arange(4.0)) @ weight.T + bias
    one = {name: value[0] for name, value in batch.constants.items()}
    got = batch.loss(params[0], {"x": batch.rows["x"][:10], "y": batch.rows["y"][:10], **one})
    torch.testing.assert_close(got, nn.functional.cross_entropy(scores, batch.rows["y"][:10]))
    moved = batch.to(torch.device("cpu"), torch.float64)
    assert vmap(moved.loss)(params.double(), moved.valid_batch()).dtype == torch.float64


def test_tied_parameters_are_one_tensor() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.outer = nn.Linear(4, 4)
            self.outer.weight = self.inner.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.outer(self.inner(x).relu())
            return out

    batch = sampled(family(Tied))
    assert batch.layout.size == 4 * 4 + 2 * 4
    params = batch.init_params(torch_generator(0))
    tensors = batch.layout.views(params[0])
    weight = tensors["inner.weight"]
    x = batch.rows["x"][:10]
    scores = (x @ weight.T + tensors["inner.bias"]).relu() @ weight.T + tensors["outer.bias"]
    got = batch.loss(params[0], {"x": x, "y": batch.rows["y"][:10]})
    torch.testing.assert_close(got, nn.functional.cross_entropy(scores, batch.rows["y"][:10]))


def fused_attention_is_allowed() -> bool:
    return torch.backends.cuda.flash_sdp_enabled()


def test_attention_is_not_fused_and_the_setting_comes_back() -> None:
    """PyTorch's fused kernel cannot be differentiated twice on a CPU."""
    inside: list[bool] = []

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            inside.append(fused_attention_is_allowed())
            heads = x.unsqueeze(-2)
            out: Tensor = self.out(
                nn.functional.scaled_dot_product_attention(heads, heads, heads).squeeze(-2)
            )
            return out

    assert fused_attention_is_allowed()
    batch = sampled(family(Attention))
    inside.clear()
    params = batch.init_params(torch_generator(0))
    rows = {"x": batch.rows["x"][:10], "y": batch.rows["y"][:10]}

    def one(task: Tensor) -> Tensor:
        return batch.loss(task, rows)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(one, params.repeat(5, 1)))
    assert inside == [False] * 15
    assert fused_attention_is_allowed()
    curvature = vmap(torch.func.hessian(one))(params)
    assert torch.isfinite(curvature).all()


class Called(TorchFunctionMode):
    """Names of the functions that are called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="stands in for a GPU; tests/inner train them on one")
@pytest.mark.parametrize(
    ("layer", "kernel"),
    [
        (lambda: nn.GRU(4, 3), "gru"),
        (lambda: nn.GRU(4, 2, num_layers=2, bidirectional=True), "gru"),
        (lambda: nn.LSTM(4, 5, proj_size=3), "lstm"),
        (lambda: nn.RNN(4, 3, bias=False), "rnn_tanh"),
        (lambda: nn.RNN(4, 3, nonlinearity="relu"), "rnn_relu"),
    ],
)
def test_recurrent_layers_are_written_out_on_a_gpu(
    layer: Callable[[], nn.Module], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a stand-in: tensors say that they are on a GPU, and cuDNN that it would take them."""
    batch = sampled(family(layer, loss=lambda outputs, y: nn.functional.cross_entropy(outputs[0], y)))
    with Called() as called:
        expected = losses_and_grads(batch)
    assert kernel in called.names
    with monkeypatch.context() as stand_in, Called() as called:
        stand_in.setattr(Tensor, "is_cuda", True)
        stand_in.setattr(Tensor, "is_cpu", False)
        stand_in.setattr(torch.backends.cudnn, "is_acceptable", lambda _: True)
        found = losses_and_grads(batch)
    assert kernel not in called.names
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.BatchNorm1d(6, track_running_stats=False),
        lambda: nn.BatchNorm1d(6).eval(),
        lambda: nn.LayerNorm(6),
        lambda: nn.Dropout(0.0),
        lambda: nn.Dropout(0.5).eval(),
    ],
)
def test_layers_that_keep_nothing_and_draw_nothing_work(layer: Callable[[], nn.Module]) -> None:
    batch = sampled(family(lambda: nn.Sequential(nn.Linear(4, 6), layer(), nn.Linear(6, 3))))
    losses, _ = losses_and_grads(batch)
    assert torch.isfinite(losses).all()


def test_threads_do_not_disturb_one_another() -> None:
    """functional_call swaps tensors inside a module, so two threads must not run the same one."""
    meeting: list[threading.Barrier] = []

    class Meeting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            for barrier in meeting:  # both threads have put their parameters in, neither has used them
                barrier.wait()
            out: Tensor = self.out(x)
            for barrier in meeting:  # both have used them, neither has taken them out again
                barrier.wait()
            return out

    batch = sampled(family(Meeting), 2)
    params = batch.init_params(torch_generator(0))
    rows = {"x": batch.rows["x"][:10], "y": batch.rows["y"][:10]}
    alone = [batch.loss(task, rows) for task in params]
    meeting.append(threading.Barrier(2, timeout=20))
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda task: batch.loss(task, rows), params))
    assert not torch.equal(alone[0], alone[1])
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_thread_may_come_to_a_model_inside_a_transform() -> None:
    """As autograd's do on a GPU, first of all where memory is measured."""
    batch = sampled(family())
    expected = losses_and_grads(batch)

    def measured() -> tuple[Tensor, Tensor]:
        with MemoryMeter():
            return losses_and_grads(batch)

    with ThreadPoolExecutor(1) as thread:
        for work in (measured, lambda: losses_and_grads(batch)):
            torch.testing.assert_close(thread.submit(work).result(timeout=60), expected)


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(x + torch.randn(x.shape))
        return out


class Clipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.out.weight.clamp_(-1.0, 1.0)
        out: Tensor = self.out(x)
        return out


class OfTokens(nn.Module):
    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.embedding(x.argmax(-1))
        return out


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(x)
        return out if out.sum() > 0 else -out


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3).requires_grad_(False)


def stack(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 3))


def growing() -> Callable[[], nn.Module]:
    sizes = iter(range(2, 100))
    return lambda: nn.Sequential(nn.Linear(4, size := next(sizes)), nn.Linear(size, 3))


def broken() -> nn.Module:
    raise RuntimeError("no weights here")


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            lambda: stack(nn.BatchNorm1d(6)),
            r"'1.running_mean' of BatchNorm1d changes.*track_running_stats=False",
        ),
        (lambda: stack(nn.Dropout(0.1)), r"Dropout '1' draws random numbers.*p=0"),
        (lambda: stack(nn.Sequential(nn.Dropout(0.0), nn.AlphaDropout(0.1))), r"AlphaDropout '1.1' draws"),
        (Noisy, r"its forward pass draws random numbers"),
        (Clipping, r"'out.weight' of Linear is edited by the forward pass, as only the optimizer may;"),
        (
            lambda: OfTokens(nn.Embedding(4, 3, max_norm=1.0)),
            r"'embedding.weight' of Embedding is edited.*max_norm",
        ),
        (
            Branching,
            r"cannot be vectorised by torch.func.vmap: it raised RuntimeError.*data-dependent control",
        ),
        (nn.ReLU, r"ReLU has no parameters to train"),
        (Frozen, r"Frozen has no parameters to train"),
        (lambda: nn.LazyLinear(3), r"parameter 'weight' is lazy.*give the layer its sizes"),
        (growing(), r"built different parameter shapes in two calls"),
        (broken, r"'mine': model\(\) raised RuntimeError: no weights here"),
        (lambda: 3, r"must return an nn.Module, not int"),
        (make_module(), r"must be a function that builds the module, not a Sequential"),
        ((lambda net: lambda: net)(make_module()), r"returned the same module twice"),
        (lambda: nn.Linear(5, 3), r"the model raised RuntimeError: mat1 and mat2"),
        (lambda: nn.Linear(4, 3, dtype=torch.complex64), r"'weight' is torch.complex64"),
    ],
)
def test_refuses_modules_that_cannot_be_tasks(model: Callable[[], nn.Module], text: str) -> None:
    with pytest.raises(TaskError, match=text) as caught:
        family(model)
    assert "\n" not in str(caught.value)
    assert "'mine'" in str(caught.value)


def raises(outputs: Tensor, targets: Tensor) -> Tensor:
    raise ValueError("my own\nmistake")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"loss": raises}, r"raised ValueError: my own mistake"),
        (
            {"loss": lambda o, t: nn.functional.cross_entropy(o, t, reduction="none")},
            r"not a tensor of shape \(10,\)",
        ),
        ({"loss": lambda o, t: (o + torch.randn_like(o)).square().mean()}, r"cannot be vectorised.*random"),
        ({"loss": lambda o, t: 0.5}, r"must return one real number, a 0-d tensor, not float"),
        ({"loss": lambda o, t: o.sum() * float("nan")}, r"loss of a fresh model is nan"),
        ({"loss": lambda o, t: -o.square().mean()}, r"above noise_floor, 1e-06"),
        ({"noise_floor": float("inf")}, r"'noise_floor' is inf; allowed: a finite number above 0$"),
        ({"noise_floor": 100.0}, r"above noise_floor, 100"),
        ({"train": (X, Y[:-1])}, r"train has 100 rows of inputs and 99 of targets"),
        ({"train": X}, r"train must be a pair \(inputs, targets\), not Tensor"),
        ({"train": (X.tolist(), Y)}, r"train inputs must be a NumPy array or a tensor, not list"),
        ({"train": (np.array([["a"]] * 100), Y)}, r"train inputs must hold numbers"),
        ({"train": (X.where(X < 2, torch.nan), Y)}, r"train inputs hold \d+ NaN or infinite values"),
        ({"valid": (XV / 0, YV)}, r"valid inputs hold \d+ NaN or infinite"),
        ({"valid": (XV[:, :3], YV)}, r"valid inputs are \(30, 3\) float32, train inputs \(100, 4\) float32"),
        ({"valid": (XV, YV.float())}, r"valid targets are \(30,\) float32, train targets \(100,\) int64"),
        ({"valid": (XV[:1], YV[:1])}, r"1 valid rows leave a split without any"),
        ({"batch_size": 21}, r"batch_size 21 is larger than the smallest pool of train rows, 20"),
        ({"batch_size": 0}, r"'batch_size' is 0"),
        ({"meta_split": (0.5, 0.5)}, r"'meta_split' is \(0.5, 0.5\); allowed: three positive shares"),
        ({"meta_split": (0.5, 0.3, 0.3)}, r"'meta_split'.*sum 1"),
        ({"meta_split": (1.0, 0.0, 0.0)}, r"'meta_split'.*positive"),
        ({"final_window": 0}, r"'final_window' is 0"),
    ],
)
def test_refuses_losses_data_and_options_that_do_not_fit(changes: dict[str, object], text: str) -> None:
    with pytest.raises(TaskError, match=text) as caught:
        family(**changes)
    assert "\n" not in str(caught.value)
    assert "'mine'" in str(caught.value)


def test_the_users_own_error_is_the_cause() -> None:
    with pytest.raises(TaskError) as caught:
        family(loss=raises)
    assert isinstance(caught.value.__cause__, ValueError)
