"""The benchmarks' GPU side, as far as it can be seen without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import teams
from benchmarks.groups.throughput import works
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
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
