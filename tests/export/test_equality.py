"""Exported optimizers make the very steps that were evolved, and those of torch.optim where it has them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import pytest
import torch
from compute_device import DEVICE
from torch import Tensor, nn

from evometa.export import load_optimizer
from evometa.genome.genome import Genome
from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules import RULES, SCHEDULES, Learner
from evometa.rules.base import StepContext
from evometa.rules.hand_designed import HAND_DESIGNED
from evometa.trees import Tree, tree_map

N_STEPS = 20
HORIZON = 15  # shorter than the run, so that steps beyond the horizon are compared as well
#: Fifty roundings: in float32 the kernel and PyTorch part by some in twenty steps.
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-12}

#: Each rule under three schedules and, by its place in this list, with three draws of its genes; together the
#: rules go through all schedules.
COMBINATIONS = [
    (family, schedule)
    for index, family in enumerate(RULES.names())
    for schedule in islice(cycle(SCHEDULES.names()), 3 * index, 3 * index + 3)
]

Exported = Callable[..., tuple[Path, Genome, Tree]]
MakeNet = Callable[..., nn.Module]


def in_campaign(
    genome: Genome, weights: Tree, layout: Layout, start: Tensor, stream: list[tuple[Tensor, Tensor | None]]
) -> list[Tensor]:
    """Flat parameters ``(N,)`` after each step of the learner, fed gradients and losses of ``stream``."""
    learner = Learner.of(genome.family, genome.genes)
    weights = tree_map(lambda value: value.to(start), weights)
    hyper = {name: start.new_tensor(value) for name, value in learner.hyper.items()}
    params = start.unsqueeze(0)
    state = learner.init_state(weights, params, layout)
    visited = []
    for k, (grads, loss) in enumerate(stream):
        step, horizon = (start.new_tensor(float(n)) for n in (k, HORIZON))
        context = StepContext(layout, step, horizon, loss)
        update, state = learner.update(weights, hyper, state, grads.unsqueeze(0), params, context)
        params = params + learner.guard(k, HORIZON) * update
        visited.append(params[0])
    return visited


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("family", "schedule"), COMBINATIONS)
def test_exported_steps_are_the_evolved_steps(
    exported: Exported, make_net: MakeNet, family: str, schedule: str, dtype: torch.dtype
) -> None:
    seed = COMBINATIONS.index((family, schedule))
    path, genome, weights = exported(family, schedule, seed=seed)
    net = make_net().to(dtype)
    optimizer = load_optimizer(path, net.parameters(), horizon=HORIZON)
    layout = Layout.of({name: parameter.shape for name, parameter in net.named_parameters()})
    start = layout.flatten(dict(net.named_parameters())).detach()

    generator = torch_generator(seed, "gradients")
    stream: list[tuple[Tensor, Tensor | None]] = []
    for k in range(N_STEPS):
        grads = torch.randn(layout.size, generator=generator).to(DEVICE, dtype) * 10.0 ** (k % 5 - 3)
        loss = None if k == 7 else torch.rand(1, generator=generator).to(DEVICE, dtype)
        stream.append((grads, loss))

    expected = in_campaign(genome, weights, layout, start, stream)
    for (grads, loss), flat in zip(stream, expected, strict=True):
        for name, view in layout.views(grads).items():
            net.get_parameter(name).grad = view.clone()
        optimizer.step(loss=loss)
        reached = layout.flatten(dict(net.named_parameters())).detach()
        torch.testing.assert_close(reached, flat, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert not torch.equal(reached, start)


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, algorithm 2: torch has none."""

    def __init__(self, params: list[Tensor], lr: float, beta1: float, beta2: float, decay: float) -> None:
        super().__init__(params, {"lr": lr, "beta1": beta1, "beta2": beta2, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                direction = (group["beta1"] * m + (1 - group["beta1"]) * p.grad).sign()
                m.copy_(group["beta2"] * m + (1 - group["beta2"]) * p.grad)
                p.sub_(group["lr"] * (direction + group["decay"] * p))


class QHAdam(torch.optim.Optimizer):
    """As Ma & Yarats 2019 write it, with ν₂ = 1; torch.optim has none."""

    def __init__(
        self, params: list[Tensor], lr: float, betas: tuple[float, float], eps: float, share: float
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "share": share})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            (beta1, beta2), share = group["betas"], group["share"]
            for p in group["params"]:
                state = self.state[p]
                k = state["k"] = state.get("k", 0) + 1
                m, v = (state.setdefault(name, torch.zeros_like(p)) for name in ("m", "v"))
                m.copy_(beta1 * m + (1 - beta1) * p.grad)
                v.copy_(beta2 * v + (1 - beta2) * p.grad.square())
                blend = share * p.grad + (1 - share) * m / (1 - beta1**k)
                p.sub_(group["lr"] * blend / ((v / (1 - beta2**k)).sqrt() + group["eps"]))


def reference(family: str, genes: dict[str, float], params: list[Tensor]) -> torch.optim.Optimizer:
    """The optimizer that a hand-designed rule must equal."""
    lr, optim = genes["lr"], torch.optim
    past = {name: 1 - value for name, value in genes.items() if name.startswith("one_minus_")}
    momentum, beta1, beta2 = (past.get(f"one_minus_{name}", 0.0) for name in ("momentum", "beta1", "beta2"))
    eps, decay = genes.get("eps", 0.0), genes.get("weight_decay", 0.0)
    made: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: optim.SGD(params, lr),
        "momentum": lambda: optim.SGD(params, lr, momentum=momentum),
        "nesterov": lambda: optim.SGD(params, lr, momentum=momentum, nesterov=True),
        "rmsprop": lambda: optim.RMSprop(params, lr, alpha=beta2, eps=eps),
        "adagrad": lambda: optim.Adagrad(params, lr, eps=eps),
        "adam": lambda: optim.Adam(params, lr, (beta1, beta2), eps),
        "adamw": lambda: optim.AdamW(params, lr, (beta1, beta2), eps, decay),
        "nadam": lambda: optim.NAdam(params, lr, (beta1, beta2), eps, momentum_decay=genes["momentum_decay"]),
        "qhadam": lambda: QHAdam(params, lr, (beta1, beta2), eps, genes["gradient_share"]),
        "lion": lambda: Lion(params, lr, beta1, past["one_minus_moment_decay"], decay),
    }
    return made[family]()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("family", [family.name for family in HAND_DESIGNED])
def test_hand_designed_rules_train_a_module_as_torch_optim_does(
    exported: Exported, make_net: MakeNet, batches: list[tuple[Tensor, Tensor]], family: str, seed: int
) -> None:
    space = RULES[family].space
    # A learning rate that neither diverges nor stands still, so that twenty steps mean something.
    path, genome, _ = exported(family, seed=seed, lr=float(space["lr"].default) * (0.3, 2.0)[seed])
    genes = {name: float(value) for name, value in genome.genes.items() if name != "schedule"}
    ours, theirs = make_net().double(), make_net().double()
    optimizer = load_optimizer(path, ours.parameters())
    other = reference(family, genes, list(theirs.parameters()))
    for x, y in batches:
        for net, stepper in ((ours, optimizer), (theirs, other)):
            stepper.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            stepper.step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
