from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.tasks.initialisation import initial_params
from evometa.tasks.transformer_model import EXPANSION, N_HEADS, Blocks, PatchTransformer

WIDTH, LENGTH, B = 6, 5, 3
#: Ours, and PyTorch's names of the same tensors.
NAMES = {
    "before_attention.scale": "norm1.weight",
    "before_attention.shift": "norm1.bias",
    "read.weight": "self_attn.in_proj_weight",
    "read.bias": "self_attn.in_proj_bias",
    "mix.weight": "self_attn.out_proj.weight",
    "mix.bias": "self_attn.out_proj.bias",
    "before_mlp.scale": "norm2.weight",
    "before_mlp.shift": "norm2.bias",
    "up.weight": "linear1.weight",
    "up.bias": "linear1.bias",
    "down.weight": "linear2.weight",
    "down.bias": "linear2.bias",
}


def drawn(blocks: Blocks) -> dict[str, Tensor]:
    """Float64 tensors, all of them different from what an initialisation would make them."""
    layout = Layout.of(blocks.shapes)
    return layout.views(torch.randn(layout.size, generator=torch_generator(0)).double() / 2)


@pytest.mark.parametrize("causal", [False, True])
def test_blocks_are_pytorchs_encoder_layers(causal: bool) -> None:
    blocks = Blocks(WIDTH, 2, "relu", causal)
    tensors = drawn(blocks)
    layer = nn.TransformerEncoderLayer(
        WIDTH, N_HEADS, EXPANSION * WIDTH, dropout=0.0, batch_first=True, norm_first=True, dtype=torch.float64
    )
    last = nn.LayerNorm(WIDTH, dtype=torch.float64)
    encoder = nn.TransformerEncoder(layer, 2, norm=last, enable_nested_tensor=False)
    theirs = {
        f"layers.{k}.{theirs}": tensors[f"{k}.{ours}"] for k in (0, 1) for ours, theirs in NAMES.items()
    }
    encoder.load_state_dict(
        {**theirs, "norm.weight": tensors["last.scale"], "norm.bias": tensors["last.shift"]}
    )
    hidden = torch.randn((B, LENGTH, WIDTH), generator=torch_generator(1)).double()
    mask = nn.Transformer.generate_square_subsequent_mask(LENGTH, dtype=torch.float64) if causal else None
    torch.testing.assert_close(
        blocks.apply(tensors, hidden), encoder(hidden, mask=mask), rtol=1e-10, atol=1e-10
    )


def test_causal_positions_do_not_see_later_ones() -> None:
    blocks = Blocks(WIDTH, 1, "gelu", causal=True)
    tensors = drawn(blocks)
    hidden = torch.randn((B, LENGTH, WIDTH), generator=torch_generator(1)).double()
    changed = hidden.clone()
    changed[:, 3:] = changed[:, 3:].flip(-1)  # a constant would be normalised away
    before, after = blocks.apply(tensors, hidden), blocks.apply(tensors, changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.isclose(before[:, 3:], after[:, 3:]).any()


def test_patches_are_squares_and_their_order_matters() -> None:
    model = PatchTransformer(4, 2, WIDTH, 1, 3, "relu", "xavier")
    params = model.init_params(1, torch_generator(0))[0]
    tensors = model.layout.views(params)
    tensors["position.embedding"].zero_()
    image = torch.rand((1, 4, 4), generator=torch_generator(1))
    upper_left, lower_right = image[:, :2, :2], image[:, 2:, 2:]
    swapped = image.clone()
    swapped[:, :2, :2], swapped[:, 2:, 2:] = lower_right, upper_left

    def loss(picture: Tensor) -> Tensor:
        return model.loss(params, {"x": picture.reshape(1, 16), "y": torch.tensor([1])})

    torch.testing.assert_close(loss(image), loss(swapped))
    assert not torch.isclose(loss(image), loss(image.roll(1, dims=2)))
    tensors["position.embedding"].normal_(generator=torch_generator(2))
    assert not torch.isclose(loss(image), loss(swapped))


def test_initial_parameters_are_what_their_names_say() -> None:
    shapes = {
        "a.weight": (300, 200),
        "a.bias": (300,),
        "n.scale": (50,),
        "n.shift": (50,),
        "p.embedding": (90, 40),
    }
    layout = Layout.of(shapes)
    tensors = layout.views(initial_params(layout, "kaiming", 2, torch_generator(0)))
    assert float(tensors["a.weight"].std()) == pytest.approx(0.1, rel=0.05)
    assert not tensors["a.bias"].any()
    assert (tensors["n.scale"] == 1).all()
    assert not tensors["n.shift"].any()
    assert float(tensors["p.embedding"].square().sum(-1).mean()) == pytest.approx(1, rel=0.05)
    spread = layout.views(initial_params(layout, "normal(0.5)", 2, torch_generator(0)))
    assert float(spread["a.bias"].std()) == pytest.approx(0.5, rel=0.1)
    with pytest.raises(ValueError, match=r"'a\.filter'"):
        initial_params(Layout.of({"a.filter": (2,)}), "kaiming", 1, torch_generator(0))
