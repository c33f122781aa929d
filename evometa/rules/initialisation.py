"""The learned initialisation: params that training begins from, as weights φ of a genome.

The third part of a :class:`~evometa.rules.learner.Learner`, which goes with any rule and schedule. Trained by
backpropagation through plain gradient descent it is MAML, without the second order FOMAML (Finn, Abbeel &
Levine 2017). A rate for each coordinate makes it Meta-SGD (Li et al. 2017), and steps of the last layer alone
ANIL (Raghu et al. 2020).

It fits models of one layout: whoever draws fresh weights says from which params they begin.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evometa.errors import GenomeError
from evometa.genome.genes import Choice
from evometa.genome.space import Genes, Space
from evometa.layout import Layout
from evometa.trees import Tree, under_prefix, with_prefix

#: Weights of a genome that have an entry for each parameter of a model.
_FLAT = ("init.params", "init.rates")
_LEARNED = {"init": ("learned",)}
#: A genome without these genes trains from the params that its tasks draw.
INITIALISATION_SPACE = Space(
    (
        Choice("init", ("drawn", "learned"), note="params that training begins from"),
        Choice("init.rates", ("shared", "coordinate"), when=_LEARNED, note="learned factors on the steps"),
        Choice("init.adapts", ("all", "last_layer"), when=_LEARNED, note="which tensors steps move"),
    )
)


@dataclass(frozen=True)
class Initialisation:
    """One structure of a learned initialisation.

    Attributes:
        has_rates: whether every coordinate's step has a learned factor, which may become negative.
        last_layer_only: whether only the model's last layer is stepped.
    """

    has_rates: bool
    last_layer_only: bool

    @classmethod
    def of(cls, genes: Genes) -> Initialisation | None:
        """That of a genome; None where its tasks draw the params."""
        if genes.get("init", "drawn") == "drawn":
            return None
        return cls(genes["init.rates"] == "coordinate", genes["init.adapts"] == "last_layer")

    @property
    def scales(self) -> bool:
        """Whether steps are multiplied by anything."""
        return self.has_rates or self.last_layer_only

    def init_weights(self, start: Tensor | None) -> Tree:
        """Fresh weights from the params ``start`` ``(N,)``: ``params``, and ``rates`` of 1 where it has them.

        Raises GenomeError without ``start``.
        """
        if start is None:
            raise GenomeError('init = "learned" needs the params of a model to begin from')
        params = start.detach().to("cpu", torch.float32).clone()
        return {"params": params, "rates": torch.ones_like(params)} if self.has_rates else {"params": params}

    def check(self, weights: Tree, layout: Layout) -> None:
        """Raise GenomeError unless ``weights`` are for a model of ``layout``."""
        size = weights["params"].shape[-1]
        if size != layout.size:
            raise GenomeError(
                f"the learned initialisation is for a model of {size:,} parameters, not {layout.size:,}"
            )

    def scale(self, weights: Tree, layout: Layout) -> Tensor:
        """What steps of a model of ``layout`` are multiplied by, ``(N,)``."""
        rates = weights["rates"] if self.has_rates else torch.ones_like(weights["params"])
        if not self.last_layer_only:
            return rates
        first = last_layer_offset(layout)
        return torch.cat([torch.zeros_like(rates[:first]), rates[first:]])

    def describe(self) -> str:
        """What it is, in words."""
        steps = ", steps of its last layer alone" if self.last_layer_only else ""
        return "training begins from a learned initialisation" + (
            f" with a learned rate for each parameter{steps}" if self.has_rates else steps
        )

    def formula(self) -> list[str]:
        """Where training begins, and the factor on the step."""
        begin = "θ(0) = φ"
        if not self.scales:
            return [begin]
        factor = "ρ, learned" if self.has_rates else "1"
        return [begin, f"r = {factor}" + ("; 0 before the last layer" if self.last_layer_only else "")]


def last_layer_offset(layout: Layout) -> int:
    """Where the last layer begins in the flat params: its weight matrix, and what comes after it.

    That is the last tensor of two or more axes. Raises GenomeError for a model without any.
    """
    for segment in reversed(layout.segments):
        if len(segment.shape) > 1:
            return segment.offset
    raise GenomeError('init.adapts = "last_layer" needs a model with a weight matrix')


def by_tensor(weights: Tree, layout: Layout) -> Tree:
    """Weights of a genome with those of an initialisation cut into the tensors of a model of ``layout``.

    So a file says which model they are for: ``init.params`` becomes ``init.params.0``, ``init.params.1``, …
    with the shapes of the model's tensors.
    """
    shapes = {str(number): segment.shape for number, segment in enumerate(layout.segments)}
    numbered = Layout.of(shapes)
    found: Tree = {}
    for name, value in weights.items():
        found |= with_prefix(name, numbered.views(value)) if name in _FLAT else {name: value}
    return found


def joined(weights: Tree) -> Tree:
    """The inverse of :func:`by_tensor`."""
    layout = model_of(weights)
    found = {name: value for name, value in weights.items() if not name.startswith("init.")}
    for name in _FLAT:
        if f"{name}.0" in weights:
            found[name] = layout.flatten(under_prefix(name, weights))
    return found


def model_of(weights: Tree) -> Layout:
    """The layout of the model that weights of :func:`by_tensor` are for, tensors named by their number."""
    shapes: dict[str, tuple[int, ...]] = {}
    while (value := weights.get(f"{_FLAT[0]}.{len(shapes)}")) is not None:
        shapes[str(len(shapes))] = tuple(value.shape)
    return Layout.of(shapes)
