"""The evolved genomes that come with the repository: anybody can load them, and knows what they are worth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

import evometa
from evometa.config import load_config
from evometa.export.file import read_export

ROOT = Path(__file__).parents[1]
EVOLVED = sorted((ROOT / "populations" / "evolved").glob("*.safetensors"))
NAMES = [path.stem for path in EVOLVED]


def test_there_are_three() -> None:
    assert NAMES == ["digits_adam_cost", "digits_quality", "digits_schedule"]


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


@pytest.mark.parametrize("path", EVOLVED, ids=NAMES)
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
