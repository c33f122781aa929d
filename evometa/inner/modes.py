"""Names of the ways inner training can go about its work; apart, because a configuration needs no PyTorch."""

from __future__ import annotations

from typing import Literal

#: Whether gradients are compiled: where it was measured to pay, nowhere, or wherever it can be done.
CompileMode = Literal["auto", "never", "always"]
#: In what numbers gradients are computed, see :mod:`evometa.inner.precision`.
Precision = Literal["float32", "tf32", "bfloat16"]
#: Who computes: the process itself, worker processes of this machine, or a cluster, see
#: :mod:`evometa.execution`.
Backend = Literal["inline", "loky", "dask", "ray"]
