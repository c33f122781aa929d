"""Graph rules: the tensors of a model exchange messages and set each other's step size and momentum.

Nodes are tensors. A gated graph network (Li et al. 2016, "Gated graph sequence neural networks") with a kind
of message for each relation of two tensors (Schlichtkrull et al. 2018, "Modeling relational data with graph
convolutional networks") keeps a hidden state for each node from step to step.

Edges are told from order and shapes alone, because that is all that an optimizer is given of a model:

- matrices (tensors of two or more axes) form a chain in their order, and each hears from the one before it
  and from the one behind it;
- a vector is of the layer of the last matrix before it whose first axis has the vector's length, as a bias
  or a normalisation's gain; if there is none, of the first matrix behind it that has an axis of that length.
  It hears from that matrix, and the matrix from the mean of its vectors;
- what is left, such as 0-d tensors, hears from nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar, cast

import torch
from torch import Tensor

from evometa.genome.genes import Choice, Integer
from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.rules.base import Hyper, RuleFamily, StepContext, UpdateRule
from evometa.rules.cells import CELLS
from evometa.rules.features import FeatureSet
from evometa.rules.tensor_cell import TensorCell
from evometa.rules.tensor_controls import TensorControls, control_genes
from evometa.rules.tensor_features import TENSOR_GENES, TensorFeatures
from evometa.trees import Tree, under_prefix, with_prefix

RELATIONS = ("before", "behind", "layer")
#: For each node the nodes that it hears from.
Neighbours = tuple[tuple[int, ...], ...]


@lru_cache(maxsize=256)
def edges(layout: Layout) -> dict[str, Neighbours]:
    """For each relation whom each tensor that has coordinates hears from."""
    shapes = [segment.shape for segment in layout.segments if segment.size]
    matrices = [node for node, shape in enumerate(shapes) if len(shape) > 1]
    heard: dict[str, list[list[int]]] = {name: [[] for _ in shapes] for name in RELATIONS}
    for before, behind in pairwise(matrices):
        heard["before"][behind].append(before)
        heard["behind"][before].append(behind)
    for node, shape in enumerate(shapes):
        if len(shape) == 1:
            owners = [m for m in reversed(matrices) if m < node and shapes[m][0] == shape[0]]
            owners += [m for m in matrices if m > node and shape[0] in shapes[m]]
            for owner in owners[:1]:
                heard["layer"][node].append(owner)
                heard["layer"][owner].append(node)
    return {name: tuple(map(tuple, found)) for name, found in heard.items()}


class GraphRule(UpdateRule):
    """Statistics of each tensor → rounds of messages between tensors → controls of a nominal Adam.

    In each round a cell of every node reads the node's inputs and, for every relation, the mean of the hidden
    states of those it hears from. State: ``node_hidden`` and, for an LSTM, ``node_memory``
    ``(H, T, n_tensors)``, and the statistics. Weights: ``node.…`` as in :class:`evometa.rules.cells.Cell`
    with ``node.input.<feature>`` for every feature and ``node.from_<relation> (G·H, H)``; ``control.weight
    (2, H)`` and ``control.bias``.
    """

    tensorwise = False

    def __init__(
        self,
        cell: str,
        n_hidden: int,
        n_rounds: int,
        features: FeatureSet,
        tensors: TensorFeatures,
        controls: TensorControls,
    ) -> None:
        self.node = TensorCell("node", cell, n_hidden)
        self.n_rounds = n_rounds
        self.features = features
        self.tensors = tensors
        self.controls = controls

    def init_weights(self, generator: torch.Generator) -> Tree:
        cell, n_hidden = self.node.cell, self.node.n_hidden
        own = self.tensors.init_weights(lambda n: cell.init_input(generator, n_hidden, n))
        own |= {f"from_{name}": cell.init_input(generator, n_hidden, n_hidden) for name in RELATIONS}
        own |= cell.init(generator, n_hidden)
        return with_prefix("node", own) | with_prefix("control", self.controls.init(n_hidden))

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        n_tensors = sum(size > 0 for size in layout.sizes)
        return self.features.init_state(params, layout) | self.node.init_state(params, n_tensors)

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        signals = self.features.observe(state, grads, params, context)
        own = under_prefix("node", weights)
        own["input"] = torch.cat([self.tensors.weights(own), *(own[f"from_{name}"] for name in RELATIONS)], 1)
        inputs, nodes = self.tensors.inputs(signals), {name: state[name] for name in self.node.carried}
        hidden = nodes[self.node.carried[0]]
        for _ in range(self.n_rounds):
            hidden, nodes = self.node.step(
                own, torch.cat([inputs, *_messages(hidden, context.layout)]), nodes
            )
        last = under_prefix("control", weights)
        controls = torch.addmm(last["bias"].unsqueeze(-1), last["weight"], hidden.flatten(1))
        step = self.controls.step(torch.unflatten(controls, 1, hidden.shape[1:]), hyper, signals)
        return step, nodes | signals.state


def _messages(hidden: Tensor, layout: Layout) -> list[Tensor]:
    """For each relation what each node hears, the mean of hidden states ``(H, T, n_tensors)`` or zeros."""
    columns = hidden.unbind(-1)
    zeros = torch.zeros_like(columns[0])
    return [
        torch.stack([_mean([columns[place] for place in own]) if own else zeros for own in heard], dim=-1)
        for heard in edges(layout).values()
    ]


def _mean(columns: Sequence[Tensor]) -> Tensor:
    return columns[0] if len(columns) == 1 else torch.stack(list(columns)).mean(dim=0)


class GraphFamily(RuleFamily):
    """The registry row of the graph rules."""

    name = "graph"
    summary = "messages between a model's tensors set each one's step size and momentum in Adam"
    learned: ClassVar[bool] = True

    @property
    def space(self) -> Space:
        return Space(
            (
                Choice("cell", tuple(CELLS), "gru", note="kind of recurrent cell of each tensor"),
                Integer("hidden", 4, 32, 12, log=True, note="its units"),
                Integer("rounds", 1, 3, 2, note="rounds of messages at every step"),
                *TENSOR_GENES,
                *control_genes(),
            )
        )

    def build(self, genes: Genes) -> GraphRule:
        controls, tensors = TensorControls.of(genes), TensorFeatures.of(genes)
        features = FeatureSet((), tensors.statistics_beside(controls.nominal.statistics))
        n_hidden, n_rounds = cast(int, genes["hidden"]), cast(int, genes["rounds"])
        return GraphRule(str(genes["cell"]), n_hidden, n_rounds, features, tensors, controls)

    def describe(self, genes: Genes) -> str:
        rule = self.build(genes)
        rounds = "one round" if rule.n_rounds == 1 else f"{rule.n_rounds} rounds"
        return (
            f"For each tensor {rule.node.cell.title} of {rule.node.n_hidden} units reads "
            f"{rule.tensors.in_words()} and, in {rounds} of messages, its layer's other tensors and the "
            f"layers before and behind; it {rule.controls.describe(genes)}."
        )

    def formula(self, genes: Genes) -> str:
        rule = self.build(genes)
        lines = [
            rule.tensors.formula(),
            *rule.features.definitions(),
            "e = [q, mean hₜ of the matrix before, of the one behind, of the own layer]",
            *(line.format(x="e", n="ₜ") for line in rule.node.cell.formula),
            *([f"and so {rule.n_rounds} times"] if rule.n_rounds > 1 else []),
            "(a, b) = W·hₜ + w",
        ]
        return "\n".join([*lines, *rule.controls.formula(genes)])
