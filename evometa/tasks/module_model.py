"""An ``nn.Module`` on flat parameters: what ``functional_call`` and ``vmap`` need, and what they cannot do.

The loss is a pure function of the parameters. Whatever would make it something else (statistics kept in
buffers, random numbers) is found by trying and refused, because inside ``vmap`` it would fail or, worse, mix
tasks silently.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.parameter import is_lazy

from evometa.layout import Layout
from evometa.tasks.base import Batch
from evometa.tasks.options import described, flaw
from evometa.tasks.plain_layers import PlainRecurrence, keep_weights_apart, plain_attention

#: ``objective(outputs, targets) → ()``
Objective = Callable[[Tensor, Tensor], Tensor]

#: Frozen tensors travel in a task's constants under this prefix, so that they follow it to its device.
FROZEN = "frozen."

DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)

#: Modules initialise themselves from torch's one global generator: one thread at a time may borrow it.
_GLOBAL_GENERATOR = threading.Lock()


class _Template(threading.local):
    """A copy of a module for each thread: ``functional_call`` swaps tensors inside the module it is given.

    The copies share the original's parameters and buffers, which are never used. A thread may make its own
    inside a transform, as autograd's threads do on a GPU, and what is copied there is a part of it, without
    a storage.
    """

    def __init__(self, module: nn.Module) -> None:
        self.original = module
        shared = (*module.parameters(), *module.buffers())
        self.module = copy.deepcopy(module, {id(value): value for value in shared})
        self.is_recurrent = keep_weights_apart(self.module)

    @contextmanager
    def mappable(self) -> Iterator[None]:
        """Inside, its layers are computed by what can be mapped over tasks."""
        with plain_attention(), PlainRecurrence() if self.is_recurrent else nullcontext():
            yield

    def __reduce__(self) -> tuple[type[_Template], tuple[nn.Module]]:
        return type(self), (self.original,)


@dataclass(frozen=True, eq=False)
class ModuleModel:
    """One architecture built by user code.

    Attributes:
        family: the family's name, for error texts.
        make_module: builds a freshly initialised module.
        objective: the loss of outputs and targets.
        template: the structure that ``functional_call`` runs; its own values do not matter.
        layout: the parameters that require gradients.
        frozen: the other parameters and the buffers, by name.
    """

    family: str
    make_module: Callable[[], nn.Module]
    objective: Objective
    template: _Template
    layout: Layout
    frozen: dict[str, Tensor]

    @classmethod
    def of(cls, family: str, make_module: Callable[[], nn.Module], objective: Objective) -> ModuleModel:
        """The model that ``make_module`` builds; raises TaskError when it cannot serve as one."""
        if isinstance(make_module, nn.Module) or not callable(make_module):
            raise flaw(
                family,
                f"model must be a function that builds the module, not a {type(make_module).__name__}; write "
                "model=lambda: …",
            )
        module = _build(family, make_module, 0)
        if _build(family, make_module, 0) is module:
            raise flaw(
                family,
                "model() returned the same module twice; it must build a new one in each call, since every "
                "task has its own initialisation",
            )
        layout = _layout(family, module)
        parameters = {n: p.detach().clone() for n, p in module.named_parameters() if not p.requires_grad}
        frozen = {**parameters, **{n: b.detach().clone() for n, b in module.named_buffers()}}
        return cls(family, make_module, objective, _Template(module), layout, frozen)

    @property
    def description(self) -> str:
        """The module's class and number of trained parameters."""
        return f"{type(self.template.original).__name__}, {self.layout.size:,} parameters"

    def constants(self, n_tasks: int) -> dict[str, Tensor]:
        """The frozen tensors, each with a leading task axis that repeats it without copying."""
        return {FROZEN + n: v.expand(n_tasks, *v.shape) for n, v in self.frozen.items()}

    def init_params(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """The parameters of ``n_tasks`` fresh modules, ``(T, N)`` float32; raises TaskError."""
        rows: list[Tensor] = []
        for seed in torch.randint(2**62, (n_tasks,), generator=generator).tolist():
            module = _build(self.family, self.make_module, seed)
            if _layout(self.family, module) != self.layout:
                raise flaw(
                    self.family,
                    "model() built different parameter shapes in two calls; all tasks of a family share one "
                    "architecture",
                )
            tensors = dict(module.named_parameters())
            rows.append(self.layout.flatten({s.name: tensors[s.name].detach() for s in self.layout.segments}))
        return torch.stack(rows).float()

    def loss(self, params: Tensor, batch: Batch) -> Tensor:
        """Loss () of one module with parameters ``params`` (N,) on the rows ``x``, ``y`` of one task."""
        tensors = self.layout.views(params)
        for name in self.frozen:
            tensors[name] = batch[FROZEN + name]
        with self.template.mappable():
            outputs = functional_call(self.template.module, tensors, (batch["x"],))
            return self.objective(outputs, batch["y"])

    def try_out(self, x: Tensor, y: Tensor, noise_floor: float) -> None:
        """Run the module, the loss and their vectorised gradient once on a few rows; raises TaskError."""
        self._try_forward(x)
        params = self.init_params(2, torch.Generator().manual_seed(0))
        frozen = self.constants(2)
        value = self._guarded(
            "the model or its loss", self.loss, params[0], {"x": x, "y": y, **_first(frozen)}
        )
        self._check_value(value, noise_floor)
        batch = {"x": x.expand(2, *x.shape), "y": y.expand(2, *y.shape), **frozen}
        vectorised: Callable[..., object] = vmap(grad_and_value(self.loss))
        self._guarded("the model cannot be vectorised by torch.func.vmap: it", vectorised, params, batch)

    def _try_forward(self, x: Tensor) -> None:
        """Refuse a module whose forward pass changes its parameters or buffers, or draws random numbers."""
        module = copy.deepcopy(self.template.original)
        before = {name: buffer.clone() for name, buffer in module.named_buffers()}
        versions = {name: parameter._version for name, parameter in module.named_parameters()}
        with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
            state = torch.default_generator.get_state()
            self._guarded("the model", module, x)
            drew = not torch.equal(state, torch.default_generator.get_state())
        edited = [name for name, p in module.named_parameters() if p._version != versions[name]]
        if edited:
            raise flaw(
                self.family,
                f"parameter {edited[0]!r} of {_owner(module, edited[0])} is edited by the forward pass, as "
                "only the optimizer may; leave out what edits it, such as max_norm",
            )
        changed = [n for n, b in module.named_buffers() if n in before and not torch.equal(b, before[n])]
        if changed:
            owner = _owner(module, changed[0])
            raise flaw(
                self.family,
                f"buffer {changed[0]!r} of {owner} changes while training, and all tasks would share it; "
                "use track_running_stats=False, GroupNorm or LayerNorm, or call .eval() in model()",
            )
        if drew:
            active = ((n, m) for n, m in module.named_modules() if isinstance(m, DROPOUTS) and m.p > 0)
            dropouts = [f"{type(m).__name__} {n!r}" for n, m in active if m.training]
            source = dropouts[0] if dropouts else "its forward pass"
            raise flaw(
                self.family,
                f"{source} draws random numbers, but a loss may depend only on parameters and rows; "
                "set p=0, remove it, or switch it off by .eval() in model()",
            )

    def _check_value(self, value: object, noise_floor: float) -> None:
        if not isinstance(value, Tensor) or value.dim() != 0 or not value.is_floating_point():
            got = (
                f"a tensor of shape {tuple(value.shape)}"
                if isinstance(value, Tensor)
                else type(value).__name__
            )
            raise flaw(
                self.family,
                f"loss(outputs, targets) must return one real number, a 0-d tensor, not {got}; take the mean "
                "over the rows",
            )
        if not noise_floor < float(value) < float("inf"):
            raise flaw(
                self.family,
                f"the loss of a fresh model is {float(value):g}; it must be finite and above noise_floor, "
                f"{noise_floor:g}, because losses are compared by their ratio",
            )

    def _guarded(self, what: str, function: Callable[..., object], *arguments: object) -> object:
        """The result of user code; whatever it raises becomes a TaskError that names it."""
        try:
            return function(*arguments)
        except Exception as error:  # user code may raise anything; the cause is named and chained
            raise flaw(self.family, f"{what} raised {described(error)}") from error


def _build(family: str, make_module: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A module on the CPU, its initialisation drawn from ``seed``; the global generator is left as it was."""
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed every accelerator
        try:
            module: Any = make_module()
        except Exception as error:  # user code may raise anything; the cause is named and chained
            raise flaw(family, f"model() raised {described(error)}") from error
    if not isinstance(module, nn.Module):
        raise flaw(family, f"model() must return an nn.Module, not {type(module).__name__}")
    return module.cpu()


def _layout(family: str, module: nn.Module) -> Layout:
    """Where the trained parameters lie; raises TaskError when there are none or their sizes are unknown."""
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not trained:
        raise flaw(family, f"{type(module).__name__} has no parameters to train")
    for name, parameter in trained.items():
        if is_lazy(parameter):
            raise flaw(family, f"parameter {name!r} is lazy and has no size yet; give the layer its sizes")
        if not parameter.is_floating_point():
            raise flaw(family, f"parameter {name!r} is {parameter.dtype}; only real ones can be trained")
    return Layout.of({name: p.shape for name, p in trained.items()})


def _owner(module: nn.Module, name: str) -> str:
    """Class of the submodule that holds the tensor ``name``."""
    return type(module.get_submodule(name.rpartition(".")[0])).__name__


def _first(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value[0] for name, value in tensors.items()}
