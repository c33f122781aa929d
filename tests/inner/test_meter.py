"""The meter counts what is really allocated: each storage once, as long as it lives."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from evometa.inner.meter import MemoryMeter

KB = 1000


def test_a_tensor_counts_from_its_making_to_its_end() -> None:
    with MemoryMeter() as meter:
        single = torch.zeros(KB)
        assert (meter.live, meter.peak) == (4 * KB, 4 * KB)
        double = single.double()
        assert (meter.live, meter.peak) == (12 * KB, 12 * KB)
        del double
        assert (meter.live, meter.peak) == (4 * KB, 12 * KB)
        again = torch.zeros(KB, dtype=torch.int8)
        assert (meter.live, meter.peak) == (5 * KB, 12 * KB)
        del single, again
    assert (meter.live, meter.peak) == (0, 12 * KB)


def test_views_and_what_is_written_in_place_take_nothing() -> None:
    with MemoryMeter() as meter:
        whole = torch.zeros(10, 100)
        parts = [
            whole[0],
            whole.T,
            whole.flatten(),
            whole.expand(3, 10, 100),
            *whole.split(2),
            *whole.unbind(),
        ]
        whole.add_(1).mul_(2)
        torch.sin(whole, out=whole)
        assert (meter.live, meter.peak) == (4 * KB, 4 * KB)
        del whole
        assert meter.live == 4 * KB, "views keep what they are views of"
        del parts
        assert meter.live == 0


def test_what_was_there_before_does_not_count() -> None:
    given_tensor = torch.zeros(KB)
    with MemoryMeter() as meter:
        given_tensor.add_(1)
        kept = given_tensor + 1
        given_tensor.copy_(kept)
        assert meter.live == 4 * KB
        del given_tensor
        assert meter.live == 4 * KB
    del kept
    assert meter.live == 0, "the end of what was made inside counts outside too"


def test_the_peak_has_what_lives_only_within_an_expression() -> None:
    x = torch.ones(KB)
    with MemoryMeter() as meter:
        total = ((x * 2) + 1).sum()
        assert meter.live == total.nbytes == 4
        assert meter.peak == 8 * KB
        meter.peak = meter.live
        total += 1
        assert meter.peak == 4


def test_several_results_of_one_operation_all_count() -> None:
    x = torch.rand(KB)
    with MemoryMeter() as meter:
        values, order = x.sort()
        assert meter.live == 4 * KB + 8 * KB
        stacked = torch.stack([values, values])
        assert meter.live == 12 * KB + 8 * KB
        del values, order, stacked
        assert meter.live == 0


def test_a_graph_keeps_what_its_backward_pass_reads() -> None:
    x = torch.rand(KB, requires_grad=True)
    with MemoryMeter() as meter:
        y = x.exp().exp().sum()
        assert meter.live == 2 * 4 * KB + 4, "both exponentials are saved"
        (gradient,) = torch.autograd.grad(y, x)
        del y
        assert meter.live == gradient.nbytes == 4 * KB


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=8))
def test_the_sum_of_all_that_lives(sizes: list[int]) -> None:
    with MemoryMeter() as meter:
        held = [torch.empty(size, dtype=torch.uint8) for size in sizes]
        assert meter.live == meter.peak == sum(sizes)
        while held:
            held.pop()
            assert meter.live == sum(value.nbytes for value in held)
        assert meter.peak == sum(sizes)
