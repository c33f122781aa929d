"""Build a kernel's library on this machine and load it; later processes find it in a cache.

The library goes where PyTorch keeps the extensions it builds (``TORCH_EXTENSIONS_DIR``, by default
``~/.cache/torch_extensions``), under a name that changes with the sources, the compiler flags, PyTorch and
the processor, so that a library is never used where it was not built for.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import sys
import tempfile
from pathlib import Path

import torch

SOURCES = Path(__file__).parent / "src"
_FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wno-unknown-pragmas")


def library_path(unit: str) -> Path:
    """Where the library of ``src/<unit>.cpp`` stands in the cache."""
    digest = hashlib.sha256()
    for part in (torch.__version__, _processor(), *_FLAGS, *_sources(f"{unit}.cpp")):
        digest.update(part.encode() + b"\0")
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions"
    return Path(root) / "evometa" / f"{unit}-{digest.hexdigest()[:16]}.so"


def _sources(name: str) -> list[str]:
    """The texts of a source file and of all headers of ours that it includes."""
    texts: dict[str, str] = {}
    wanted = [name]
    while wanted:
        name = wanted.pop()
        if name not in texts:
            texts[name] = (SOURCES / name).read_text()
            wanted += re.findall(r'^#include "(.+)"', texts[name], re.MULTILINE)
    return [texts[name] for name in sorted(texts)]


def load_unit(unit: str) -> None:
    """Load the library of ``unit``, building it first where the cache has none (half a minute, once).

    Raises OSError or RuntimeError where there is no compiler or no room, or the compiler fails.
    """
    path = library_path(unit)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # A lock that the kernel releases when its holder dies; whoever waited finds the library ready.
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _build(unit, path)
    torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]


def _build(unit: str, path: Path) -> None:
    # Imported late: it brings setuptools along, which a process that finds its library ready can do without.
    from torch.utils import cpp_extension

    # ninja comes with evometa's dependencies; its folder is not on the PATH of an environment not activated.
    own = str(Path(sys.executable).parent)
    if own not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), own])
    native = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        cpp_extension.load(
            name=f"evometa_{unit}",
            sources=[str(SOURCES / f"{unit}.cpp")],
            extra_cflags=[*_FLAGS, native],
            extra_include_paths=[str(SOURCES)],
            build_directory=folder,
            is_python_module=False,
        )
        # The library is loaded by now; under its new name it is the same file and not loaded twice.
        os.replace(Path(folder) / f"evometa_{unit}.so", path)


def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(next((line for line in lines if line.startswith(name)), "") for name in wanted)
