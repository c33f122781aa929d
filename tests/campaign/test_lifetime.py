"""Births: whose weights a child has, under which name, and what becomes of those nobody has any more."""

from __future__ import annotations

import pytest
import torch
from faulty_rules import FaultyRule, registered

from evometa.campaign.lifetime import WeightBank, birth
from evometa.errors import GenomeError
from evometa.evolution.reproduction import Child
from evometa.genome.codec import content_hash, weights_to_bytes
from evometa.genome.genes import Value
from evometa.genome.genome import Genome
from evometa.rng import torch_generator
from evometa.rules import RULES, Learner
from evometa.rules.learner_structure import learner_space
from evometa.trees import Tree


def _genes(**genes: Value) -> dict[str, Value]:
    return learner_space(RULES["recurrent"]).complete({"schedule": "constant", "hidden": 4, **genes})


def _parent(bank: WeightBank) -> Genome:
    weights = Learner.of("recurrent", _genes()).init_weights(torch_generator(1, "parent"))
    name = bank.put(weights)
    return Genome("000-000", "recurrent", _genes(), name, name)


@pytest.mark.parametrize(
    ("changed", "how", "same"),
    [
        ({"lr": 0.5}, "inherited", True),
        ({"layers": 1}, "inherited", False),  # what is left is the parent's, but it is not all
        ({"hidden": 5}, "inherited rule.output.bias; initialised", False),
    ],
)
def test_a_child_has_the_parents_weights_as_far_as_they_fit(
    changed: dict[str, Value], how: str, same: bool
) -> None:
    bank = WeightBank()
    parent = _parent(bank)
    child = Child("recurrent", _genes(**changed), "mutation", (parent.id,), parent.id)
    (genome,) = birth([child], {parent.id: parent}, bank, 0, 1)
    weights = bank.get(genome.weights)
    assert weights.keys() == Learner.of("recurrent", child.genes).init_weights(torch.Generator()).keys()
    assert genome.weights == genome.germline
    assert list(weights) == sorted(weights), "in another order sums over them are others"
    name = bank.named(genome.weights)
    assert name == content_hash(bank.blobs[str(name)]) == content_hash(weights_to_bytes(weights))
    assert (name == parent.weights) == same
    assert genome.lineage.weights.startswith(how)


def test_the_bank_forgets_weights_that_nobody_has() -> None:
    bank = WeightBank()
    kept, dropped = (bank.put({"w": torch.full((2,), value)}) for value in (1.0, 2.0))
    assert bank.get(dropped)["w"].tolist() == [2.0, 2.0]
    bank.keep_only({str(kept)})
    assert bank.get(kept)["w"].tolist() == [1.0, 1.0]
    with pytest.raises(KeyError):
        bank.get(dropped)


def test_a_rule_that_cannot_be_made_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, generator: torch.Generator) -> Tree:
        raise OSError("no such\nfile of weights")

    monkeypatch.setattr(FaultyRule, "init_weights", refuse)
    with registered():
        child = Child("faulty", learner_space(RULES["faulty"]).complete({"schedule": "constant"}), "random")
        with pytest.raises(GenomeError) as refused:
            birth([child], {}, WeightBank(), seed=0, generation=0)
    assert str(refused.value) == (
        "a genome of the family 'faulty' cannot be made from its genes (OSError: no such file of weights); "
        "mend the rule and resume"
    )
