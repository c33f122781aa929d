"""Task families of ordinary modules, one a kind of layer; ``module_tasks:NAME`` names the function NAME."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evometa.rng import torch_generator
from evometa.tasks import supervised
from evometa.tasks.supervised import Supervised

N_ROWS, N_CLASSES, N_TOKENS, LENGTH, WIDTH = 60, 3, 7, 5, 8
_GENERATOR = torch_generator(0, "rows of module tasks")
IMAGES = torch.rand((N_ROWS, 1, 6, 6), generator=_GENERATOR)
TOKENS = torch.randint(N_TOKENS, (N_ROWS, LENGTH), generator=_GENERATOR)
VECTORS = torch.randn((N_ROWS, 6), generator=_GENERATOR)
CLASSES = torch.randint(N_CLASSES, (N_ROWS,), generator=_GENERATOR)


class OfTokens(nn.Module):
    """Embedded tokens ``(B, length, WIDTH)`` through a layer of equal output, averaged and classified."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_TOKENS, WIDTH)
        self.layer = layer
        self.head = nn.Linear(WIDTH, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.layer(self.embedding(x)).mean(-2))
        return scores


class FusedAttention(nn.Module):
    """Two heads by ``scaled_dot_product_attention``."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        heads = (part.unflatten(-1, (2, -1)).transpose(-2, -3) for part in self.project(x).chunk(3, -1))
        query, key, value = heads
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return x + mixed.transpose(-2, -3).flatten(-2)


class SelfAttention(nn.Module):
    """``nn.MultiheadAttention`` of a sequence to itself."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.attention(x, x, x, need_weights=self.need_weights)[0]
        return x + mixed


class Recurrent(nn.Module):
    """Outputs of a recurrent layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layer(x)[0]
        return outputs


class Tied(nn.Module):
    """Scores of tokens by the weights that embed them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_TOKENS, WIDTH)
        self.scores = nn.Linear(WIDTH, N_TOKENS, bias=False)
        self.scores.weight = self.embedding.weight
        self.head = nn.Linear(N_TOKENS, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.scores(self.embedding(x).mean(-2)).tanh())
        return out


class Frozen(nn.Module):
    """Features that are not trained under a head that is."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Linear(6, WIDTH).requires_grad_(False)
        self.register_buffer("shift", torch.linspace(-1, 1, WIDTH))
        self.head = nn.Linear(WIDTH, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head((self.features(x) + self.shift).tanh())
        return out


def _of_images(*layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A convolution, ``layers`` on its 4 channels, and a head."""

    def make() -> nn.Module:
        convolution, pool = nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(2)
        inner = [layer() for layer in layers]
        return nn.Sequential(convolution, *inner, pool, nn.Flatten(-3), nn.Linear(16, N_CLASSES))

    return make


def _encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)


def _recurrent(kind: Callable[..., nn.Module]) -> Callable[[], nn.Module]:
    return lambda: OfTokens(Recurrent(kind(WIDTH, WIDTH, batch_first=True)))


#: Name → inputs and how to build the module.
MODELS: dict[str, tuple[Tensor, Callable[[], nn.Module]]] = {
    "perceptron": (VECTORS, lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, N_CLASSES))),
    "convolution": (IMAGES, _of_images(nn.GELU, lambda: nn.Conv2d(4, 4, 3, stride=2, groups=2))),
    "max_pool": (IMAGES, _of_images(nn.ReLU, lambda: nn.MaxPool2d(2))),
    "group_norm": (IMAGES, _of_images(lambda: nn.GroupNorm(2, 4), nn.SiLU)),
    "batch_norm": (IMAGES, _of_images(lambda: nn.BatchNorm2d(4, track_running_stats=False), nn.SiLU)),
    "layer_norm": (TOKENS, lambda: OfTokens(nn.LayerNorm(WIDTH))),
    "embedding": (TOKENS, lambda: OfTokens(nn.Identity())),
    "fused_attention": (TOKENS, lambda: OfTokens(FusedAttention())),
    "multihead": (TOKENS, lambda: OfTokens(SelfAttention(need_weights=True))),
    "multihead_fused": (TOKENS, lambda: OfTokens(SelfAttention(need_weights=False))),
    "multihead_eval": (TOKENS, lambda: OfTokens(SelfAttention(need_weights=False)).eval()),
    "transformer": (TOKENS, lambda: OfTokens(_encoder())),
    "transformer_eval": (TOKENS, lambda: OfTokens(_encoder()).eval()),
    "gru": (TOKENS, _recurrent(nn.GRU)),
    "lstm": (TOKENS, _recurrent(nn.LSTM)),
    "tied": (TOKENS, Tied),
    "frozen": (VECTORS, Frozen),
}


def family(name: str) -> Supervised:
    """The family of one model; a quarter of each split's rows is held out."""
    inputs, model = MODELS[name]
    n_train = 3 * N_ROWS // 4
    return supervised(
        name=name,
        model=model,
        loss=F.cross_entropy,
        train=(inputs[:n_train], CLASSES[:n_train]),
        valid=(inputs[n_train:], CLASSES[n_train:]),
        batch_size=6,
    )
