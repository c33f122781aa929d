"""Rules that steer whole tensors: equal to loops over tensors, equivariant, and nominal while untrained."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from plain_tensors import PlainTensor, Training, built
from torch import Tensor, nn

from evometa.errors import GenomeError
from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules import RULES
from evometa.rules.graph import RELATIONS, edges
from evometa.rules.tensor_features import DEFAULT_TENSOR_FEATURES, TENSOR_FEATURES, TensorFeatures
from evometa.trees import Tree

LAYOUT = Layout.of({"0.weight": (3, 4), "0.bias": (3,), "2.weight": (2, 3), "scale": ()})
FAMILIES = ("hierarchical", "attention", "graph")
SHARED = ("loss", "progress")
#: the cells of PyTorch with as many biases
TORCH_CELLS: dict[str, Any] = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "vanilla": nn.RNNCell}


@pytest.fixture(scope="module")
def training() -> Training:
    return Training.drawn(LAYOUT)


class Plain:
    """Statistics of every tensor of one task, and a place for what a rule carries for each."""

    def __init__(self, training: Training, task: int, beta1: float = 0.9) -> None:
        self.training, self.task = training, task
        self.segments = training.layout.segments
        self.tensors = [PlainTensor.of(segment.size, beta1) for segment in self.segments]
        self.params = training.params[task].clone()

    def observe(self, k: int) -> None:
        grads, loss = self.training.grads[k, self.task], float(self.training.losses[k, self.task])
        for tensor, segment in zip(self.tensors, self.segments, strict=True):
            tensor.observe(grads[segment.slice], self.params[segment.slice], segment.shape, loss)

    def columns(self) -> list[Tensor]:
        return [tensor.column((*DEFAULT_TENSOR_FEATURES, *SHARED)) for tensor in self.tensors]

    def move(self, steps: list[Tensor]) -> Tensor:
        step = torch.cat(steps)
        self.params = self.params + step
        return step


def joined(weights: Tree, level: str) -> Tensor:
    return torch.cat([weights[f"{level}input.{name}"] for name in (*DEFAULT_TENSOR_FEATURES, *SHARED)], 1)


class TorchCell:
    """A cell of PyTorch with the weights of one of ours, for one column."""

    def __init__(self, kind: str, weights: Tree, level: str, input_weights: Tensor) -> None:
        n_hidden = weights[f"{level}.recurrent"].shape[1]
        self.cell = TORCH_CELLS[kind](input_weights.shape[1], n_hidden).double()
        with torch.no_grad():
            self.cell.weight_ih.copy_(input_weights)
            self.cell.weight_hh.copy_(weights[f"{level}.recurrent"])
            self.cell.bias_ih.copy_(weights[f"{level}.bias"])
            self.cell.bias_hh.zero_()
            if kind == "gru":
                self.cell.bias_hh[2 * n_hidden :] = weights[f"{level}.recurrent_bias"]
        self.fresh = torch.zeros(1, n_hidden, dtype=torch.float64)
        self.is_lstm = kind == "lstm"

    def start(self) -> Any:
        return (self.fresh, self.fresh) if self.is_lstm else self.fresh

    @torch.no_grad()
    def __call__(self, inputs: Tensor, carried: Any) -> Any:
        return self.cell(inputs.unsqueeze(0), carried)

    def hidden(self, carried: Any) -> Tensor:
        return (carried[0] if self.is_lstm else carried)[0]


@pytest.mark.parametrize("cell", TORCH_CELLS)
@pytest.mark.parametrize("global_level", [False, True])
def test_hierarchical_steps_are_those_of_a_loop_over_tensors_and_coordinates(
    cell: str, global_level: bool, training: Training
) -> None:
    genes = {"cell": cell, "global_level": global_level, "tensor_hidden": 5, "hidden": 4, "control": 0.7}
    genes |= {"features": ("gradient", "average_0.9"), "shared_features": SHARED, "layers": 2, "lr": 0.3}
    rule, weights, hyper = built(RULES["hierarchical"], genes)
    found = training.steps_of(rule, weights, hyper)
    input_weights = joined(weights, "tensor.")
    if global_level:
        input_weights = torch.cat([input_weights, weights["tensor.feedback"]], dim=1)
        above = TorchCell(cell, weights, "global", weights["global.input"])
    own = TorchCell(cell, weights, "tensor", input_weights)
    for task in range(2):
        plain = Plain(training, task)
        carried, whole = [own.start() for _ in LAYOUT.segments], above.start() if global_level else None
        for k in range(len(found)):
            plain.observe(k)
            steps = []
            for place, (tensor, column) in enumerate(zip(plain.tensors, plain.columns(), strict=True)):
                read = torch.cat([column, above.hidden(whole)]) if global_level else column
                carried[place] = own(read, carried[place])
                control = weights["control.weight"] @ own.hidden(carried[place]) + weights["control.bias"]
                steps.append(perceptron(tensor, weights, hyper, control))
            if global_level:
                mean = torch.stack([own.hidden(one) for one in carried]).mean(0)
                whole = above(mean, whole)
            torch.testing.assert_close(found[k, task], plain.move(steps), rtol=1e-9, atol=1e-12)


def perceptron(tensor: PlainTensor, weights: Tree, hyper: Tree, control: Tensor) -> Tensor:
    """Two layers read g and m̂ at every coordinate, each over its root mean square; they scale Adam's step."""
    step = tensor.adam(float(hyper["nominal_lr"]))
    inputs = [tensor.grad / tensor.grad.square().mean().sqrt(), tensor.m / tensor.m.square().mean().sqrt()]
    first = torch.cat([weights["input.gradient"], weights["input.average_0.9"]], dim=1)
    for n in range(len(step)):
        hidden = torch.relu(
            first @ torch.stack([x[n] for x in inputs]) + weights["layer0.bias"] + control[1:]
        )
        hidden = torch.relu(weights["layer1.weight"] @ hidden + weights["layer1.bias"])
        output = float(weights["output.weight"][0] @ hidden + weights["output.bias"][0])
        for exponent in (float(hyper["lr"]) * output, float(hyper["control"] * control[0])):
            step[n] *= 10 ** math.tanh(exponent / math.log(10))
    return step


