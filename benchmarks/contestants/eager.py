"""Eager ``vmap``: evometa's pure rules and losses mapped over candidates and tasks; no plan, no kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.workload import SIGMA, Workload
from evometa.inner.cohort import Cohort
from evometa.inner.task_set import prepare
from evometa.layout import Layout
from evometa.rules.base import StepContext
from evometa.trees import Tree, stack


class EagerVmap:
    """All candidates and tasks of one structure at once."""

    def __init__(self, workload: Workload, device: torch.device) -> None:
        torch.set_num_threads(1)
        self.facts: dict[str, float] = {}
        self.workload = workload
        self.device = device
        (self.part,) = prepare(workload.request(), device)
        self.tasks = self.part.tasks
        self.cohort = Cohort.of(workload.candidates, device)
        over_tasks = torch.vmap(torch.func.grad_and_value(self.tasks.loss), in_dims=(0, 0))
        self.gradients = torch.vmap(over_tasks, in_dims=(0, None))
        self.last: list[Tensor] = []
        self._forward(n_steps=1)

    def run(self) -> int:
        work: Callable[[], Tensor] = {
            "forward": lambda: self._forward(self.workload.n_steps),
            "bptt": self._meta_gradient,
            "pes": self._persistent_estimate,
        }[self.workload.mode]
        for _ in range(self.workload.n_episodes):
            self.last = [work()]
        return self.workload.n_inner_steps

    def close(self) -> None:
        """Nothing was started."""

    def _measure(self, params: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Losses ``(P, T)`` and gradients ``(P, T, N)`` on minibatch k."""
        assert self.part.indices is not None
        grads, losses = self.gradients(params, self.tasks.batch(self.part.indices[:, k]))
        return losses, grads

    def _begin(self, weights: Tree, n_candidates: int) -> tuple[Tensor, Tree]:
        params, learner = self.part.params, self.cohort.learner
        states = [
            learner.init_state({name: value[i] for name, value in weights.items()}, params, self.tasks.layout)
            for i in range(n_candidates)
        ]
        return params.expand(n_candidates, *params.shape), stack(states)

    def _update(
        self, weights: Tree, hyper: Tree, state: Tree, params: Tensor, measured: tuple[Tensor, Tensor], k: int
    ) -> tuple[Tensor, Tree]:
        losses, grads = measured
        # filled on the device: a copy from the host would make a GPU wait
        step = torch.full((), float(k), device=self.device)
        planned = torch.full((), float(self.workload.horizon), device=self.device)

        def of_one(
            weights: Tree, hyper: Tree, state: Tree, grads: Tensor, params: Tensor, loss: Tensor
        ) -> tuple[Tensor, Tree]:
            context = StepContext(self.tasks.layout, step, planned, loss)
            return self.cohort.learner.update(weights, hyper, state, grads, params, context)

        steps, after = torch.vmap(of_one)(weights, hyper, state, grads, params, losses)
        return params + steps, after

    @torch.no_grad()
    def _forward(self, n_steps: int) -> Tensor:
        params, state = self._begin(self.cohort.weights, self.cohort.n_candidates)
        history = []
        for k in range(n_steps + 1):
            measured = self._measure(params, k)
            history.append(measured[0])
            if k < n_steps:
                params, state = self._update(
                    self.cohort.weights, self.cohort.hyper, state, params, measured, k
                )
        return torch.stack(history)

    def _meta_gradient(self) -> Tensor:
        """The gradient in the weights of the mean loss after each step, the inner gradients held fixed."""
        weights = {name: value.clone().requires_grad_() for name, value in self.cohort.weights.items()}
        params, state = self._begin(weights, self.cohort.n_candidates)
        with torch.no_grad():
            measured = self._measure(params, 0)
        objective = torch.zeros((), device=self.device)
        for k in range(self.workload.n_steps):
            params, state = self._update(weights, self.cohort.hyper, state, params, measured, k)
            with torch.no_grad():
                measured = self._measure(params, k + 1)
            objective = objective + (measured[1] * params).sum() / self.workload.n_tasks
        grads = torch.autograd.grad(objective / self.workload.n_steps, list(weights.values()))
        return torch.cat([grad.flatten(1) for grad in grads], dim=1)

    @torch.no_grad()
    def _persistent_estimate(self) -> Tensor:
        """PES on all candidates × particles at once: an estimate a segment, ``(P, S, W)``."""
        work, n_particles = self.workload, self.workload.n_particles
        layout = Layout.of({name: value.shape[1:] for name, value in self.cohort.weights.items()})
        centre = layout.flatten(self.cohort.weights).repeat_interleave(n_particles, dim=0)
        hyper = {name: value.repeat_interleave(n_particles) for name, value in self.cohort.hyper.items()}
        accumulated, estimates = torch.zeros((), device=self.device), []
        params, state = self._begin(layout.views(centre), len(centre))
        measured = self._measure(params, 0)
        for segment, epsilon in enumerate(work.perturbations(layout.size).to(self.device)):
            accumulated = accumulated + epsilon
            offsets = torch.cat([epsilon, -epsilon]).repeat(self.cohort.n_candidates, 1)
            weights = layout.views(centre + SIGMA * offsets)
            outcome = torch.zeros((), device=self.device)
            for k in range(segment * work.n_steps, (segment + 1) * work.n_steps):
                params, state = self._update(weights, hyper, state, params, measured, k)
                measured = self._measure(params, k + 1)
                outcome = outcome + measured[0].mean(dim=1) / work.n_steps
            plus, minus = outcome.reshape(-1, 2, work.n_pairs).unbind(1)
            estimates.append((plus - minus) @ accumulated / (2 * SIGMA * work.n_pairs))
        return torch.stack(estimates, dim=1)
