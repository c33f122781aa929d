"""Campaigns and benches on a GPU, from the command to an optimizer that trains there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run_command
from compute_device import DEVICE

import evometa
from evometa.campaign import read_front
from evometa.store import CampaignStore

pytestmark = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs --device cuda")


@pytest.mark.parametrize("backend", ["inline", "loky"])
def test_a_campaign_runs_on_a_gpu_and_its_best_trains_there(
    backend: str, tiny_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = tiny_text.replace('device = "cpu"', 'device = "cuda"\nworkers = 2')
    text = text.replace("workers = 2\n", "") if backend == "inline" else text
    Path("tiny.toml").write_text(
        text.replace('"inline"', f'"{backend}"').replace("horizon = 6", "horizon = 12")
    )
    done = run_command("run", "tiny.toml", "--storage", "runs")
    assert (done.code, done.err) == (0, "")
    with CampaignStore.open(tmp_path / "runs" / "tiny" / "campaign.db", readonly=True) as store:
        assert read_front(store).genomes
    exported = run_command(
        "export", "tiny", "--best", "meta_loss", "--out", "best.safetensors", "--storage", "runs"
    )
    assert (exported.code, exported.err) == (0, "")
    model = torch.nn.Linear(3, 1).to(DEVICE)
    x = torch.randn((32, 3), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    optimizer = evometa.load_optimizer("best.safetensors", model.parameters(), horizon=20)
    start = model.weight.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step(loss=loss)
    assert bool(torch.isfinite(model.weight).all())
    assert not torch.equal(model.weight, start)


def test_a_bench_on_a_gpu_finds_what_one_on_a_cpu_finds(
    finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    storage = ("--storage", finished.storage)
    assert run_command("export", "tiny", "--knee", "--out", "knee.safetensors", *storage).code == 0
    sizes = ("--trials", 4, "--seeds", 2, "--horizon", 12, "--n-tasks", 2, "--baselines", "sgd,adam+cosine")
    tasks = ("--tasks", "digits:widths=[8],depths=[1]", "--tasks", "quadratic:dim=3", "--no-generalise")
    found, losses = {}, {}
    for device in ("cpu", "cuda"):
        done = run_command(
            "bench", "knee.safetensors", *tasks, *sizes, "--device", device, "--out", f"on_{device}"
        )
        assert done.code == 0, done.err
        folder = tmp_path / f"on_{device}"
        found[device] = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
        losses[device] = np.load(folder / "losses.npz")
    assert found["cuda"]["machine"]["device"] == "cuda"
    labels = [one["label"] for one in found["cpu"]["entrants"]]
    assert [one["label"] for one in found["cuda"]["entrants"]] == labels
    assert sorted(losses["cuda"].files) == sorted(losses["cpu"].files)
    for name in losses["cpu"].files:
        np.testing.assert_allclose(losses["cuda"][name], losses["cpu"][name], rtol=1e-3, err_msg=name)
