"""Dictionaries of tensors: stacking, prefixes and counts."""

from __future__ import annotations

import torch

from evometa.trees import all_finite, count, stack, take, tree_map, under_prefix, with_prefix

TREE = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.0)}


def test_take_inverts_stack() -> None:
    other = tree_map(lambda value: value + 10, TREE)
    stacked = stack([TREE, other])
    assert {name: tuple(value.shape) for name, value in stacked.items()} == {"w": (2, 2, 3), "b": (2,)}
    for index, tree in enumerate((TREE, other)):
        assert all(torch.equal(take(stacked, index)[name], tree[name]) for name in TREE)
    assert torch.equal(take(stacked, slice(1, 2))["w"], other["w"].unsqueeze(0))


def test_prefixes_separate_what_stands_side_by_side() -> None:
    both = {**with_prefix("rule", TREE), **with_prefix("rules", {"x": torch.zeros(1)})}
    assert list(both) == ["rule.w", "rule.b", "rules.x"]
    assert list(under_prefix("rule", both)) == ["w", "b"]
    assert under_prefix("rule", both)["w"] is TREE["w"]
    assert under_prefix("schedule", both) == {}


def test_count_and_finiteness() -> None:
    assert count(TREE) == 7
    assert count({}) == 0
    assert all_finite(TREE)
    assert all_finite({"empty": torch.zeros(0), "whole": torch.tensor([1])})
    for bad in (float("nan"), float("inf"), float("-inf")):
        assert not all_finite({**TREE, "bad": torch.tensor([0.0, bad])})
