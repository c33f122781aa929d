"""The naive loop: one candidate on one task at a time, a Python loop over steps, autograd, stock modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contestants.naive_rules import AdamOptimizer, MLPOptimizer, RecurrentOptimizer
from benchmarks.workload import SIGMA, Workload
from evometa.inner.cohort import Candidate
from evometa.inner.task_set import prepare
from evometa.trees import under_prefix

Rule = RecurrentOptimizer | MLPOptimizer | AdamOptimizer


def rule_of(candidate: Candidate) -> Rule:
    """The rule with the candidate's weights; NotImplementedError for a family that is not in the tables."""
    genes = dict(candidate.learner.genes)
    numbers = candidate.learner.hyper
    if candidate.family == "adam":
        betas = (1 - numbers["one_minus_beta1"], 1 - numbers["one_minus_beta2"])
        return AdamOptimizer(numbers["lr"], betas, numbers["eps"])
    if candidate.family not in ("recurrent", "mlp"):
        raise NotImplementedError(candidate.family)
    rule: RecurrentOptimizer | MLPOptimizer
    n_layers, n_hidden = int(genes["layers"]), int(genes["hidden"])  # type: ignore[arg-type]
    if candidate.family == "recurrent":
        rule = RecurrentOptimizer(str(genes["cell"]), n_layers, n_hidden, numbers["lr"])
    else:
        rule = MLPOptimizer(n_layers, n_hidden, numbers["lr"], numbers["magnitude_scale"])
    rule.load(under_prefix("rule", dict(candidate.weights)))
    return rule


class Naive:
    """Every training by itself."""

    def __init__(self, workload: Workload, device: torch.device) -> None:
        torch.set_num_threads(1)
        self.facts: dict[str, float] = {}
        self.workload = workload
        self.device = device
        (self.part,) = prepare(workload.request(), device)
        self.rules = [rule_of(candidate).to(device) for candidate in workload.candidates]
        self.last: list[Tensor] = []
        for _ in self._train(self.rules[0], task=0, n_steps=2):
            pass

    def run(self) -> int:
        work: Callable[[Rule, int], Tensor] = {
            "forward": self._forward,
            "bptt": self._meta_gradient,
            "pes": self._persistent_estimate,
        }[self.workload.mode]
        tasks = range(self.workload.n_tasks)
        for _ in range(self.workload.n_episodes):
            self.last = [work(rule, task) for rule in self.rules for task in tasks]
        return self.workload.n_inner_steps

    def close(self) -> None:
        """Nothing was started."""

    def _train(self, rule: Rule, task: int, n_steps: int) -> Iterator[Tensor]:
        """The losses before the first step and after each; a graph is kept where grad mode is on."""
        rule.reset()
        tasks, indices = self.part.tasks, self.part.indices
        assert indices is not None
        views = tasks.layout.views(self.part.params[task].clone())
        params = [value.clone().requires_grad_() for value in views.values()]
        differentiable = torch.is_grad_enabled()
        for k in range(n_steps + 1):
            x, y = tasks.rows["x"][indices[task, k]], tasks.rows["y"][indices[task, k]]
            with torch.enable_grad():
                hidden = torch.relu(F.linear(x, params[0], params[1]))
                loss = F.cross_entropy(F.linear(hidden, params[2], params[3]), y)
                grads = torch.autograd.grad(loss, params, retain_graph=differentiable)
            yield loss
            if k < n_steps:
                params = rule(params, [grad.detach() for grad in grads])
                if not differentiable:
                    params = [param.requires_grad_() for param in params]

    @torch.no_grad()
    def _forward(self, rule: Rule, task: int) -> Tensor:
        return torch.stack(list(self._train(rule, task, self.workload.n_steps)))

    def _meta_gradient(self, rule: Rule, task: int) -> Tensor:
        """The gradient in the weights of the mean loss after each step, the inner gradients held fixed."""
        assert not isinstance(rule, AdamOptimizer)
        losses = list(self._train(rule, task, self.workload.n_steps))
        grads = torch.autograd.grad(torch.stack(losses[1:]).mean(), list(rule.parameters()))
        return torch.cat([grad.reshape(-1) for grad in grads])

    @torch.no_grad()
    def _persistent_estimate(self, rule: Rule, task: int) -> Tensor:
        """PES, each particle trained through all segments with new perturbations in each."""
        assert not isinstance(rule, AdamOptimizer)
        centre = torch.nn.utils.parameters_to_vector(rule.parameters())
        epsilon = SIGMA * self.workload.perturbations(len(centre)).to(self.device)
        outcomes = [
            self._particle(rule, task, centre, sign * epsilon[:, pair])
            for pair in range(self.workload.n_pairs)
            for sign in (1, -1)
        ]
        torch.nn.utils.vector_to_parameters(centre, rule.parameters())
        difference = torch.stack(outcomes[0::2]) - torch.stack(outcomes[1::2])
        directions = epsilon.cumsum(dim=0)
        return torch.einsum("ps,spw->w", difference, directions) / (2 * SIGMA**2 * self.workload.n_pairs)

    def _particle(self, rule: Rule, task: int, centre: Tensor, offsets: Tensor) -> Tensor:
        """The mean loss of each segment."""
        assert not isinstance(rule, AdamOptimizer)
        n_steps = self.workload.n_steps
        training = self._train(rule, task, self.workload.n_segments * n_steps)
        torch.nn.utils.vector_to_parameters(centre + offsets[0], rule.parameters())
        next(training)
        means = []
        for offset in offsets:
            torch.nn.utils.vector_to_parameters(centre + offset, rule.parameters())
            means.append(torch.stack([next(training) for _ in range(n_steps)]).mean())
        return torch.stack(means)
