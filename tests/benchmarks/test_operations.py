"""Work by operation: counted by hand beside what is counted of the call."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.roofline.work import WorkCounter
from evometa.rng import torch_generator


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch_generator(0, "operations"))


def counted(work: Callable[[], object]) -> tuple[int, int, int]:
    """Products, transcendental functions, others."""
    with WorkCounter() as counter:
        work()
    return counter.products, counter.transcendentals, counter.others


def test_a_convolution_multiplies_every_number_of_every_filter() -> None:
    images, filters, bias = draw(4, 3, 8, 8), draw(6, 3, 3, 3), draw(6)
    n_results = 4 * 6 * 6 * 6
    one = 2 * n_results * 3 * 3 * 3
    assert counted(lambda: F.conv2d(images, filters, bias)) == (one + n_results, 0, 0)
    assert counted(lambda: F.conv2d(images, filters)) == (one, 0, 0)
    grouped = draw(6, 1, 3, 3)
    assert counted(lambda: F.conv2d(images, grouped, groups=3)) == (one // 3, 0, 0)


@pytest.mark.parametrize("by_input", [True, False])
def test_its_derivatives_take_as_much_each(by_input: bool) -> None:
    images, filters = draw(4, 3, 8, 8).requires_grad_(by_input), draw(6, 3, 3, 3).requires_grad_()
    result = F.conv2d(images, filters)
    one = 2 * result.numel() * 27
    grad = torch.ones_like(result)
    assert counted(lambda: result.backward(grad)) == ((1 + by_input) * one, 0, 0)


def test_attention_is_two_products_and_a_softmax() -> None:
    queries, keys, values = draw(5, 7, 4), draw(5, 9, 4), draw(5, 9, 3)
    products, transcendentals, _ = counted(lambda: (queries @ keys.mT).softmax(-1) @ values)
    assert products == 5 * (2 * 7 * 9 * 4 + 2 * 7 * 9 * 3)
    assert transcendentals == 5 * 7 * 9


def test_fourier_transforms_and_sorting_grow_as_n_log_n() -> None:
    rows, plane = draw(3, 64), torch.complex(draw(8, 16), draw(8, 16))
    assert counted(lambda: torch.fft.rfft(rows)) == (0, 0, 3 * 64 * 5 * 6 // 2)
    assert counted(lambda: torch.fft.fft2(plane)) == (0, 0, 5 * 128 * 7)
    assert counted(lambda: rows.sort()) == counted(lambda: rows.sort(dim=1)) == (0, 0, 3 * 64 * 6)
    assert counted(lambda: rows.sort(dim=0)) == (0, 0, round(192 * math.log2(3)))


def test_powers_that_are_no_squares_are_exponentials_of_logarithms() -> None:
    values = draw(10).abs()
    assert counted(lambda: values**2) == counted(lambda: values**0.5) == (0, 0, 10)
    assert counted(lambda: values**0.7) == counted(lambda: values**values) == (0, 20, 0)


def test_what_is_moved_costs_nothing() -> None:
    rows, classes = draw(6, 5), torch.tensor([[0], [3], [1], [4], [2], [0]])
    assert counted(lambda: torch.zeros(6, 5).scatter_(1, classes, 1.0)) == (0, 0, 0)
    assert counted(lambda: F.embedding(classes, rows)) == (0, 0, 0)
    tall = draw(6, 5).requires_grad_()
    part = tall[2:4]
    assert counted(lambda: part.backward(torch.ones_like(part))) == (0, 0, 0)


def test_normalising_a_layer_is_eight_operations_a_number() -> None:
    rows = draw(6, 5)
    assert counted(lambda: F.layer_norm(rows, (5,), draw(5), draw(5)))[:2] == (0, 0)
    assert counted(lambda: F.layer_norm(rows, (5,)))[2] == 8 * 30
