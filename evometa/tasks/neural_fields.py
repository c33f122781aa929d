"""Neural fields: a small network learns one patch of a photograph as a function from place to colour.

One patch is one task, and one training fits it: the workload that is repeated for every instance in practice.
The two photographs are those that scikit-learn ships. Architectures are the same for all tasks, so that
initialisations can be learned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from evometa.rng import torch_generator
from evometa.tasks.base import Split, TaskBatch, TaskFamily
from evometa.tasks.metric import PSNR, Metric
from evometa.tasks.mlp_model import MLP, Activation
from evometa.tasks.options import check_choice, check_integer, check_number, check_request, refuse
from evometa.tasks.pools import POOL_SEED

Kind = Literal["siren", "fourier"]

#: Photograph, and first and last column of the region, of each split: no pixel belongs to two, and meta_test
#: is of another photograph.
REGIONS: dict[Split, tuple[str, int, int]] = {
    "meta_train": ("china.jpg", 0, 384),
    "meta_valid": ("china.jpg", 384, 640),
    "meta_test": ("flower.jpg", 0, 640),
}
#: The largest square that fits into each region.
LARGEST_PATCH = 256

#: The photographs have 8 bits a colour: rounding to them makes a mean squared error of (1/255)²/12, 58.9 dB.
NOISE_FLOOR = 1.3e-6

N_COLOURS = 3


@dataclass(frozen=True)
class Siren(MLP):
    """A perceptron with the nonlinearity sin(ω₀·z) and the initialisation that belongs to it.

    Sitzmann et al. 2020, "Implicit neural representations with periodic activation functions", section 3.2:
    weights of the first layer are uniform in ±1/n, of the others in ±√(6/n)/ω₀ for n inputs. Biases, of which
    the paper says nothing, are uniform in ±1/√n, as in the authors' code.
    """

    omega: float = 30.0

    @property
    def nonlinearity(self) -> Activation:
        """sin(ω₀·z)."""
        return _sine(self.omega)

    @property
    def kernel_activation(self) -> str:
        """The nonlinearity as native kernels name it."""
        return f"sine({self.omega!r})"

    def init_params(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """Initial parameters, ``(T, N)``."""
        bounds: list[Tensor] = []
        for layer, (n_inputs, n_outputs) in enumerate(self._layers):
            weight = math.sqrt(6 / n_inputs) / self.omega if layer else 1 / n_inputs
            bounds += [
                torch.full((n_inputs * n_outputs,), weight),
                torch.full((n_outputs,), 1 / math.sqrt(n_inputs)),
            ]
        unit = 2 * torch.rand((n_tasks, self.layout.size), generator=generator) - 1
        return unit * torch.cat(bounds)

    @property
    def description(self) -> str:
        """The network in a few words, e.g. ``"SIREN 2-32-32-3 ω₀=30"``."""
        return f"SIREN {'-'.join(map(str, self.sizes))} ω₀={self.omega:g}"


@lru_cache(maxsize=16)
def _sine(omega: float) -> Activation:
    return Activation(
        lambda z: torch.sin(omega * z), lambda delta, z, h: delta * (omega * torch.cos(omega * z))
    )


@dataclass(frozen=True)
class NeuralFields(TaskFamily):
    """Fit a network from place to colour to a square patch of a photograph; the loss is the MSE of colours.

    "siren" has sines for nonlinearities (Sitzmann et al. 2020); "fourier" is a ReLU perceptron on random
    Fourier features [cos 2πBv, sin 2πBv] of the place v, B ~ N(0, σ²), the same for all tasks (Tancik et al.
    2020, "Fourier features let networks learn high frequency functions in low dimensional domains").

    Attributes:
        kind: which of them.
        patch: pixels along a side.
        width: hidden units a layer.
        depth: number of hidden layers.
        omega: ω₀ of the sines.
        n_frequencies: rows of B.
        sigma: their spread, in periods over a side of the patch.
        batch_size: pixels an inner step; None: all that are trained on.
        valid_share: share of a patch's pixels that are held out, at random; 0: none.
    """

    kind: Kind = "siren"
    patch: int = 32
    width: int = 32
    depth: int = 2
    omega: float = 30.0
    n_frequencies: int = 32
    sigma: float = 2.0
    batch_size: int | None = 256
    valid_share: float = 0.25

    name = "neural_fields"
    summary = "SIREN and Fourier-feature networks fitted to patches of photographs, told in PSNR"
    metric: ClassVar[Metric] = PSNR

    def __post_init__(self) -> None:
        check_choice(self.name, "kind", self.kind, ("siren", "fourier"))
        check_integer(self.name, "patch", self.patch, 2, LARGEST_PATCH)
        for option in ("width", "depth", "n_frequencies"):
            check_integer(self.name, option, getattr(self, option), 1)
        for option in ("omega", "sigma"):
            check_number(self.name, option, getattr(self, option), 0.0, math.inf)
        if self.valid_share != 0:
            check_number(self.name, "valid_share", self.valid_share, 0.0, 0.9)
        if self.batch_size is not None:
            if isinstance(self.batch_size, int) and self.batch_size > self._n_train:
                pixels = f"{self.patch}×{self.patch} pixels"
                allowed = f"at most {self._n_train}, the train rows of {pixels}, or left out"
                raise refuse(self.name, "batch_size", self.batch_size, allowed)
            check_integer(self.name, "batch_size", self.batch_size, 1)

    @property
    def _n_train(self) -> int:
        return self.patch**2 - round(self.valid_share * self.patch**2)

    def sample(self, split: Split, n_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """One batch of ``n_tasks`` patches from anywhere in the region of ``split``."""
        check_request(self.name, split, n_tasks)
        colours = _patches(split, self.patch, n_tasks, generator)
        n_pixels = self.patch**2
        order = torch.rand((n_tasks, n_pixels), generator=generator).argsort(dim=1)
        rows = order + n_pixels * torch.arange(n_tasks).unsqueeze(1)
        model = self._model
        batch = TaskBatch(
            family=self.name,
            description=f"{self.patch}×{self.patch} pixels, {model.description}",
            n_tasks=n_tasks,
            layout=model.layout,
            loss=model.loss,
            init_params=partial(model.init_params, n_tasks),
            rows={"x": self._inputs.repeat(n_tasks, 1), "y": colours.flatten(0, 1)},
            train_rows=rows[:, : self._n_train],
            valid_rows=rows[:, self._n_train :] if self._n_train < n_pixels else None,
            batch_size=self.batch_size or self._n_train,
            noise_floor=NOISE_FLOOR,
            final_window=1 if self.batch_size in (None, self._n_train) else 10,
            loss_and_grad=model.loss_and_grad,
            for_kernels=model.for_kernels,
        )
        return [batch]

    @cached_property
    def _model(self) -> MLP:
        return _model(self.kind, self._inputs.shape[1], self.width, self.depth, self.omega)

    @cached_property
    def _inputs(self) -> Tensor:
        """What the network sees of each pixel of a patch, ``(pixels, inputs)``, row by row."""
        along = (torch.arange(self.patch) + 0.5) / self.patch
        places = torch.cartesian_prod(along, along)
        if self.kind == "siren":
            return 2 * places - 1
        generator = torch_generator(POOL_SEED, "neural fields", "frequencies")
        frequencies = self.sigma * torch.randn((self.n_frequencies, 2), generator=generator)
        angles = 2 * torch.pi * places @ frequencies.mT
        return torch.cat([angles.cos(), angles.sin()], dim=1)


@lru_cache(maxsize=32)
def _model(kind: Kind, n_inputs: int, width: int, depth: int, omega: float) -> MLP:
    """One for each description: tasks that are drawn at another time have the very same functions."""
    sizes = (n_inputs, *[width] * depth, N_COLOURS)
    if kind == "siren":
        return Siren(sizes, "sine", "siren", "values", omega)
    return MLP(sizes, "relu", "kaiming", "values")


@cache
def _photographs() -> dict[str, Tensor]:
    """Colours by file name, ``(rows, columns, 3)``, from −½ to ½."""
    from sklearn.datasets import load_sample_image

    names = {name for name, _, _ in REGIONS.values()}
    return {name: torch.from_numpy(load_sample_image(name).copy()).float() / 255 - 0.5 for name in names}


def _patches(split: Split, side: int, n_tasks: int, generator: torch.Generator) -> Tensor:
    """Colours of random patches of the split's region, ``(T, pixels, 3)``."""
    name, first, last = REGIONS[split]
    region = _photographs()[name][:, first:last]
    starts = [
        torch.randint(size - side + 1, (n_tasks,), generator=generator).tolist() for size in region.shape[:2]
    ]
    corners = zip(*starts, strict=True)
    cut = [region[top : top + side, left : left + side] for top, left in corners]
    return torch.stack(cut).reshape(n_tasks, side * side, N_COLOURS)
