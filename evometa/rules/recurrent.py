"""Coordinatewise recurrent update rules: one small network, shared by all coordinates of all tensors.

With an LSTM of two layers of 20 units, ``log_sign`` features and the direct output times 0.1 this is the
rule of Andrychowicz et al. 2016 ("Learning to learn by gradient descent by gradient descent"): those are the
genes' defaults.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor

from evometa import native
from evometa.genome.genes import Choice, Integer, Subset
from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.native.tasks import PerceptronTasks
from evometa.rules.base import Hyper, RuleFamily, StepContext, Steps, UpdateRule
from evometa.rules.cells import CELLS
from evometa.rules.feature_table import RECURRENT_FEATURES, SHARED_FEATURES, Scope
from evometa.rules.features import FeatureSet, Inputs
from evometa.rules.output import Output, output_genes
from evometa.rules.recurrent_kernel import UNIT, RecurrentKernel
from evometa.rules.signals import Signals
from evometa.trees import Tree, under_prefix, with_prefix

#: Coordinates that the layers work on at a time. It bounds the memory of a step of a large model (the gates
#: of an LSTM take 4·H numbers a coordinate); smaller chunks were not measurably quicker on a CPU.
CHUNK = 2**17
#: scopes of the features that are rows of the first layer's input, in this order
ROWS: tuple[Scope, ...] = ("coordinate", "task")


class RecurrentNetwork:
    """Features → layers of cells → a linear layer of ``n_outputs``, the same for every coordinate.

    State: ``hidden<l>`` and, for an LSTM, ``memory<l>``, ``(H, T, N)`` each, named by ``carried``, and the
    features' statistics. Weights: ``input.<feature>`` for every feature, so that a genome that gains or loses
    one keeps the others; ``layer<l>.…`` as in :class:`evometa.rules.cells.Cell`; the last layer's are the
    caller's.
    """

    def __init__(self, cell: str, n_layers: int, n_hidden: int, features: FeatureSet) -> None:
        self.cell = CELLS[cell]
        self.n_layers = n_layers
        self.n_hidden = n_hidden
        self.features = features
        kinds = ("hidden", "memory") if self.cell.has_memory else ("hidden",)
        self.carried = [f"{kind}{layer}" for kind in kinds for layer in range(n_layers)]
        #: the features that are rows of the first layer's input, in their order
        self.rows = [name for scope in ROWS for name in features.names(scope)]

    def init_weights(self, generator: torch.Generator) -> Tree:
        """Fresh weights of features and cells."""
        weights = {
            f"input.{name}": self.cell.init_input(generator, self.n_hidden, n_channels)
            for name, n_channels in self.features.n_channels.items()
        }
        for layer in range(self.n_layers):
            own = self.cell.init(generator, self.n_hidden)
            if layer:
                own["input"] = self.cell.init_input(generator, self.n_hidden, self.n_hidden)
            weights |= with_prefix(f"layer{layer}", own)
        return weights

    def init_state(self, params: Tensor, layout: Layout) -> Tree:
        """Zeros for params ``(T, N)``."""
        state = {name: params.new_zeros((self.n_hidden, *params.shape)) for name in self.carried}
        return state | self.features.init_state(params, layout)

    def outputs(self, weights: Tree, last: Tree, state: Tree, signals: Signals) -> tuple[Tensor, Tree]:
        """What the layer ``last`` makes of this step's signals, ``(n_outputs, T, N)``, and the next state.

        ``last`` has ``weight (n_outputs, H)`` and ``bias (n_outputs,)``.
        """
        inputs = self.features.inputs(signals)
        shape = signals.grads.shape
        carried = [state[name].flatten(1) for name in self.carried]
        outputs, carried = self._in_chunks(self._layers(weights, inputs), last, _rows(inputs, shape), carried)
        after = {
            name: torch.unflatten(value, 1, shape) for name, value in zip(self.carried, carried, strict=True)
        }
        return torch.unflatten(outputs, 1, shape), after | signals.state

    def formula(self) -> tuple[list[str], str]:
        """The lines up to the last layer's input, and that input's symbol."""
        lines, below = self.features.formula(), "x"
        for number in "₁₂"[: self.n_layers]:
            lines += [line.format(x=below, n=number) for line in self.cell.formula]
            below = f"h{number}"
        return lines, below

    def _layers(self, weights: Tree, inputs: Inputs) -> list[Tree]:
        """The weights of each layer; features of the step are in the first one's bias."""
        layers = [under_prefix(f"layer{layer}", weights) for layer in range(self.n_layers)]
        first = layers[0]
        scopes = [scope for scope in ROWS if scope in self.features.scopes]
        first["input"] = torch.cat([self.features.weights(weights, scope) for scope in scopes], dim=1)
        if "step" in self.features.scopes:
            first["bias"] = torch.addmv(first["bias"], self.features.weights(weights, "step"), inputs["step"])
        return layers

    def _in_chunks(
        self, layers: list[Tree], last: Tree, rows: Tensor, carried: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Outputs ``(n_outputs, R)`` and what is carried on, computed for CHUNK coordinates at a time."""
        if rows.shape[1] <= CHUNK:
            return self._forward(layers, last, rows, carried)
        pieces = zip(*(torch.split(tensor, CHUNK, dim=1) for tensor in (rows, *carried)), strict=True)
        results = [self._forward(layers, last, piece[0], list(piece[1:])) for piece in pieces]
        outputs = torch.cat([output for output, _ in results], dim=1)
        after = zip(*(carried for _, carried in results), strict=True)
        return outputs, [torch.cat(parts, dim=1) for parts in after]

    def _forward(
        self, layers: list[Tree], last: Tree, rows: Tensor, carried: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        hidden: list[Tensor] = []
        memory: list[Tensor] = []
        for index, layer in enumerate(layers):
            before = carried[self.n_layers + index] if self.cell.has_memory else None
            rows, remembered = self.cell(layer, rows, carried[index], before)
            hidden.append(rows)
            if remembered is not None:
                memory.append(remembered)
        return torch.addmm(last["bias"].unsqueeze(1), last["weight"], rows), hidden + memory


class RecurrentRule(UpdateRule):
    """A :class:`RecurrentNetwork` of one or two layers → output stage.

    State and weights are the network's; the last layer's are ``output.weight`` and ``output.bias``.
    """

    tasks_apart = True

    def __init__(self, cell: str, n_layers: int, n_hidden: int, features: FeatureSet, output: Output) -> None:
        self.network = RecurrentNetwork(cell, n_layers, n_hidden, features)
        self.output = output
        self.elementwise = features.elementwise and output.elementwise
        self._kernel = RecurrentKernel(
            cell, n_layers, n_hidden, features, output, self.network.rows, self.network.carried
        )

    def init_weights(self, generator: torch.Generator) -> Tree:
        weights = self.network.init_weights(generator)
        return weights | with_prefix("output", self.output.init(generator, self.network.n_hidden))

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        return self.network.init_state(params, layout)

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        signals = self.network.features.observe(state, grads, params, context)
        outputs, after = self.network.outputs(weights, under_prefix("output", weights), state, signals)
        return self.output.step(outputs, hyper, signals), after

    def has_kernel(self, grads: Tensor, params: Tensor) -> bool:
        return not grads.requires_grad and grads.numel() > 0 and native.serves(UNIT, grads, params)

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
        return self._kernel.advance(
            weights, hyper, state, grads, params, context, factor, overwrite=overwrite
        )

    def train(
        self, weights: Tree, hyper: Hyper, state: Tree, params: Tensor, tasks: PerceptronTasks, steps: Steps
    ) -> tuple[Tensor, Tree]:
        return self._kernel.train(weights, hyper, state, params, tasks, steps)


def _rows(inputs: Inputs, shape: torch.Size) -> Tensor:
    """The inputs of the first layer ``(F, R)``; a feature of the task, being one row, is simply repeated."""
    if "task" not in inputs:
        return inputs["coordinate"].flatten(1)
    return torch.cat([inputs["coordinate"], inputs["task"].unsqueeze(-1).expand(-1, *shape)]).flatten(1)


class RecurrentFamily(RuleFamily):
    """The registry row of the coordinatewise recurrent rules."""

    name = "recurrent"
    summary = "a small recurrent network, shared by all coordinates, turns gradients into steps"
    learned: ClassVar[bool] = True

    @property
    def space(self) -> Space:
        return Space(
            (
                Choice("cell", tuple(CELLS), "lstm", note="kind of recurrent cell"),
                Integer("layers", 1, 2, 2, note="layers of the network"),
                Integer("hidden", 4, 32, 20, log=True, note="units of each layer"),
                Subset("features", RECURRENT_FEATURES, ("log_sign",), note="inputs of each coordinate"),
                Subset("shared_features", SHARED_FEATURES, (), 0, note="inputs that all coordinates share"),
                *output_genes(output="direct", lr=0.1),
            )
        )

    def build(self, genes: Genes) -> RecurrentRule:
        output = Output.of(genes)
        features = FeatureSet.of(genes, output.statistics)
        n_layers, n_hidden = cast(int, genes["layers"]), cast(int, genes["hidden"])
        return RecurrentRule(str(genes["cell"]), n_layers, n_hidden, features, output)

    def describe(self, genes: Genes) -> str:
        rule = self.build(genes)
        network = rule.network
        title = network.cell.title
        layers = "two layers" if network.n_layers == 2 else "one layer"
        return (
            f"{title[0].upper()}{title[1:]} with {layers} of {network.n_hidden} units, the same for every "
            f"coordinate, reads {network.features.in_words()}; {rule.output.describe(genes)}."
        )

    def formula(self, genes: Genes) -> str:
        rule = self.build(genes)
        lines, top = rule.network.formula()
        return "\n".join([*lines, f"o = W·{top} + b", *rule.output.formula(genes)])
