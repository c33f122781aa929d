"""Every contestant does the same work: its losses and meta-gradients are evometa's."""

from __future__ import annotations

import dataclasses
import importlib.util
import os

import numpy as np
import numpy.typing as npt
import pytest
import torch

from benchmarks.contestants.eager import EagerVmap
from benchmarks.contestants.naive import Naive, rule_of
from benchmarks.mixed import MIXED
from benchmarks.workload import LEARNED, RULES, Mode, Spec, Workload
from evometa.inner.cohort import Cohort
from evometa.inner.evaluate import evaluate
from evometa.layout import Layout
from evometa.meta import ESTIMATORS, MetaProblem, meta_genes
from evometa.trees import Tree, under_prefix

#: Read when JAX begins: programs are run once here, so that optimising them takes longer than they do.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

CPU = torch.device("cpu")
Array = npt.NDArray[np.float64]
needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")


def tiny(mode: Mode, spec: Spec) -> Workload:
    n_segments = 2 if mode == "pes" else 1
    n_steps = 5 if mode == "forward" else 10
    return Workload.of(mode, spec, 2, n_tasks=2, n_steps=n_steps, width=6, n_pairs=2, n_segments=n_segments)


def losses(workload: Workload) -> Array:
    """``(P, T, K + 1)`` by evometa."""
    return evaluate(workload.candidates, workload.request(), CPU).losses


def estimates(workload: Workload) -> list[Tree]:
    """evometa's meta-gradient of every segment, each ``(P, …)``, the weights held."""
    candidates = workload.candidates
    genes = tuple(meta_genes(candidate.genes) for candidate in candidates)
    cohort = Cohort.of(candidates, CPU)
    problem = MetaProblem(cohort, genes, (workload.stream(),), CPU, torch.float32)
    session = ESTIMATORS[str(genes[0]["meta.estimator"])].begin(problem)
    return [under_prefix("rule", session.estimate(cohort.weights).grads) for _ in range(workload.n_segments)]


def flat(tree: Tree) -> Array:
    """``(P, W)``."""
    layout = Layout.of({name: value.shape[1:] for name, value in tree.items()})
    return layout.flatten(tree).double().numpy()


def assert_close(ours: Array, theirs: npt.ArrayLike, tolerance: float) -> None:
    other = np.asarray(theirs, dtype=np.float64)
    assert other.shape == ours.shape
    assert np.abs(other - ours).max() <= tolerance * np.abs(ours).max()


@pytest.mark.parametrize("rule", RULES)
def test_the_naive_loop_and_eager_vmap_train_alike(rule: str) -> None:
    workload = tiny("forward", RULES[rule][1])
    ours = losses(workload)
    naive, eager = Naive(workload, CPU), EagerVmap(workload, CPU)
    assert naive.run() == eager.run() == workload.n_inner_steps == 2 * 2 * 5
    assert_close(ours, torch.stack(naive.last).reshape(ours.shape), 1e-5)
    assert_close(ours, eager.last[0].permute(1, 2, 0), 1e-5)


@pytest.mark.parametrize("rule", LEARNED)
def test_the_naive_loop_and_eager_vmap_have_the_same_meta_gradient(rule: str) -> None:
    workload = tiny("bptt", RULES[rule][1])
    (ours,) = estimates(workload)
    naive, eager = Naive(workload, CPU), EagerVmap(workload, CPU)
    assert naive.run() == eager.run() == workload.n_inner_steps
    assert_close(flat(ours), eager.last[0], 1e-4)
    of_tasks = torch.stack(naive.last).reshape(2, workload.n_tasks, -1).mean(dim=1)
    for index, (candidate, theirs) in enumerate(zip(workload.candidates, of_tasks, strict=True)):
        own = {f"rule.{name}": value[index] for name, value in ours.items()}
        expected = dict(rule_of(dataclasses.replace(candidate, weights=own)).named_parameters())
        parts = theirs.split([value.numel() for value in expected.values()])
        for (name, value), part in zip(expected.items(), parts, strict=True):
            if not name.endswith("bias_hh"):  # evometa has one bias where a PyTorch cell has two
                assert_close(value.detach().flatten().double().numpy(), part, 1e-4)


