"""A layout splits a flat vector into tensors and back, without losing or mixing a coordinate."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from evometa.layout import Layout

shapes = st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), max_size=5)
leads = st.lists(st.integers(1, 3), max_size=2).map(tuple)


def layout_of(sizes: list[tuple[int, ...]]) -> Layout:
    return Layout.of({f"t{index}": shape for index, shape in enumerate(sizes)})


@given(shapes, leads)
def test_views_invert_flatten(sizes: list[tuple[int, ...]], lead: tuple[int, ...]) -> None:
    layout = layout_of(sizes)
    flat = torch.arange(float(torch.Size(lead).numel() * layout.size)).reshape(*lead, layout.size)
    views = layout.views(flat)
    assert [tuple(view.shape) for view in views.values()] == [(*lead, *shape) for shape in sizes]
    assert sum(layout.sizes) == layout.size
    if sizes:
        assert torch.equal(layout.flatten(views), flat)


def test_views_share_memory_with_the_flat_vector() -> None:
    layout = Layout.of({"w": (2, 3), "b": (3,), "scale": (), "none": (0,)})
    flat = torch.zeros(10)
    layout.views(flat)["b"].fill_(1.0)
    layout.views(flat)["scale"].fill_(2.0)
    assert flat.tolist() == [0.0] * 6 + [1.0] * 3 + [2.0]
    assert layout.sizes == [6, 3, 1, 0]


@given(shapes, leads)
def test_per_tensor_sees_each_tensor_alone(sizes: list[tuple[int, ...]], lead: tuple[int, ...]) -> None:
    layout = layout_of(sizes)
    flat = torch.randn(*lead, layout.size, generator=torch.Generator().manual_seed(0))
    means = layout.per_tensor(lambda part: part.mean(-1, keepdim=True), flat)
    sums = layout.per_tensor(lambda part: part.cumsum(-1), flat)
    assert means.shape == flat.shape
    for segment in layout.segments:
        part = flat[..., segment.slice]
        assert torch.equal(sums[..., segment.slice], part.cumsum(-1))
        if segment.size:
            assert torch.equal(means[..., segment.slice], part.mean(-1, keepdim=True).expand_as(part))


def test_flatten_keeps_gradients() -> None:
    layout = Layout.of({"w": (2, 2), "b": (2,)})
    tensors = {"w": torch.ones(2, 2, requires_grad=True), "b": torch.ones(2, requires_grad=True)}
    (layout.flatten(tensors) * torch.arange(6.0)).sum().backward()
    assert tensors["w"].grad is not None
    assert tensors["b"].grad is not None
    assert tensors["w"].grad.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert tensors["b"].grad.tolist() == [4.0, 5.0]
