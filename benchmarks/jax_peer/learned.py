"""The learned rules in JAX: coordinatewise recurrent networks and per-parameter MLPs, of any genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import jax
import jax.numpy as jnp

from benchmarks.jax_peer import output as outputs_to_steps
from benchmarks.jax_peer.cells import CELLS
from benchmarks.jax_peer.model import Tensors
from benchmarks.jax_peer.signals import Selection, Signals, State, Step, channels, shared_channels
from evometa.genome.space import Genes
from evometa.rules.feature_table import Feature
from evometa.rules.features import NORMALISER_EPSILON
from evometa.rules.output import Output

Array = jax.Array
Weights = Mapping[str, Array]
Hyper = Mapping[str, Array]


class Learned:
    """What both kinds of learned rules share: features, their statistics, the output stage."""

    def __init__(self, genes: Genes, unrolled: bool) -> None:
        self.unrolled = unrolled
        self.n_layers = int(genes["layers"])  # type: ignore[arg-type]
        self.n_hidden = int(genes["hidden"])  # type: ignore[arg-type]
        self.output = Output.of(genes)
        names = cast("tuple[str, ...]", (*genes["features"], *genes["shared_features"]))  # type: ignore[misc]
        self.features = Selection.of(names, self.output.statistics)

    def init_state(self, params: Tensors) -> State:
        """The statistics before the first step."""
        return self.features.init(params)

    def first_bias(self, weights: Weights, signals: Signals) -> Array:
        """The first layer's bias with the features of the step, ``(rows of the layer,)``."""
        bias = weights["layer0.bias"]
        for feature, decays in self.features.of_scope("step"):
            bias = bias + _input_weights(weights, feature, decays) @ shared_channels(feature, signals)
        return bias


def _input_weights(weights: Weights, feature: Feature, decays: Sequence[float]) -> Array:
    """The first layer's weights of a feature's channels, ``(rows of the layer, C)``."""
    return jnp.concatenate([weights[f"input.{feature.member(decay)}"] for decay in decays], axis=1)


class Recurrent(Learned):
    """All coordinates of all tasks are the columns of one matrix."""

    def __init__(self, genes: Genes, unrolled: bool) -> None:
        super().__init__(genes, unrolled)
        self.cell = CELLS[str(genes["cell"])]
        self.has_memory = genes["cell"] == "lstm"

    def init_state(self, params: Tensors) -> State:
        n_columns = sum(p.size for p in params)
        kinds = ("hidden", "memory") if self.has_memory else ("hidden",)
        carried = {
            f"{kind}{layer}": jnp.zeros((self.n_hidden, n_columns))
            for kind in kinds
            for layer in range(self.n_layers)
        }
        return carried | super().init_state(params)

    def update(self, weights: Weights, hyper: Hyper, state: State, seen: Step) -> tuple[Tensors, State]:
        """The steps to add to params, and the next state."""
        signals = Signals.observe(self.features, state, seen)
        rows, first = self._rows(weights, signals)
        after: State = {}
        for layer in range(self.n_layers):
            own = {
                name: weights[f"layer{layer}.{name}"]
                for name in ("input", "recurrent", "bias", "recurrent_bias")
                if f"layer{layer}.{name}" in weights
            }
            if layer == 0:
                own["input"], own["bias"] = first, self.first_bias(weights, signals)
            hidden, memory = state[f"hidden{layer}"], state.get(f"memory{layer}")
            rows, memory = self.cell(own, rows, hidden, memory, self.unrolled)
            after[f"hidden{layer}"] = rows
            if memory is not None:
                after[f"memory{layer}"] = memory
        outputs = weights["output.weight"] @ rows + weights["output.bias"][:, None]
        spread = [_spread(one, seen.params) for one in outputs]
        return outputs_to_steps.steps(self.output, spread, hyper, signals), after | signals.state

    def _rows(self, weights: Weights, signals: Signals) -> tuple[Array, Array]:
        """The inputs ``(F, R)`` of the first layer and their weights."""
        rows, layer = [], []
        for feature, decays in self.features.of_scope("coordinate"):
            rows.append(_joined(channels(feature, decays, signals)))
            layer.append(_input_weights(weights, feature, decays))
        for feature, decays in self.features.of_scope("task"):
            of_task = shared_channels(feature, signals)[:, :, None, None]
            spread = tuple(jnp.broadcast_to(of_task, (1, *p.shape)) for p in signals.seen.params)
            rows.append(_joined(spread))
            layer.append(_input_weights(weights, feature, decays))
        return jnp.concatenate(rows), jnp.concatenate(layer, axis=1)