def test_eager_vmap_has_the_same_persistent_estimates() -> None:
    workload = tiny("pes", RULES["gru"][1])
    ours = np.stack([flat(tree) for tree in estimates(workload)], axis=1)
    eager = EagerVmap(workload, CPU)
    assert eager.run() == Naive(workload, CPU).run() == workload.n_inner_steps == 2 * 4 * 2 * 2 * 10
    # differences of nearly equal losses, divided by 2σ
    assert_close(ours, eager.last[0], 1e-2)


#: XLA takes long over these.
SLOW_MLP, SLOW_LSTM = (pytest.param(name, marks=pytest.mark.slow) for name in ("mlp", "lstm"))


@needs_jax
@pytest.mark.parametrize("unrolled", [False, True])
@pytest.mark.parametrize("rule", ["lstm", "gru", SLOW_MLP, "adam"])
def test_jax_trains_alike(rule: str, unrolled: bool) -> None:
    from benchmarks.jax_peer.plans import Plan
    from benchmarks.jax_peer.programs import Program

    workload = tiny("forward", RULES[rule][1])
    program = Program(workload.candidates, workload, Plan(candidates=1, tasks=1, unrolled=unrolled))
    assert_close(losses(workload), program.compile()(), 1e-5)


#: One of them in the quick tests: nominal Adam, which no rule of the tables has.
MIXED_SPECS = [
    spec if index == 3 else pytest.param(spec, marks=pytest.mark.slow) for index, spec in enumerate(MIXED)
]


@needs_jax
@pytest.mark.parametrize("spec", MIXED_SPECS, ids=lambda spec: spec.family)
def test_jax_trains_every_candidate_of_the_mixed_generation_alike(spec: Spec) -> None:
    from benchmarks.jax_peer.plans import Plan
    from benchmarks.jax_peer.programs import Program

    workload = tiny("forward", spec)
    program = Program(workload.candidates, workload, Plan(candidates=1, tasks=1))
    assert_close(losses(workload), program.compile()(), 1e-4)


@needs_jax
@pytest.mark.parametrize("rule", [SLOW_LSTM, "gru", SLOW_MLP])
def test_jax_has_the_same_meta_gradient(rule: str) -> None:
    from benchmarks.jax_peer.plans import Plan
    from benchmarks.jax_peer.programs import Program

    workload = tiny("bptt", RULES[rule][1])
    found = Program(workload.candidates, workload, Plan(tasks=1, checkpoint=rule != "mlp")).compile()()
    (ours,) = estimates(workload)
    assert_close(flat(ours), _flat_jax(found, ours), 1e-4)


@needs_jax
def test_jax_has_the_same_persistent_estimates() -> None:
    from benchmarks.jax_peer.plans import Plan
    from benchmarks.jax_peer.programs import Program

    workload = tiny("pes", RULES["gru"][1])
    found = Program(workload.candidates, workload, Plan(candidates=4)).compile()()
    ours = estimates(workload)
    theirs = [{name: value[:, segment] for name, value in found.items()} for segment in range(len(ours))]
    for own, other in zip(ours, theirs, strict=True):
        assert_close(flat(own), _flat_jax(other, own), 1e-2)


def _flat_jax(tree: dict[str, npt.ArrayLike], like: Tree) -> Array:
    return flat({name: torch.from_numpy(np.array(tree[name])) for name in like})


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(MIXED)))
def test_jax_trains_every_structure_of_the_mixed_generation(number: int) -> None:
    from benchmarks.jax_peer.plans import AS_WRITTEN
    from benchmarks.jax_peer.programs import Program

    workload = tiny("forward", MIXED[number])
    assert_close(losses(workload), Program(workload.candidates, workload, AS_WRITTEN).compile()(), 1e-5)
