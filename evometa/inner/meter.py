"""What a piece of code keeps and reaches in memory, counted from the storages of the tensors it makes.

The count tells bytes, not the state of a machine: it is the same on every run, wherever tensors of these
shapes are made by the same operations. What is not in tensors is not counted: the inside of an operation,
Python's own objects, and the gaps that an allocator leaves.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, UntypedStorage
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode


class MemoryMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of storages that are made inside its ``with`` block while they are alive.

    Attributes:
        live: bytes alive now.
        peak: most bytes alive at the end of an operation since it was last set.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to keep the compiler out of it would import the compiler, in every worker

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._storages: dict[int, weakref.ref[UntypedStorage]] = {}

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {storage._cdata for storage in _storages([args, *(kwargs or {}).values()])}
        for storage in _storages(result):
            if storage._cdata not in given:  # else it is a view, or was written in place
                self._count(storage)
        self.peak = max(self.peak, self.live)
        return result

    def _count(self, storage: UntypedStorage) -> None:
        key, n_bytes = storage._cdata, storage.nbytes()

        def forget(_: object) -> None:
            del self._storages[key]
            self.live -= n_bytes

        if key not in self._storages:
            # PyTorch keeps a storage's Python object as long as the storage, whoever holds that.
            self._storages[key] = weakref.ref(storage, forget)
            self.live += n_bytes


def _storages(values: object) -> Iterator[UntypedStorage]:
    """Those of all tensors among the arguments or results of an operation."""
    if isinstance(values, Tensor):
        yield values.untyped_storage()
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _storages(value)