class PerParameterMLP(Learned):
    """Each tensor on its own, so that its features are normalised over it."""

    def update(self, weights: Weights, hyper: Hyper, state: State, seen: Step) -> tuple[Tensors, State]:
        """The steps to add to params, and the next state."""
        signals = Signals.observe(self.features, state, seen)
        bias = self.first_bias(weights, signals)[:, None]
        for feature, decays in self.features.of_scope("task"):
            bias = bias + _input_weights(weights, feature, decays) @ shared_channels(feature, signals)
        varying = [
            (_input_weights(weights, feature, decays), channels(feature, decays, signals))
            for feature, decays in self.features.of_scope("coordinate", "row", "column")
        ]
        network = self._unit_by_unit if self.unrolled else self._layer_by_layer
        outputs = [
            network(weights, bias, [(weight, block[tensor]) for weight, block in varying])
            for tensor in range(len(seen.params))
        ]
        own = [tuple(o[index] for o in outputs) for index in range(self.output.n_outputs)]
        return outputs_to_steps.steps(self.output, own, hyper, signals), signals.state

    def _dense_layers(self, weights: Weights) -> list[tuple[Array, Array]]:
        """Weights and biases of the layers after the first."""
        names = [*(f"layer{layer}" for layer in range(1, self.n_layers)), "output"]
        return [(weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in names]

    def _layer_by_layer(
        self, weights: Weights, bias: Array, varying: Sequence[tuple[Array, Array]]
    ) -> Sequence[Array]:
        """The outputs on one tensor ``(T, r, c)``, hidden units side by side ``(H, T, r, c)``."""
        hidden = bias[:, :, None, None]
        for weight, block in _side_by_side(varying):
            scale = jax.lax.rsqrt(jnp.mean(jnp.square(block), axis=(2, 3)) + NORMALISER_EPSILON)
            hidden = hidden + jnp.einsum("hct,ctrk->htrk", weight[:, :, None] * scale, block)
        for weight, own_bias in self._dense_layers(weights):
            hidden = jax.nn.relu(hidden)
            hidden = jnp.einsum("oh,htrk->otrk", weight, hidden) + own_bias[:, None, None, None]
        return list(hidden)

    def _unit_by_unit(
        self, weights: Weights, bias: Array, varying: Sequence[tuple[Array, Array]]
    ) -> Sequence[Array]:
        """The same in one elementwise expression, each hidden unit ``(T, r, c)``."""
        hidden = [own[:, None, None] for own in bias]
        for weight, block in varying:
            for index, channel in enumerate(_normalised(block)):
                hidden = [h + weight[unit, index] * channel for unit, h in enumerate(hidden)]
        for weight, own_bias in self._dense_layers(weights):
            hidden = [jax.nn.relu(h) for h in hidden]
            hidden = [
                sum((w * h for w, h in zip(row, hidden, strict=True)), start=b)
                for row, b in zip(weight, own_bias, strict=True)
            ]
        return hidden


def _side_by_side(varying: Sequence[tuple[Array, Array]]) -> list[tuple[Array, Array]]:
    """Weights and channels of all coordinates, of all rows and of all columns, each joined to one block."""
    shapes: dict[tuple[int, ...], list[tuple[Array, Array]]] = {}
    for weight, block in varying:
        shapes.setdefault(block.shape[1:], []).append((weight, block))
    return [
        (jnp.concatenate([w for w, _ in own], axis=1), jnp.concatenate([b for _, b in own]))
        for own in shapes.values()
    ]


def _normalised(block: Array) -> list[Array]:
    """Channels ``(C, T, r, c)``, each over its root mean square on the tensor."""
    mean_square = jnp.mean(jnp.square(block), axis=(2, 3), keepdims=True)
    return list(block * jax.lax.rsqrt(mean_square + NORMALISER_EPSILON))


def _joined(tensors: Tensors) -> Array:
    """All coordinates of all tasks side by side, ``(C, R)``."""
    return jnp.concatenate([tensor.reshape(tensor.shape[0], -1) for tensor in tensors], axis=1)


def _spread(flat: Array, like: Tensors) -> Tensors:
    """The inverse of :func:`_joined` for one channel ``(R,)``."""
    parts, start = [], 0
    for tensor in like:
        parts.append(flat[start : start + tensor.size].reshape(tensor.shape))
        start += tensor.size
    return tuple(parts)
