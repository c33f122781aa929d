"""The benchmarks' GPU side, as far as it can be seen without one."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compute_device import DEVICE
from rich.console import Console

from benchmarks import teams
from benchmarks.groups.optimizers import REFERENCE, Contest, Stepper
from benchmarks.groups.throughput import works
from benchmarks.optimizer_table import show_optimizers
from benchmarks.roofline import gpu_rates
from benchmarks.roofline.rates import TRIAD_BYTES

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--device", "cuda"],
        cwd=ROOT,
        env={"PATH": "", "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "torch finds no CUDA GPU; use --device cpu" in done.stderr
    assert "Traceback" not in done.stderr


def test_who_competes_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process each, and JAX by the program that is not made for cores."""
    opened: list[tuple[str, str]] = []

    class Noted:
        def __init__(self, name: str, environment: dict[str, str], device: str) -> None:
            opened.append((name, device))
            self.environment = environment

        def close(self) -> None:
            pass

    monkeypatch.setattr(teams, "Process", Noted)
    monkeypatch.setattr(teams, "has_jax", lambda: True)
    with teams.teams("evometa", "naive", "vmap", "jax", "jax-tuned", device="cuda") as found:
        assert list(found) == ["evometa", "naive", "vmap", "jax"]
    assert opened == [(name, "cuda") for name in found]
    assert teams.environment("jax", "cuda")["JAX_PLATFORMS"] == "cuda"


def test_a_gpu_goes_through_all_runs_before_it_meets_one_again() -> None:
    on_cpu, on_gpu = (works(["adam"], device, quick=False)["adam"] for device in ("cpu", "cuda"))
    assert on_gpu.bytes == on_cpu.bytes == on_cpu.working_set
    assert on_gpu.working_set == 32 * 8 * on_cpu.bytes
    phases = gpu_rates.phases([on_gpu.working_set, 2**40])
    assert [name for name in phases if name.startswith("triad")] == [
        f"triad {TRIAD_BYTES[-3]}",
        f"triad {TRIAD_BYTES[-1]}",
    ]


def test_steps_on_a_gpu_are_timed_once_and_held_against_its_bound() -> None:
    steppers = {
        name: Stepper(lambda: None, 8.0, 4.0, seconds={1: [seconds]})
        for name, seconds in ((REFERENCE, 1e-3), ("mlp", 2e-3))
    }
    contest = Contest(1000, steppers, {1: {"mlp": 5e3}})
    console = Console(file=io.StringIO(), width=200)
    found = show_optimizers(console, {"a model": contest}, on_gpu=True)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.count("ms a step") == 1
    assert "of the GPU's bound" in text
    assert "thread" not in text
    assert found["a model"]["contestants"]["mlp"]["threads"][1]["share_of_ceiling"] == pytest.approx(0.1)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs --device cuda")
def test_steps_of_exported_optimizers_are_measured_on_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    words = ["--quick", "--rounds", "2", "--only", "optimizers", "--device", "cuda", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "benchmarks", *words], cwd=ROOT, check=True)
    (contest,) = json.loads(out.read_text())["optimizers"].values()
    for name, own in contest["contestants"].items():
        assert set(own["threads"]) == {"1"}
        assert own["threads"]["1"]["median_seconds"] > 0
        assert own["peak_bytes_per_param"] >= 0
        assert ("share_of_ceiling" in own["threads"]["1"]) == (name in ("mlp", "gru 16"))
    assert contest["contestants"]["AdamW foreach"]["state_bytes_per_param"] >= 8


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs --device cuda")
@pytest.mark.parametrize("name", ["evometa", "naive", "vmap", "jax"])
def test_every_contestant_runs_on_a_gpu(name: str) -> None:
    if name == "jax" and not teams.has_jax():
        pytest.skip("JAX is not installed")
    from benchmarks.workload import RULES, Workload

    team = teams.open_team(name, "cuda")
    try:
        for mode in ("forward", "bptt", "pes"):
            work = Workload.of(mode, RULES["gru"][1], 2, n_tasks=2, n_steps=10, n_segments=1)
            team.prepare(mode, work)
            assert team.run(mode)[0] == work.n_inner_steps
    finally:
        team.close()