@pytest.mark.parametrize(("n_blocks", "n_heads"), [(1, 1), (2, 2)])
def test_attention_is_a_transformer_of_pytorch_over_the_history(
    n_blocks: int, n_heads: int, training: Training
) -> None:
    """Histories shorter than the ring, and longer."""
    genes = {"blocks": n_blocks, "heads": n_heads, "width": 8, "length": 3, "shared_features": SHARED}
    rule, weights, hyper = built(
        RULES["attention"], {**genes, "control": 0.6, "nominal_gradient": 0.3, "nominal_beta1": 0.9}
    )
    found = training.steps_of(rule, weights, hyper)
    blocks = [torch_block(weights, f"block{block}", n_heads) for block in range(n_blocks)]
    last = nn.LayerNorm(8).double()
    load_norm(last, weights["norm"])
    for task in range(2):
        plain = Plain(training, task)
        histories: list[list[Tensor]] = [[] for _ in LAYOUT.segments]
        for k in range(len(found)):
            plain.observe(k)
            steps = []
            for tensor, column, history in zip(plain.tensors, plain.columns(), histories, strict=True):
                history.append(joined(weights, "") @ column)
                recent = history[-3:]
                tokens = (torch.stack(recent) + weights["position"][-len(recent) :]).unsqueeze(0)
                with torch.no_grad():
                    for block in blocks:
                        tokens = block(tokens)
                    latest = last(tokens[0, -1])
                controls = weights["control.weight"] @ latest + weights["control.bias"]
                steps.append(tensor.controlled(hyper, controls))
            torch.testing.assert_close(found[k, task], plain.move(steps), rtol=1e-9, atol=1e-12)


def load_norm(norm: nn.LayerNorm, weights: Tensor) -> None:
    with torch.no_grad():
        norm.weight.copy_(weights[0])
        norm.bias.copy_(weights[1])


