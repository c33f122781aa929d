"""Recurrent cells against those of torch.nn, which work on rows instead of columns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from evometa.rng import torch_generator
from evometa.rules.cells import CELLS, tanh
from evometa.trees import Tree

N_INPUTS, N_HIDDEN, N_COLUMNS, N_STEPS = 3, 5, 7, 20


def _cell_weights(kind: str) -> Tree:
    generator = torch_generator(0, kind)
    weights = CELLS[kind].init(generator, N_HIDDEN)
    weights["input"] = CELLS[kind].init_input(generator, N_HIDDEN, N_INPUTS)
    return {n: 3 * torch.randn(w.shape, generator=generator, dtype=torch.float64) for n, w in weights.items()}


def _torch_cell(kind: str, weights: Tree) -> nn.RNNCell | nn.GRUCell | nn.LSTMCell:
    """The same cell of torch.nn, whose second bias is zero but for a GRU's candidate."""
    cell = {"vanilla": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}[kind](N_INPUTS, N_HIDDEN).double()
    second_bias = torch.zeros_like(cell.bias_hh)
    if kind == "gru":
        second_bias[2 * N_HIDDEN :] = weights["recurrent_bias"]
    with torch.no_grad():
        cell.weight_ih.copy_(weights["input"])
        cell.weight_hh.copy_(weights["recurrent"])
        cell.bias_ih.copy_(weights["bias"])
        cell.bias_hh.copy_(second_bias)
    return cell


def _inputs() -> Tensor:
    return torch.randn(
        (N_STEPS, N_INPUTS, N_COLUMNS), generator=torch_generator(0, "inputs"), dtype=torch.float64
    )


@pytest.mark.parametrize("kind", CELLS)
def test_equals_torch_over_many_steps(kind: str) -> None:
    weights = _cell_weights(kind)
    theirs = _torch_cell(kind, weights)
    hidden = torch.zeros((N_HIDDEN, N_COLUMNS), dtype=torch.float64)
    memory = torch.zeros_like(hidden) if CELLS[kind].has_memory else None
    expected, expected_memory = hidden.T, hidden.T
    for rows in _inputs():
        hidden, memory = CELLS[kind](weights, rows, hidden, memory)
        if memory is None:
            expected = theirs(rows.T, expected)
        else:
            expected, expected_memory = theirs(rows.T, (expected, expected_memory))
            torch.testing.assert_close(memory.T, expected_memory, rtol=0, atol=1e-12)
        torch.testing.assert_close(hidden.T, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", CELLS)
def test_gradients_equal_torch(kind: str) -> None:
    weights = {name: weight.requires_grad_(True) for name, weight in _cell_weights(kind).items()}
    theirs = _torch_cell(kind, {name: weight.detach() for name, weight in weights.items()})
    hidden = torch.zeros((N_HIDDEN, N_COLUMNS), dtype=torch.float64)
    memory = torch.zeros_like(hidden) if CELLS[kind].has_memory else None
    state: object = (hidden.T, hidden.T) if CELLS[kind].has_memory else hidden.T
    for rows in _inputs()[:5]:
        hidden, memory = CELLS[kind](weights, rows, hidden, memory)
        state = theirs(rows.T, state)
    hidden.square().sum().backward()
    (state[0] if isinstance(state, tuple) else state).square().sum().backward()
    pairs = {"input": theirs.weight_ih, "recurrent": theirs.weight_hh, "bias": theirs.bias_ih}
    for name, expected in pairs.items():
        torch.testing.assert_close(weights[name].grad, expected.grad, rtol=1e-10, atol=1e-12)


def test_lstm_starts_out_remembering() -> None:
    bias = CELLS["lstm"].init(torch_generator(0), N_HIDDEN)["bias"]
    assert bias.reshape(4, N_HIDDEN).tolist() == [[0.0] * 5, [1.0] * 5, [0.0] * 5, [0.0] * 5]


def test_lstm_without_memory_is_refused() -> None:
    weights = _cell_weights("lstm")
    with pytest.raises(TypeError, match="memory"):
        CELLS["lstm"](weights, _inputs()[0], torch.zeros((N_HIDDEN, N_COLUMNS), dtype=torch.float64), None)


def test_tanh() -> None:
    x = torch.linspace(-30, 30, 601, dtype=torch.float64)
    torch.testing.assert_close(tanh(x), torch.tanh(x), rtol=0, atol=5e-16)
    assert float(tanh(torch.tensor(0.0))) == 0.0
