"""What a user's installation rests on: fast imports, whole packages, and declared and pinned dependencies."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import evometa

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "evometa"


@pytest.fixture(scope="module")
def setup_cfg() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def constraints() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def needed(distribution: str, extra: str = "") -> Iterator[Requirement]:
    """The requirements of an installed distribution that count on this machine."""
    for line in importlib.metadata.requires(distribution) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


@pytest.mark.parametrize("module", ["evometa", "evometa.config", "evometa.cli.app"])
def test_importing_it_does_not_load_torch(module: str) -> None:
    script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_the_version_is_that_of_the_metadata(setup_cfg: ConfigParser) -> None:
    assert evometa.__version__ == setup_cfg["metadata"]["version"]


def test_load_optimizer_is_found_on_first_use() -> None:
    assert "load_optimizer" in dir(evometa)
    found = evometa.load_optimizer
    assert found is importlib.import_module("evometa.export").load_optimizer


def test_an_attribute_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'evometa' has no attribute 'load_optimiser'"):
        _ = evometa.load_optimiser


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_what_is_imported_is_what_is_declared() -> None:
    imported: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    third_party = imported - sys.stdlib_module_names - {"evometa"}
    providers = importlib.metadata.packages_distributions()
    distributions = {canonicalize_name(providers[name][0]) for name in third_party}
    distributions |= {"ninja", "setuptools"}  # what PyTorch builds extensions with, and does not bring itself
    extras = ("", "dask", "ray")
    declared = {canonicalize_name(each.name) for extra in extras for each in needed("evometa", extra)}
    assert distributions == declared


def test_constraints_are_plain_pins() -> None:
    for name, pin in constraints().items():
        (specifier,) = pin.specifier
        assert (pin.url, specifier.operator) == (None, "=="), name
        assert "+" not in specifier.version, f"{name}: a local version is served nowhere else"


def test_the_pinned_versions_lie_in_the_ranges_of_users() -> None:
    pins = constraints()
    for requirement in needed("evometa", extra="dev"):
        (pin,) = pins[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), (
            f"{requirement}: the tested version is {pin.version}"
        )


def test_everything_that_gets_installed_is_pinned() -> None:
    pins = constraints()
    waiting, seen, loose = ["evometa"], {"evometa"}, []
    while waiting:
        parent = waiting.pop()
        for requirement in needed(parent, extra="dev" if parent == "evometa" else ""):
            name = canonicalize_name(requirement.name)
            exact = any(specifier.operator == "==" for specifier in requirement.specifier)
            if name not in pins and not exact:  # torch pins its CUDA libraries itself
                loose.append(f"{parent} needs {requirement}")
            if name not in seen:
                seen.add(name)
                waiting.append(name)
    assert loose == []
