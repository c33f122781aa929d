"""Compiled programs: a trainer mapped over candidates and tasks by a plan, sharded over host devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.jax_peer.learner import Learner, stacked
from benchmarks.jax_peer.plans import Plan
from benchmarks.jax_peer.training import Data, Trainer, Weights
from benchmarks.workload import SIGMA, Workload
from evometa.inner.cohort import Candidate
from evometa.inner.task_set import prepare
from evometa.rules.signals import matrices

Array = jax.Array


class Program:
    """A workload's candidates of one structure."""

    def __init__(self, candidates: list[Candidate], workload: Workload, plan: Plan) -> None:
        self.workload = workload
        (part,) = prepare(workload.request(), torch.device("cpu"))
        assert part.indices is not None
        shapes = tuple((matrix.n_rows, matrix.n_columns) for matrix in matrices(part.tasks.layout))
        x = part.tasks.rows["x"][part.indices].permute(1, 0, 3, 2)
        y = part.tasks.rows["y"][part.indices].permute(1, 0, 2)
        self.data = Data(*(jnp.asarray(value.contiguous().numpy()) for value in (part.params, x, y.int())))
        learner = Learner(candidates[0], unrolled=plan.unrolled)
        self.trainer = Trainer(learner, shapes, workload.horizon)
        self.weights, self.hyper = stacked(candidates)
        self.plan = plan

    def compile(self) -> Callable[[], Any]:
        """The compiled program, its arguments in place, on as many of the devices as P can be dealt to."""
        n_candidates = next(iter(self.hyper.values())).shape[0]
        devices = jax.devices()
        n_devices = max(n for n in range(1, len(devices) + 1) if n_candidates % n == 0)
        mesh = Mesh(np.array(devices[:n_devices]), ("candidates",))
        shared, whole = PartitionSpec("candidates"), PartitionSpec()
        inputs = (shared, shared, whole)
        mapped = jax.shard_map(self._all, mesh=mesh, in_specs=inputs, out_specs=shared, check_vma=False)
        values = (self.weights, self.hyper, self.data)
        arguments = [
            jax.device_put(value, NamedSharding(mesh, spec))
            for value, spec in zip(values, inputs, strict=True)
        ]
        compiled = jax.jit(mapped).lower(*arguments).compile()
        return partial(compiled, *arguments)

    def _all(self, weights: Weights, hyper: Weights, data: Data) -> Any:
        """What the mode asks for of all candidates of one device."""
        match self.workload.mode:
            case "forward":
                return self._over_candidates(self.trainer.forward, weights, hyper, data)
            case "bptt":
                of_one = partial(self.trainer.meta_gradient, checkpoint=self.plan.checkpoint)
                return self._over_candidates(of_one, weights, hyper, data)
        return self._persistent_estimates(weights, hyper, data)

    def _persistent_estimates(self, weights: Weights, hyper: Weights, data: Data) -> Any:
        """PES: P × 2·pairs particles through all segments, one estimate a candidate and segment."""
        pairs, segments = self.workload.n_pairs, self.workload.n_segments
        # not the order of ``weights``, whose names JAX has sorted
        sizes = {name: value[0].size for name, value in self.weights.items()}
        drawn = self.workload.perturbations(sum(sizes.values())).numpy()
        epsilon, start = {}, 0
        for name, value in self.weights.items():
            own = drawn[:, :, start : start + sizes[name]]
            epsilon[name] = own.reshape(segments, pairs, *value.shape[1:]).swapaxes(0, 1)
            start += sizes[name]

        def particles(value: Array, eps: np.ndarray[Any, Any]) -> Array:
            offsets = SIGMA * np.concatenate([eps, -eps])
            return (value[:, None, None] + offsets).reshape(-1, segments, *value.shape[1:])

        perturbed = {name: particles(value, epsilon[name]) for name, value in weights.items()}
        repeated = {name: jnp.repeat(value, 2 * pairs) for name, value in hyper.items()}
        losses = self._over_candidates(self.trainer.segment_losses, perturbed, repeated, data)
        plus, minus = losses.reshape(-1, 2, pairs, segments).swapaxes(0, 1)
        difference = (plus - minus) / (2 * SIGMA * pairs)
        return {
            name: jnp.einsum("ips,ps...->is...", difference, np.cumsum(eps, axis=1))
            for name, eps in epsilon.items()
        }

    def _over_candidates(
        self, of_one: Callable[..., Any], weights: Weights, hyper: Weights, data: Data
    ) -> Any:
        """``of_one`` of every candidate, as many at once as the plan says."""
        n_all = next(iter(hyper.values())).shape[0]
        n_at_once = _divisor(n_all, self.plan.candidates)

        def chunk(own: tuple[Weights, Weights]) -> Any:
            if n_at_once > 1:
                return jax.vmap(lambda w, h: self._over_tasks(of_one, w, h, data))(*own)
            weights, hyper = jax.tree.map(lambda value: value[0], own)
            return jax.tree.map(lambda value: value[None], self._over_tasks(of_one, weights, hyper, data))

        if n_at_once == n_all:
            return chunk((weights, hyper))
        cut = jax.tree.map(
            lambda value: value.reshape(n_all // n_at_once, n_at_once, *value.shape[1:]), (weights, hyper)
        )
        return jax.tree.map(lambda value: value.reshape(n_all, *value.shape[2:]), lax.map(chunk, cut))

    def _over_tasks(self, of_one: Callable[..., Any], weights: Weights, hyper: Weights, data: Data) -> Any:
        """``of_one`` on all tasks, as many at once as the plan says; losses joined, what else averaged."""
        n_tasks = data.params.shape[0]
        n_at_once = _divisor(n_tasks, self.plan.tasks)
        if n_at_once == n_tasks:
            return of_one(weights, hyper, data)

        def cut(value: Array, axis: int) -> Array:
            shape = (*value.shape[:axis], n_tasks // n_at_once, n_at_once, *value.shape[axis + 1 :])
            return jnp.moveaxis(value.reshape(shape), axis, 0)

        chunks = Data(cut(data.params, 0), cut(data.x, 1), cut(data.y, 1))
        results = lax.map(lambda own: of_one(weights, hyper, own), chunks)
        if self.workload.mode == "forward":
            return results.reshape(n_tasks, -1)
        return jax.tree.map(lambda value: value.mean(axis=0), results)


def _divisor(n: int, most: int) -> int:
    """The largest divisor of n that is at most ``most``; n for 0."""
    return max(d for d in range(1, n + 1) if n % d == 0 and (d <= most or not most))
