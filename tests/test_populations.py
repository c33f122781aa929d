"""The evolved genomes that come with the repository: anybody can load them, and knows what they are worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

import evometa
from evometa.config import load_config
from evometa.export.file import read_export
from evometa.rng import torch_generator
from evometa.tasks import build_family

ROOT = Path(__file__).parents[1]
#: A way to make an optimizer of parameters.
Maker = Callable[[Iterable[torch.Tensor]], torch.optim.Optimizer]
EVOLVED = sorted((ROOT / "populations" / "evolved").glob("*.safetensors"))
NAMES = [path.stem for path in EVOLVED]


def test_there_are_four() -> None:
    assert NAMES == ["digits_adam_cost", "digits_quality", "digits_schedule", "neural_fields"]


@pytest.mark.parametrize("path", EVOLVED, ids=NAMES)
def test_each_says_where_it_comes_from_and_what_it_is_worth(path: Path) -> None:
    found = read_export(path)
    config = load_config(ROOT / "experiments" / f"{path.stem}.toml")
    assert found.horizon == max(source.horizon for source in config.tasks)
    assert found.provenance["campaign"] == path.stem
    assert found.provenance["seed"] == config.seed
    assert found.provenance["task_options"] == [source.options for source in config.tasks]
    assert found.card == path.with_suffix(".md").read_text(encoding="utf-8")
    assert found.card.startswith(f"# Bench card: {path.stem}\n")
    assert "## Where it loses" in found.card
    assert path.with_suffix(".png").exists()


@pytest.mark.parametrize("path", EVOLVED[:3], ids=NAMES[:3])
def test_each_trains_a_classifier_better_than_adam_as_it_comes(path: Path) -> None:
    images, classes = map(torch.as_tensor, load_digits(return_X_y=True))
    images = images.float() / 16

    def accuracy(make: type[torch.optim.Optimizer] | None) -> float:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
        optimizer = make(model.parameters()) if make else evometa.load_optimizer(path, model.parameters())
        for rows in torch.randperm(1600).split(16)[:100] * 2:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(images[rows]), classes[rows])
            loss.backward()
            optimizer.step()
        return (model(images[1600:]).argmax(1) == classes[1600:]).float().mean().item()

    assert accuracy(None) > max(0.85, accuracy(torch.optim.Adam))


def test_a_photograph_is_fitted_in_half_of_adams_steps() -> None:
    """By an ordinary loop, with stock modules, to patches of a photograph that evolution never saw."""

    class Sine(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return torch.sin(30 * z)

    def psnr(
        make: Callable[[Iterable[torch.Tensor]], torch.optim.Optimizer], n_steps: int, task: int
    ) -> float:
        torch.manual_seed(task)
        layers = [torch.nn.Linear(2, 32), torch.nn.Linear(32, 32), torch.nn.Linear(32, 3)]
        start = iter(torch.split(params[task], batch.layout.sizes))
        for layer in layers:
            for own in layer.parameters():
                own.data = next(start).view_as(own).clone()
        model = torch.nn.Sequential(layers[0], Sine(), layers[1], Sine(), layers[2])
        optimizer = make(model.parameters())
        for _ in range(n_steps):
            rows = batch.train_rows[task, torch.randperm(batch.train_rows.shape[1])[:256]]
            loss = torch.nn.functional.mse_loss(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        rows = batch.train_rows[task]
        return -10 * math.log10(torch.nn.functional.mse_loss(model(x[rows]), y[rows]).item())

    n_tasks = 4
    (batch,) = build_family("neural_fields", {}).sample("meta_test", n_tasks, torch_generator(0))
    x, y, params = batch.rows["x"], batch.rows["y"], batch.init_params(torch_generator(1))
    evolved = partial(evometa.load_optimizer, EVOLVED[3])
    for task in range(n_tasks):
        adam = max(psnr(partial(torch.optim.Adam, lr=lr), 300, task) for lr in (5.6e-4, 1e-3, 1.8e-3))
        assert psnr(evolved, 150, task) > adam
