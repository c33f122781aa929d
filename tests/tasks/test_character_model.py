from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import grad_and_value, vmap

from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.tasks.character_model import CharacterGRU, CharacterModel, CharacterTransformer

N_CHARACTERS, LENGTH, WIDTH, B = 7, 5, 4, 3
GRU = CharacterGRU(N_CHARACTERS, LENGTH, WIDTH, 2, "normal(0.5)")
TRANSFORMER = CharacterTransformer(N_CHARACTERS, LENGTH, WIDTH, 2, "normal(0.5)", "gelu")


def test_gru_is_pytorchs() -> None:
    tensors = Layout.of(GRU.inner_shapes).views(
        torch.randn(Layout.of(GRU.inner_shapes).size, generator=torch_generator(0)).double() / 2
    )
    theirs = nn.GRU(WIDTH, WIDTH, 2, batch_first=True, dtype=torch.float64)
    named = {
        f"{kind}_{short}_l{layer}": tensors[f"{layer}.{source}.{kind}"]
        for layer in (0, 1)
        for source, short in (("input", "ih"), ("state", "hh"))
        for kind in ("weight", "bias")
    }
    theirs.load_state_dict(named)
    embedded = torch.randn((B, LENGTH, WIDTH), generator=torch_generator(1)).double()
    torch.testing.assert_close(GRU.hidden(tensors, embedded), theirs(embedded)[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("model", [GRU, TRANSFORMER])
def test_loss_is_what_the_next_characters_cost(model: CharacterModel) -> None:
    params = model.init_params(1, torch_generator(0))[0]
    text = torch.randint(N_CHARACTERS, (B, LENGTH + 1), generator=torch_generator(1))
    x, y = text[:, :-1], text[:, 1:]
    chances = model.scores(params, x).softmax(-1)
    cost = [-float(chances[row, k, y[row, k]].log()) for row in range(B) for k in range(LENGTH)]
    assert float(model.loss(params, {"x": x, "y": y})) == pytest.approx(sum(cost) / len(cost), rel=1e-5)


@pytest.mark.parametrize("model", [GRU, TRANSFORMER])
def test_scores_depend_on_nothing_that_follows(model: CharacterModel) -> None:
    params = model.init_params(1, torch_generator(0))[0]
    x = torch.tensor([[0, 1, 2, 3, 4]])
    changed = torch.tensor([[0, 1, 5, 3, 4]])
    before, after = model.scores(params, x), model.scores(params, changed)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    different = ~torch.isclose(before[:, 2:], after[:, 2:])
    assert different.any(dim=-1).all()


@pytest.mark.parametrize("model", [GRU, TRANSFORMER])
def test_mapped_over_tasks_equals_task_by_task(model: CharacterModel) -> None:
    params = model.init_params(2, torch_generator(0)).double()
    text = torch.randint(N_CHARACTERS, (2, B, LENGTH + 1), generator=torch_generator(1))
    batch = {"x": text[..., :-1], "y": text[..., 1:]}
    grads, losses = vmap(grad_and_value(model.loss))(params, batch)
    for task in range(2):
        one = params[task].clone().requires_grad_()
        loss = model.loss(one, {name: value[task] for name, value in batch.items()})
        (grad,) = torch.autograd.grad(loss, one)
        torch.testing.assert_close(losses[task], loss.detach(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(grads[task], grad, rtol=1e-10, atol=1e-10)
