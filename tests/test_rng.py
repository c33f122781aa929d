"""Named streams: reproducible, independent of each other, and apart from every global generator."""

from __future__ import annotations

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from evometa.rng import Name, derive_seed, numpy_generator, torch_generator

names = st.lists(st.text(max_size=4) | st.integers(-5, 5), max_size=4)


@given(st.integers(0, 2**63), names, st.integers(0, 2**63), names)
def test_seeds_are_equal_exactly_when_root_and_names_are(
    root: int, first: list[Name], other: int, second: list[Name]
) -> None:
    assert 0 <= derive_seed(root, *first) < 2**63
    same = root == other and first == second
    assert (derive_seed(root, *first) == derive_seed(other, *second)) == same


def test_a_name_cannot_imitate_another_stream() -> None:
    lookalikes: list[tuple[Name, ...]] = [
        ("a", "b"),
        ("a, 'b'",),
        ("a\x1fstr:b",),
        ("ab",),
        ("a", "b", ""),
        (1,),
        ("1",),
    ]
    assert len({derive_seed(0, *stream) for stream in lookalikes}) == len(lookalikes)


def test_seeds_do_not_change_between_versions() -> None:
    """Stored campaigns resume only if a stream's seed stays what it was."""
    assert derive_seed(0) == 7_210_762_507_766_007_076
    assert derive_seed(7, "tasks", 3, "meta_valid") == 4_206_976_768_507_476_122


def test_generators_repeat_and_leave_global_state_alone() -> None:
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    assert numpy_generator(1, "x").random(4).tolist() == numpy_generator(1, "x").random(4).tolist()
    assert numpy_generator(1, "x").random() != numpy_generator(1, "y").random()
    draws = [torch.rand(4, generator=torch_generator(1, name)) for name in ("x", "x", "y")]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert random.getstate() == python
    assert str(np.random.get_state()) == str(numpy)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
