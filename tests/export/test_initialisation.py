"""Exported optimizers of genomes that have learned where training begins."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from importlib import util
from pathlib import Path

import pytest
import torch
from compute_device import DEVICE
from torch import Tensor, nn

from evometa import native
from evometa.errors import GenomeError
from evometa.export import EvolvedOptimizer, export_genome, load_optimizer
from evometa.export.file import read_export
from evometa.export.standalone import export_standalone
from evometa.genome.genome import Genome
from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules import RULES, Learner
from evometa.rules.initialisation import INITIALISATION_SPACE, by_tensor, joined
from evometa.rules.learner_structure import learner_space
from evometa.trees import Tree

LAYOUT = Layout.of({"0.weight": (3, 2), "0.bias": (3,), "1.weight": (1, 3), "1.bias": (1,)})
#: The last layer's weight matrix and bias.
LAST = 4
KINDS = [("sgd", "shared", "all"), ("sgd", "coordinate", "last_layer"), ("recurrent", "coordinate", "all")]
every_kind = pytest.mark.parametrize(("family", "rates", "adapts"), KINDS)


def made(family: str, rates: str = "shared", adapts: str = "all") -> tuple[Genome, Tree]:
    """A genome, and weights away from their initial values as the engine has them."""
    genes = learner_space(RULES[family]).complete({"schedule": "constant"})
    genes |= INITIALISATION_SPACE.complete({"init": "learned", "init.rates": rates, "init.adapts": adapts})
    generator = torch_generator(0, family)
    weights = Learner.of(family, genes).init_weights(generator, torch.randn(LAYOUT.size, generator=generator))
    return Genome("0", family, genes), {
        name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in weights.items()
    }


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double().to(DEVICE)


def trained(make: Callable[..., EvolvedOptimizer], n_steps: int = 3) -> Tensor:
    model = net()
    optimizer = make(model.parameters())
    optimizer.initialise()
    for step in range(n_steps):
        x = torch.randn(5, 2, generator=torch_generator(step), dtype=torch.float64).to(DEVICE)
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step(loss=loss)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).cpu()


@every_kind
def test_a_file_brings_the_start_and_the_scale_of_steps(
    family: str, rates: str, adapts: str, tmp_path: Path
) -> None:
    genome, weights = made(family, rates, adapts)
    path = tmp_path / "genome.safetensors"
    export_genome(path, genome, by_tensor(weights, LAYOUT), horizon=3, provenance={})
    assert all(torch.equal(weights[name], value) for name, value in joined(read_export(path).weights).items())
    begun = trained(lambda params: load_optimizer(path, params), n_steps=0)
    torch.testing.assert_close(begun, weights["init.params"].double())
    moved = trained(lambda params: load_optimizer(path, params), n_steps=1) - begun
    still = moved[:-LAST] if adapts == "last_layer" else moved[:0]
    assert not still.any()
    assert moved[-LAST:].abs().min() > 0


def test_rates_multiply_the_step_of_their_own_parameter() -> None:
    """Parameters in two groups and a frozen one: places are those of the whole model."""
    genome, weights = made("sgd", "coordinate")
    model = net()
    first, second = list(model[0].parameters()), list(model[2].parameters())
    optimizer = EvolvedOptimizer(
        [{"params": first}, {"params": second}], genome, by_tensor(weights, LAYOUT), horizon=3
    )
    optimizer.initialise()
    for parameter in (*first[1:], *second):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    after = torch.cat([parameter.detach().flatten() for parameter in (*first, *second)]).cpu()
    expected = -float(genome.genes["lr"]) * weights["init.rates"].double()  # type: ignore[arg-type]
    expected[: first[0].numel()] = 0
    torch.testing.assert_close(after - weights["init.params"].double(), expected, rtol=1e-5, atol=1e-7)


@every_kind
def test_the_standalone_file_trains_as_the_library(
    family: str, rates: str, adapts: str, tmp_path: Path
) -> None:
    genome, weights = made(family, rates, adapts)
    numbered = by_tensor(weights, LAYOUT)
    path = tmp_path / f"alone_{family}_{rates}.py"
    export_standalone(path, genome, numbered, horizon=3, provenance={})
    spec = util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[path.stem]
    assert "optimizer.initialise()" in str(module.__doc__)
    alone = trained(lambda params: module.EvolvedOptimizer(params, horizon=3), n_steps=5)
    with native.disabled():
        expected = trained(lambda params: EvolvedOptimizer(params, genome, numbered, horizon=3), n_steps=5)
    assert torch.equal(alone, expected)


def test_only_learned_steps_are_held_back_past_the_horizon() -> None:
    for rates, held_back in (("shared", False), ("coordinate", True)):
        genome, _ = made("sgd", rates)
        factors = [Learner.of("sgd", genome.genes).guard(step, 2) for step in (1, 2, 3)]
        assert factors == ([1.0, 2 / 3, 0.5] if held_back else [1.0, 1.0, 1.0])


def test_more_steps_than_rates_were_learned_for_are_refused(tmp_path: Path) -> None:
    for rates in ("shared", "coordinate"):
        genome, weights = made("sgd", rates)
        export_genome(tmp_path / rates, genome, by_tensor(weights, LAYOUT), horizon=3, provenance={})
    load_optimizer(tmp_path / "shared", net().parameters(), horizon=10)
    load_optimizer(tmp_path / "coordinate", net().parameters(), horizon=2)
    with pytest.raises(ValueError, match=r"horizon is 10, but the learned rates .* were trained for 3"):
        load_optimizer(tmp_path / "coordinate", net().parameters(), horizon=10)


def test_a_model_of_other_tensors_is_refused() -> None:
    genome, weights = made("sgd")
    numbered = by_tensor(weights, LAYOUT)

    def load(*shapes: tuple[int, ...]) -> EvolvedOptimizer:
        return EvolvedOptimizer([nn.Parameter(torch.zeros(s)) for s in shapes], genome, numbered, horizon=3)

    with pytest.raises(ValueError, match=r"parameter 0 has shape \(2, 3\), .* tensor 0 has shape \(3, 2\)"):
        load((2, 3), (3,), (1, 3), (1,))
    with pytest.raises(ValueError, match=r"there are 2 parameters, .* for a model of 4"):
        load((3, 2), (3,))
    whole = load((3, 2), (3,), (1, 3), (1,))
    with pytest.raises(ValueError, match=r"there are 5 parameters"):
        whole.add_param_group({"params": [nn.Parameter(torch.zeros(()))]})
    assert len(whole.param_groups) == 1


def test_a_genome_without_one_says_so() -> None:
    plain = Genome("0", "sgd", learner_space(RULES["sgd"]).complete({"schedule": "constant"}))
    optimizer = EvolvedOptimizer([nn.Parameter(torch.zeros(2))], plain, {}, horizon=3)
    with pytest.raises(ValueError, match="no learned initialisation"):
        optimizer.initialise()


def test_copies_and_saved_states_keep_it() -> None:
    genome, weights = made("sgd", "coordinate")

    def through_a_copy(params: object) -> EvolvedOptimizer:
        optimizer = EvolvedOptimizer(params, genome, by_tensor(weights, LAYOUT), horizon=3)  # type: ignore[arg-type]
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        return optimizer

    plain = trained(lambda params: EvolvedOptimizer(params, genome, by_tensor(weights, LAYOUT), horizon=3))
    assert torch.equal(trained(through_a_copy), plain)
    model = net()
    optimizer = EvolvedOptimizer(model.parameters(), genome, by_tensor(weights, LAYOUT), horizon=3)
    twin, its_optimizer = copy.deepcopy((model, optimizer))
    its_optimizer.initialise()
    begun = torch.cat([parameter.detach().flatten() for parameter in twin.parameters()]).cpu()
    torch.testing.assert_close(begun, weights["init.params"].double())


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda w: {}, r"'init\.params\.0' are missing"),
        (lambda w: {**w, "init.params.1": torch.full((3,), torch.nan)}, r"'init\.params\.1' hold NaN"),
        (
            lambda w: {**w, "init.rates.1": torch.zeros(4)},
            r"'init\.rates\.1' have shape \(4,\), expected",
        ),
        (lambda w: {**w, "init.rates.9": torch.zeros(4)}, r"unknown weights 'init\.rates\.9'"),
    ],
)
def test_damaged_weights_are_refused(change: Callable[[Tree], Tree], line: str) -> None:
    genome, weights = made("sgd", "coordinate")
    with pytest.raises(GenomeError, match=line):
        EvolvedOptimizer(net().parameters(), genome, change(by_tensor(weights, LAYOUT)), horizon=3)
