"""The batched outer optimizer against P of torch's own."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from evometa.meta import meta_genes
from evometa.meta.meta_optimizer import MetaOptimizer
from evometa.rng import torch_generator
from evometa.trees import Tree

N_STEPS = 30
GENES = [
    meta_genes({"meta.steps": N_STEPS, "meta.lr": lr, "meta.clip": clip, "meta.lr_decay": decay})
    for lr, clip, decay in ((1e-3, 0.1, "cosine"), (3e-2, 10.0, "none"), (1e-2, 1.0, "cosine"))
]
SHAPES = {"a": (4, 3), "scalar": (), "b": (5,)}


def drawn(name: str, scale: Tensor | float = 1.0) -> Tree:
    """A tree ``(P, …)``; ``scale`` ``(P,)`` sets the candidates' sizes apart."""
    generator = torch_generator(0, name)
    tree = {key: torch.randn((len(GENES), *shape), generator=generator) for key, shape in SHAPES.items()}
    return {
        key: value * torch.as_tensor(scale).reshape(-1, *[1] * (value.dim() - 1))
        for key, value in tree.items()
    }


class Reference:
    """One candidate's ``torch.optim.Adam`` and ``clip_grad_norm_``."""

    def __init__(self, weights: Tree, index: int) -> None:
        self.index, self.genes = index, GENES[index]
        self.leaves = {key: value[index].clone().requires_grad_() for key, value in weights.items()}
        self.adam = torch.optim.Adam(list(self.leaves.values()), lr=1.0)
        self.after: list[Tree] = []

    def step(self, k: int, grads: Tree) -> None:
        for key, leaf in self.leaves.items():
            leaf.grad = grads[key][self.index].clone()
        norm = torch.nn.utils.clip_grad_norm_(self.leaves.values(), self.genes["meta.clip"])
        if not torch.isfinite(norm):
            return
        decay = (
            0.5 * (1 + math.cos(math.pi * k / N_STEPS)) if self.genes["meta.lr_decay"] == "cosine" else 1.0
        )
        self.adam.param_groups[0]["lr"] = self.genes["meta.lr"] * decay
        self.adam.step()
        self.after.append({key: leaf.detach().clone() for key, leaf in self.leaves.items()})


def gradients(k: int) -> Tree:
    """Candidate 1 has a NaN at step 4, candidate 2 infinities at steps 0 and 9."""
    grads = drawn(f"grads {k}", torch.tensor([5.0, 1.0, 0.01 * (1 + k)]))
    if k == 4:
        grads["scalar"][1] = torch.nan
    if k in (0, 9):
        grads["b"][2] = torch.inf
    return grads


def test_equals_torchs_adam_and_clipping_of_each_candidate_alone() -> None:
    weights = drawn("weights")
    optimizer = MetaOptimizer(weights, GENES)
    references = [Reference(weights, index) for index in range(len(GENES))]
    for k in range(N_STEPS):
        optimizer.step(gradients(k))
        for reference in references:
            reference.step(k, gradients(k))
            for key, leaf in reference.leaves.items():
                found = optimizer.weights[key][reference.index]
                torch.testing.assert_close(found, leaf.detach(), rtol=1e-6, atol=1e-6)
    assert optimizer.n_skipped == [0, 1, 2]
    for result, reference in zip(optimizer.results(), references, strict=True):
        for key, leaf in reference.leaves.items():
            torch.testing.assert_close(result[key], leaf.detach(), rtol=1e-6, atol=1e-6)


def test_averaged_weights_are_the_weighted_mean_of_those_after_each_update() -> None:
    """Coefficients rⁿ⁻ᵏ of the candidate's own decay r, their sum 1; skipped updates do not count."""
    newest = (0.5, None, 1e-3)
    genes = [
        gene if rate is None else {**gene, "meta.averaging": "ema", "meta.one_minus_averaging_decay": rate}
        for gene, rate in zip(GENES, newest, strict=True)
    ]
    weights = drawn("weights")
    optimizer = MetaOptimizer(weights, genes)
    references = [Reference(weights, index) for index in range(len(GENES))]
    for k in range(N_STEPS):
        optimizer.step(gradients(k))
        for reference in references:
            reference.step(k, gradients(k))
    for index, (result, rate) in enumerate(zip(optimizer.results(), newest, strict=True)):
        after = references[index].after
        factors = torch.tensor([(1 - (rate or 1.0)) ** (len(after) - 1 - k) for k in range(len(after))])
        for key in SHAPES:
            path = torch.stack([tree[key] for tree in after])
            mean = torch.tensordot(factors / factors.sum(), path, dims=1)
            torch.testing.assert_close(result[key], mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("averaging", ["none", "ema"])
def test_without_a_finite_meta_gradient_weights_stay_as_they_were(averaging: str) -> None:
    genes = [meta_genes({**gene, "meta.averaging": averaging}) for gene in GENES]
    weights = drawn("weights")
    optimizer = MetaOptimizer(weights, genes)
    for _ in range(3):
        optimizer.step({key: torch.full_like(value, torch.nan) for key, value in weights.items()})
    assert optimizer.n_skipped == [3, 3, 3]
    for index, result in enumerate(optimizer.results()):
        assert all(torch.equal(result[key], weights[key][index]) for key in weights)


def test_steps_leave_trees_handed_out_before_untouched() -> None:
    optimizer = MetaOptimizer(drawn("weights"), GENES)
    before = optimizer.weights
    copies = {key: value.clone() for key, value in before.items()}
    optimizer.step(drawn("grads"))
    assert all(torch.equal(before[key], copies[key]) for key in copies)


def test_a_refinement_does_not_import_the_compiler() -> None:
    """``torch._dynamo`` costs every worker seconds; building a ``torch.optim.Adam`` would import it."""
    code = """
import sys
import torch
from evometa.inner.cohort import Candidate
from evometa.meta import TaskStream, meta_genes, refine
from evometa.rng import torch_generator
from evometa.rules import Learner
learner = Learner.of("mlp", {})
genes = {**dict(learner.genes), **meta_genes({"meta.steps": 1, "meta.truncation": 5})}
candidate = Candidate("0", "mlp", genes, learner.init_weights(torch_generator(0)))
refine([candidate], [TaskStream("quadratic", "{}", 2, 5, 0)], torch.device("cpu"))
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
