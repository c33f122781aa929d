"""Noise without a random generator: a hash of step and coordinate, the same in campaigns and exports.

Rules draw no random numbers. The hash is a bijective mixer of 32 bits, multiplications and shifted exclusive
ors, as at the end of MurmurHash3 (Appleby 2011), with the constants that Wellons (2018, "Prospecting for hash
functions") found to mix best.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evometa.layout import Layout

_BITS = 0xFFFFFFFF
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B


def noise(layout: Layout, step: Tensor, like: Tensor) -> Tensor:
    """Numbers ``(N,)``, uniform with mean 0 and variance 1, in the dtype and on the device of ``like``.

    The k-th coordinate of every tensor has the same at one step; so have all tasks and candidates.
    """
    indices = [torch.arange(size, device=like.device) for size in layout.sizes]
    mixed = _mixed(_mixed(step.to(like.device, torch.int64)) + torch.cat(indices))
    return ((mixed + 0.5).to(like.dtype) * 2.0**-31 - 1.0) * math.sqrt(3.0)


def _mixed(value: Tensor) -> Tensor:
    """A whole number of 32 bits from another; int64 products wrap, which leaves the lower 32 bits right."""
    value = (value + 1) & _BITS
    value = ((value ^ (value >> 16)) * _FIRST) & _BITS
    value = ((value ^ (value >> 15)) * _SECOND) & _BITS
    return value ^ (value >> 16)
