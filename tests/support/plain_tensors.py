"""What rules that steer whole tensors compute, as loops over tensors in float64, one task at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evometa.genome.space import Genes
from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules.base import RuleFamily, StepContext, UpdateRule
from evometa.trees import Tree

HORIZON = 10.0


@dataclass
class Training:
    """Gradients ``(K, T, N)`` and losses ``(K, T)`` that a rule is fed; params ``(T, N)`` start it."""

    layout: Layout
    params: Tensor
    grads: Tensor
    losses: Tensor

    @classmethod
    def drawn(cls, layout: Layout, n_steps: int = 4, n_tasks: int = 2) -> Training:
        """Each tensor's gradients have a size of their own, and keep some of their direction."""
        generator = torch_generator(0, "plain tensors")
        sizes = torch.tensor([0.01 * 10**i for i in range(len(layout.segments))], dtype=torch.float64)
        params, direction = torch.randn((2, n_tasks, layout.size), generator=generator, dtype=torch.float64)
        noise = torch.randn((n_steps, n_tasks, layout.size), generator=generator, dtype=torch.float64)
        losses = torch.rand((n_steps, n_tasks), generator=generator, dtype=torch.float64) + 0.5
        return cls(layout, params, (direction + noise) * layout.spread(sizes), losses)

    def steps_of(self, rule: UpdateRule, weights: Tree, hyper: Tree) -> Tensor:
        """The steps ``(K, T, N)`` that the rule makes; params move with them."""
        params, found = self.params, []
        state = rule.init_state(weights, params, self.layout)
        for k, (grads, losses) in enumerate(zip(self.grads, self.losses, strict=True)):
            context = StepContext(self.layout, params.new_tensor(k), params.new_tensor(HORIZON), losses)
            step, state = rule.update(weights, hyper, state, grads, params, context)
            params = params + step
            found.append(step)
        return torch.stack(found)

    def permuted(self, order: Sequence[int]) -> Training:
        """The same with the tensors in another order."""
        layout = Layout.of({self.layout.segments[i].name: self.layout.segments[i].shape for i in order})
        return Training(layout, self.moved(self.params, order), self.moved(self.grads, order), self.losses)

    def moved(self, flat: Tensor, order: Sequence[int]) -> Tensor:
        """Coordinates ``(…, N)`` with the tensors in another order."""
        return torch.cat([flat[..., self.layout.segments[i].slice] for i in order], dim=-1)


@dataclass
class PlainTensor:
    """The running statistics of one tensor of one task, and what rules read of them."""

    beta1: float
    beta2: float
    momentum: Tensor
    square: Tensor
    n_steps: int = 0
    first_loss: float = 0.0
    inputs: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, size: int, beta1: float = 0.9, beta2: float = 0.999) -> PlainTensor:
        return cls(beta1, beta2, *torch.zeros((2, size), dtype=torch.float64))

    def observe(self, grad: Tensor, params: Tensor, shape: Iterable[int], loss: float) -> None:
        """The default features, with ``loss`` and ``progress``, after this gradient."""
        self.n_steps += 1
        self.first_loss = self.first_loss or loss
        self.momentum = self.beta1 * self.momentum + (1 - self.beta1) * grad
        self.square = self.beta2 * self.square + (1 - self.beta2) * grad**2
        self.grad = grad
        self.m = self.momentum / (1 - self.beta1**self.n_steps)
        self.v = self.square / (1 - self.beta2**self.n_steps)

        def rms(x: Tensor) -> float:
            return math.sqrt(float((x**2).mean()))

        shape = tuple(shape)
        self.inputs = {
            "log_gradient": math.log(rms(grad)) / 10,
            "log_parameter": math.log(rms(params)) / 10,
            "log_average_0.9": math.log(rms(self.m)) / 10,
            "cosine_0.9": float(grad @ self.m) / float(grad.norm() * self.m.norm()),
            "signal_0.9": rms(self.m / self.v.sqrt()),
            "change": math.log(rms(grad)) - 0.5 * math.log(float(self.v.mean())),
            "size": math.log(math.prod(shape)) / 10,
            "axes": len(shape) / 4,
            "loss": math.log(loss / self.first_loss) / 10,
            "progress": (self.n_steps - 1) / HORIZON,
        }

    def column(self, names: Iterable[str]) -> Tensor:
        """Some of the inputs."""
        return torch.tensor([self.inputs[name] for name in names], dtype=torch.float64)

    def adam(self, lr: float, share: float = 0.0) -> Tensor:
        """The step of an Adam, with a share of the gradient in its numerator."""
        return -lr * ((1 - share) * self.m + share * self.grad) / (self.v.sqrt() + 1e-8)

    def controlled(self, hyper: Tree, controls: Tensor) -> Tensor:
        """The step of an Adam under two controls."""
        size, share = (float(hyper["control"] * control) for control in controls)
        mix = float(hyper["nominal_gradient"]) + math.tanh(share)
        return self.adam(float(hyper["nominal_lr"]), mix) * 10 ** math.tanh(size / math.log(10))


def built(family: RuleFamily, genes: Genes, scale: float = 0.5) -> tuple[UpdateRule, Tree, Tree]:
    """The rule of these genes with weights moved off their start, in float64, and its continuous genes."""
    complete = family.space.complete(genes)
    rule, generator = family.build(complete), torch_generator(0, "weights")
    weights = {
        name: value.double() + scale * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in rule.init_weights(generator).items()
    }
    continuous = family.space.continuous(complete).items()
    return rule, weights, {name: torch.tensor(value, dtype=torch.float64) for name, value in continuous}
