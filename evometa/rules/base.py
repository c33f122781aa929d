"""Contract of update rules: what optimises at level 1.

A :class:`RuleFamily` is a registry row: a search space and a way to build a rule from genes. An
:class:`UpdateRule` is one *structure* of a family: it is built from integer, choice and subset genes,
and everything that may differ inside a cohort reaches it as tensors: ``weights`` (φ, meta-trained) and
``hyper`` (the continuous genes, 0-d tensors).

Rules are written for **one candidate**: parameters and gradients are ``(T, N)``, T tasks of N flat
coordinates. The engine adds the candidate axis with ``torch.vmap`` or a loop; the exported optimizer calls
the same code with T = 1. So a rule is pure (nothing given is edited in place), has no data-dependent
Python branches, no ``.item()``, and draws no random numbers.

A rule may also have a faster equal of ``update`` for a whole cohort, :meth:`UpdateRule.advance`; ``update``
stays what it is compared with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.native.tasks import PerceptronTasks
from evometa.trees import Tree

Hyper = Mapping[str, Tensor]


@dataclass(frozen=True)
class LastStep:
    """How the gradient here lies to the step u that led here, taken without its schedule's factor.

    Sums over all coordinates of a model, each (T,); zeros before the first step.

    Attributes:
        slope: ⟨g, u⟩, the derivative of the loss here by the factor on that step.
        grad_square: ‖g‖².
        step_square: ‖u‖².
    """

    slope: Tensor
    grad_square: Tensor
    step_square: Tensor

    @classmethod
    def of(cls, grads: Tensor, step: Tensor) -> LastStep:
        """The sums over gradients and the step before, both ``(T, N)``."""
        return cls((grads * step).sum(-1), grads.square().sum(-1), step.square().sum(-1))


@dataclass(frozen=True)
class StepContext:
    """What a rule may know besides gradients and parameters.

    Attributes:
        layout: segments of the N coordinates.
        step: () floating tensor, updates made so far (0 at the first).
        horizon: () floating tensor, planned number of updates; step may exceed it after export.
        loss: (T,) training loss at the current parameters; None where the caller has none
            (``optimizer.step()`` without a loss). A rule that wants it defines what it does without.
        last_step: for schedules that follow steps; None for all others.
    """

    layout: Layout
    step: Tensor
    horizon: Tensor
    loss: Tensor | None
    last_step: LastStep | None = None

    @property
    def progress(self) -> Tensor:
        """Share of the horizon done, () in [0, 1]; stays at 1 beyond the horizon."""
        return (self.step / self.horizon).clamp(max=1.0)


@dataclass(frozen=True)
class Steps:
    """Steps of a training that a kernel makes one after another.

    Attributes:
        layout: segments of the N coordinates.
        numbers: updates made before each of the K steps.
        horizon: planned number of updates.
        factors: ``(K, P, 1)``, the schedule's at each step.
    """

    layout: Layout
    numbers: range
    horizon: int
    factors: Tensor


class UpdateRule(ABC):
    """One structure of a rule family; see the module's text for shapes and purity.

    ``tasks_apart`` says that :meth:`train` is best given one task at a time: it takes those that it is given
    through every step together, and their states should stay in cache.

    ``elementwise`` says that a coordinate's step depends on no other coordinate: a process that holds only a
    shard of a tensor steps it as the whole would be.

    ``tensorwise`` says that a tensor's step depends on no other tensor: each may be stepped with others or by
    itself. A rule that relates the tensors of a model to each other is not; an exported optimizer steps the
    whole model with it at once, see :class:`evometa.export.buckets.Buckets`.
    """

    tasks_apart: ClassVar[bool] = False
    elementwise: bool = False
    tensorwise: bool = True

    @abstractmethod
    def init_weights(self, generator: torch.Generator) -> Tree:
        """Fresh weights φ of one candidate, float32 on the CPU; {} for hand-designed rules."""

    @abstractmethod
    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        """State before the first step for params ``(T, N)``, in their dtype and device.

        It goes by their shape alone: an exported optimizer makes it before it has looked at their values.
        Every tensor has the task axis T in front of its last axis or, for per-tensor statistics, as its
        first; {} where a rule keeps nothing. What belongs to each tensor of the model stands side by side on
        the last axis, in their order; what all tensors share has a last axis that does not grow with them.
        """

    @abstractmethod
    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        """The step to *add* to params, ``(T, N)``, and the next state (same names and shapes).

        A zero gradient must give a finite step; NaN gradients may give anything, the engine records them.
        """

    def has_kernel(self, grads: Tensor, params: Tensor) -> bool:
        """Whether :meth:`advance` serves such tensors here and now; never where ``grads`` has a graph."""
        return False

    def advance(
        self,
        weights: Tree,
        hyper: Hyper,
        state: Tree,
        grads: Tensor,
        params: Tensor,
        context: StepContext,
        factor: Tensor,
        *,
        overwrite: bool = False,
    ) -> tuple[Tensor, Tree]:
        """The *next* params ``(P, T, N)`` and state of a whole cohort by a native kernel.

        Everything has the axis P in front: ``weights`` and ``state`` ``(P, …)``, ``hyper`` ``(P,)``,
        ``grads`` and ``params`` ``(P, T, N)``, ``context.loss`` ``(P, T)`` or None, ``factor`` (the
        schedule's) ``(P, 1)`` or ``(P, T)``. Equal to params + factor · :meth:`update`; differentiable in
        weights, factor, params and the state that depends on them, while ``grads`` and what is told from them
        alone are constants. With ``overwrite`` (and no graph) state and params may be edited in place and
        returned. Only called after :meth:`has_kernel` said yes.
        """
        raise NotImplementedError(f"{type(self).__name__} has no kernel")

    def train(
        self,
        weights: Tree,
        hyper: Hyper,
        state: Tree,
        params: Tensor,
        tasks: PerceptronTasks,
        steps: Steps,
    ) -> tuple[Tensor, Tree]:
        """K steps of a whole cohort on the minibatches of ``tasks``, each as :meth:`advance` makes it.

        Params ``(P, T, N)`` are edited in place, and state may be, so both must be contiguous and without a
        graph. Returns the losses before each step, ``(K, P, T)``, and the next state. Only called after
        :meth:`has_kernel` said yes.
        """
        raise NotImplementedError(f"{type(self).__name__} has no kernel")


class RuleFamily(ABC):
    """A registry row: names, search space, builder and explanation of one family of rules."""

    name: str
    summary: str
    #: whether its rules have weights φ of their own to meta-train
    learned: ClassVar[bool] = False
    #: whether its rules are formulas, in which weights only move numbers: they need no guard past the
    #: horizon, and a few gradients tell what they do
    is_formula: ClassVar[bool] = False
    #: whether its steps have a derivative by the weights, without which none can be backpropagated to them
    differentiable: bool = True

    @property
    @abstractmethod
    def space(self) -> Space:
        """The family's own genes (schedules and meta-training settings are added elsewhere)."""

    @abstractmethod
    def build(self, genes: Genes) -> UpdateRule:
        """The rule of these (complete, checked) genes; only structural genes may shape it."""

    @abstractmethod
    def describe(self, genes: Genes) -> str:
        """What the rule does, in one or two sentences of plain words."""

    @abstractmethod
    def formula(self, genes: Genes) -> str:
        """The update as a formula in Unicode text, one line an equation."""

    def structure(self, genes: Genes) -> Hashable:
        """What two genomes must share to run in one cohort."""
        return (self.name, self.space.structural(genes))

    def absorbed(self, genes: Genes, weights: Tree, space: Space) -> tuple[Genes, Tree]:
        """Genes permitted in ``space`` that say what a rule's weights make of it, and the weights left.

        Here genes say nothing of weights.
        """
        return genes, weights

    def simplified(self, genes: Genes) -> Genes:
        """Genes of an equal rule that is easiest to read; here: the same."""
        return genes
