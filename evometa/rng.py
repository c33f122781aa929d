"""Named seed streams: every random draw comes from a generator whose seed is the hash of a name.

Nothing in evometa touches the global random state of ``random``, ``numpy`` or ``torch``. Because a
stream is named by what it is for (``("tasks", generation, "meta_valid")``), a result does not depend
on the number of workers, on chunking, or on having been interrupted.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

Name = str | int


def derive_seed(root: int, *names: Name) -> int:
    """A 63-bit seed for the stream ``names`` under ``root``; different names give independent streams."""
    text = ascii((int(root), *names))  # quoted, so that no separator inside a name can imitate another stream
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def numpy_generator(root: int, *names: Name) -> np.random.Generator:
    """A NumPy generator for the stream ``names`` under ``root``."""
    return np.random.Generator(np.random.PCG64(derive_seed(root, *names)))


def torch_generator(root: int, *names: Name) -> torch.Generator:
    """A CPU torch generator for the stream ``names`` under ``root``.

    Draws are made on the CPU and moved, so that a campaign sees the same numbers on every device.
    """
    return torch.Generator(device="cpu").manual_seed(derive_seed(root, *names))