def torch_block(weights: Tree, name: str, n_heads: int) -> nn.TransformerEncoderLayer:
    own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(name)}
    block = nn.TransformerEncoderLayer(
        8, n_heads, 16, dropout=0.0, batch_first=True, norm_first=True
    ).double()
    with torch.no_grad():
        block.self_attn.in_proj_weight.copy_(torch.cat([own["query"], own["key"], own["value"]]))
        block.self_attn.in_proj_bias.zero_()
        block.self_attn.out_proj.weight.copy_(own["merge"])
        block.self_attn.out_proj.bias.zero_()
        for layer, part in ((block.linear1, "widen"), (block.linear2, "narrow")):
            layer.weight.copy_(own[part])
            layer.bias.copy_(own[f"{part}_bias"])
    load_norm(block.norm1, own["norm_attention"])
    load_norm(block.norm2, own["norm_perceptron"])
    return block.train()  # the quicker way of evaluation is another implementation


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_graph_steps_are_those_of_a_loop_over_nodes(cell: str, training: Training) -> None:
    genes = {"cell": cell, "hidden": 5, "rounds": 2, "shared_features": SHARED, "control": 0.6}
    rule, weights, hyper = built(RULES["graph"], {**genes, "nominal_gradient": 0.3})
    found = training.steps_of(rule, weights, hyper)
    messages = [weights[f"node.from_{relation}"] for relation in RELATIONS]
    node = TorchCell(cell, weights, "node", torch.cat([joined(weights, "node."), *messages], dim=1))
    # 0.weight ← 2.weight behind and 0.bias; 0.bias ← 0.weight; 2.weight ← 0.weight before; scale alone
    heard = [(None, 2, 1), (None, None, 0), (0, None, None), (None, None, None)]
    for task in range(2):
        plain, carried = Plain(training, task), [node.start() for _ in LAYOUT.segments]
        for k in range(len(found)):
            plain.observe(k)
            for _ in range(2):
                hidden = [node.hidden(one) for one in carried]
                zero = torch.zeros_like(hidden[0])
                carried = [
                    node(torch.cat([column, *(zero if i is None else hidden[i] for i in own)]), before)
                    for column, own, before in zip(plain.columns(), heard, carried, strict=True)
                ]
            steps = [
                tensor.controlled(
                    hyper, weights["control.weight"] @ node.hidden(one) + weights["control.bias"]
                )
                for tensor, one in zip(plain.tensors, carried, strict=True)
            ]
            torch.testing.assert_close(found[k, task], plain.move(steps), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "genes"),
    [("hierarchical", {"global_level": False}), ("hierarchical", {"global_level": True}), ("attention", {})],
)
def test_tensors_in_another_order_make_the_same_steps(
    name: str, genes: dict[str, Any], training: Training
) -> None:
    rule, weights, hyper = built(RULES[name], genes)
    order = [2, 0, 3, 1]
    found = training.permuted(order).steps_of(rule, weights, hyper)
    expected = training.moved(training.steps_of(rule, weights, hyper), order)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_untrained_it_is_its_nominal_adam(name: str, training: Training) -> None:
    family = RULES[name]
    genes = family.space.complete({"nominal_lr": 0.03, "nominal_gradient": 0.25, "nominal_beta2": 0.99})
    fresh = family.build(genes).init_weights(torch_generator(0))
    _, _, hyper = built(family, genes)
    weights = {key: value.double() for key, value in fresh.items()}
    found = training.steps_of(family.build(genes), weights, hyper)
    mlp = RULES["mlp"].space.complete(
        {
            "nominal": "adam",
            "combine": "scale",
            "nominal_lr": 0.03,
            "nominal_gradient": 0.25,
            "nominal_beta2": 0.99,
        }
    )
    rule, _, hyper = built(RULES["mlp"], mlp)
    fresh = {key: value.double() for key, value in rule.init_weights(torch_generator(0)).items()}
    assert torch.equal(found, training.steps_of(rule, fresh, hyper))
    for task in range(2):
        tensors = [PlainTensor.of(segment.size, 0.9, 0.99) for segment in LAYOUT.segments]
        for k in range(len(found)):
            for tensor, segment in zip(tensors, LAYOUT.segments, strict=True):
                tensor.observe(training.grads[k, task, segment.slice], torch.ones(1), segment.shape, 1.0)
            expected = torch.cat([tensor.adam(0.03, 0.25) for tensor in tensors])
            torch.testing.assert_close(found[k, task], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("shapes", "layer", "before"),
    [
        # a perceptron
        ([(32, 64), (32,), (10, 32), (10,)], {0: [1], 1: [0], 2: [3], 3: [2]}, {2: 0}),
        # convolutions with biases and normalisations behind them, then a linear layer without a bias
        (
            [(4, 1, 3, 3), (4,), (4,), (4,), (8, 4, 3, 3), (8,), (10, 128)],
            {0: [1, 2, 3], 1: [0], 2: [0], 3: [0], 4: [5], 5: [4]},
            {4: 0, 6: 4},
        ),
        # a normalisation before the first layer, an embedding, a 0-d tensor and a vector of no layer
        ([(7,), (5, 7), (5,), (), (3,)], {0: [1], 1: [0, 2], 2: [1]}, {}),
        # groups of an optimizer: matrices first, their biases behind
        ([(6, 4), (3, 6), (6,), (3,)], {0: [2], 1: [3], 2: [0], 3: [1]}, {1: 0}),
        # an empty tensor is none
        ([(0, 3), (2, 2), (2,)], {0: [1], 1: [0]}, {}),
    ],
)
def test_edges_of_a_graph(
    shapes: list[tuple[int, ...]], layer: dict[int, list[int]], before: dict[int, int]
) -> None:
    found = edges(Layout.of({str(place): shape for place, shape in enumerate(shapes)}))
    n = sum(0 not in shape for shape in shapes)
    assert found["layer"] == tuple(tuple(layer.get(node, ())) for node in range(n))
    assert found["before"] == tuple((before[node],) if node in before else () for node in range(n))
    behind = {own: node for node, own in before.items()}
    assert found["behind"] == tuple((behind[node],) if node in behind else () for node in range(n))


