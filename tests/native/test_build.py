"""Kernels are built once for a machine, and nothing depends on their being there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from evometa import native
from evometa.native import build
from evometa.tasks.mlp_model import MLP

PROBE = """
import torch
from evometa import native
print(native.serves("moments", torch.zeros(3)))
print(native.build_all())
"""


def probe(**environment: str) -> list[str]:
    """What a fresh process says of the kernels."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=250,
        check=True,
    )
    return done.stdout.splitlines()


def test_every_unit_is_built_and_serves_floats_on_the_cpu() -> None:
    assert native.build_all() == f"native kernels: {', '.join(native.units())}"
    assert native.n_unbuilt() == 0
    for unit in native.units():
        assert native.serves(unit, torch.zeros(2), torch.ones(3))
        assert native.serves(unit, torch.zeros(2, dtype=torch.float64))
        assert not native.serves(unit, torch.zeros(2), torch.zeros(2, dtype=torch.float64))
        assert not native.serves(unit, torch.zeros(2, dtype=torch.bfloat16))
        assert not native.serves(unit, torch.zeros(2, device="meta"))


def test_kernels_keep_out_of_transforms_and_of_a_disabled_block() -> None:
    asked: list[bool] = []

    def asks(x: torch.Tensor) -> torch.Tensor:
        asked.append(native.serves("moments", torch.zeros(2)))
        return x

    torch.vmap(asks)(torch.zeros(2))
    with native.disabled():
        asks(torch.zeros(2))
    asks(torch.zeros(2))
    assert asked == [False, False, True]


class Marked(torch.Tensor):
    """A subclass that adds nothing."""


def test_subclasses_of_tensors_are_left_to_pytorch() -> None:
    plain, fake = torch.zeros(2), FakeTensorMode().from_tensor(torch.zeros(2))
    assert native.serves("moments", plain, nn.Parameter(plain))
    for other in (fake, plain.as_subclass(Marked)):
        assert not native.serves("moments", other)
        assert not native.serves("moments", plain, other)


def test_shapes_can_be_told_from_fake_tensors() -> None:
    model = MLP((4, 3, 2), "relu", "kaiming", "class")
    with FakeTensorMode(), torch.no_grad():
        batch = {"x": torch.zeros(2, 5, 4), "y": torch.zeros(2, 5, dtype=torch.int64)}
        losses, grads = model.loss_and_grad(torch.zeros(3, 2, model.layout.size), batch)
    assert losses.shape == (3, 2)
    assert grads.shape == (3, 2, model.layout.size)


def test_the_environment_switches_them_off_whenever_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.zeros(2)
    for value, served in (("1", True), ("0", False), ("1", True)):
        monkeypatch.setenv("EVOMETA_NATIVE", value)
        assert native.serves("moments", plain) is served
    monkeypatch.delenv("EVOMETA_NATIVE")
    assert native.serves("moments", plain)


def test_the_environment_switches_them_off() -> None:
    assert probe(EVOMETA_NATIVE="0") == ["False", "native kernels: switched off (EVOMETA_NATIVE=0)"]


def test_without_a_compiler_pytorch_serves_and_one_line_says_why(tmp_path: Path) -> None:
    serves, line = probe(TORCH_EXTENSIONS_DIR=str(tmp_path), CXX="no-such-compiler", PATH=str(tmp_path))
    assert serves == "False"
    assert line.startswith(f"native kernels: PyTorch alone serves {', '.join(native.units())} (")


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "evometa").write_text("in the way")
    serves, line = probe(TORCH_EXTENSIONS_DIR=str(tmp_path))
    assert serves == "False"
    assert "PyTorch alone serves" in line


def test_a_library_is_for_its_sources_and_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    (tmp_path / "outer.h").write_text('#include "inner.h"\n')
    (tmp_path / "inner.h").write_text("// one\n")
    (tmp_path / "other.h").write_text("// one\n")
    (tmp_path / "unit.cpp").write_text('#include "outer.h"\n')
    before = build.library_path("unit")
    (tmp_path / "other.h").write_text("// two\n")
    assert build.library_path("unit") == before
    (tmp_path / "inner.h").write_text("// two\n")
    assert build.library_path("unit") != before