def test_a_tensor_moves_another_only_along_edges(training: Training) -> None:
    """In one round a node hears its neighbours; ``scale`` has none, and two rounds reach two steps far."""
    rule, weights, hyper = built(RULES["graph"], {"rounds": 1})
    loud = Training(LAYOUT, training.params, training.grads.clone(), training.losses)
    loud.grads[0, :, LAYOUT.segments[1].slice] *= 100.0
    quiet, other = (one.steps_of(rule, weights, hyper) for one in (training, loud))
    moved = [
        [not torch.equal(quiet[k, :, segment.slice], other[k, :, segment.slice]) for k in range(3)]
        for segment in LAYOUT.segments
    ]
    # hidden states are zero at first, so a message arrives at the second step, and goes on at the third
    assert moved == [[False, True, True], [True, True, True], [False, False, True], [False, False, False]]


def test_features_are_named_and_counted() -> None:
    features = TensorFeatures(TENSOR_FEATURES, ("time", "loss"))
    assert features.names == [*TENSOR_FEATURES, "loss", "time"]
    assert sum(features.n_channels.values()) == len(TENSOR_FEATURES) + 12
    with pytest.raises(GenomeError, match=r"unknown tensor feature 'cosin_0.9'.*did you mean"):
        TensorFeatures(["cosin_0.9"], ())


def test_the_scale_of_a_model_does_not_change_what_agreement_says() -> None:
    """Cosine, signal and change see directions and ratios alone."""
    training = Training.drawn(LAYOUT)
    features = ("cosine_0.9", "signal_0.9", "change", "size")
    rule, weights, hyper = built(RULES["attention"], {"tensor_features": features, "shared_features": ()})
    large = Training(LAYOUT, training.params, 1e3 * training.grads, training.losses)
    found = large.steps_of(rule, weights, hyper)
    torch.testing.assert_close(found, training.steps_of(rule, weights, hyper), rtol=1e-3, atol=0)


def test_formulas() -> None:
    """Averages are defined with the decays in use, and no symbol means two things."""
    space = RULES["attention"].space
    genes = {"nominal_beta2": 0.9, "tensor_features": ("cosine_0.9", "change"), "shared_features": ()}
    assert RULES["attention"].formula(space.complete({**genes, "nominal_gradient": 0.2})).splitlines() == [
        "q = [cos(g, m̂(0.9)), log(rms(g)/rms(√v̂))] of each tensor",
        "m̂(β) = ⟨g⟩",
        "v̂ = ⟨g²⟩ with β = 0.9",
        "⟨y⟩ = Σⱼ βʲ·yₖ₋ⱼ / Σⱼ βʲ",
        "t = [E·qₖ₋7, …, E·qₖ] + positions",
        "t ← t + attention(norm t);  t ← t + V·max(0, U·norm t + c) + d",
        "(a, b) = W·norm(last t) + w",
        "λ = 0.2 + tanh(0.1·b)",
        "n = −0.01·((1 − λ)·m̂(0.9) + λ·g)/(√v̂ + 10⁻⁸)",
        "Δ = n·exp(s·tanh(0.1·a/s)), s = log 10",
    ]
    graph = RULES["graph"].space.complete({"cell": "vanilla", "shared_features": ("progress",)})
    lines = RULES["graph"].formula(graph).splitlines()
    assert lines[4:8] == [
        "e = [q, mean hₜ of the matrix before, of the one behind, of the own layer]",
        "hₜ ← tanh(Wₜ·[e, hₜ, 1])",
        "and so 2 times",
        "(a, b) = W·hₜ + w",
    ]
    above = RULES["hierarchical"].space.complete(
        {"global_level": True, "cell": "vanilla", "features": ("gradient",)}
    )
    lines = RULES["hierarchical"].formula(above).splitlines()
    assert lines[1:5] == [
        "q ← [q, hᴳ]",
        "hₜ ← tanh(Wₜ·[q, hₜ, 1])",
        "hᴳ ← tanh(Wᴳ·[mean hₜ, hᴳ, 1])",
        "(a, b) = Wᶜ·hₜ + bᶜ for each tensor",
    ]
    assert "h₁ = max(0, W₁·x̃ + b₁ + b)" in lines
