"""The learner: rule times schedule, its search space, its cohort structure, its words."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch

from evometa.errors import GenomeError, UnknownNameError
from evometa.genome.genes import Value
from evometa.layout import Layout
from evometa.rng import numpy_generator, torch_generator
from evometa.rules import RULES, SCHEDULES, Learner
from evometa.rules.base import StepContext
from evometa.rules.learner_structure import has_weights, learner_space
from evometa.rules.schedule_space import schedule_space

LAYOUT = Layout.of({"w": (4,), "b": (2,)})


def _context(k: int, horizon: int, loss: torch.Tensor | None = None) -> StepContext:
    return StepContext(LAYOUT, torch.tensor(float(k)), torch.tensor(float(horizon)), loss)


def _run(family: str, genes: Mapping[str, Value], n_steps: int) -> list[torch.Tensor]:
    learner = Learner.of(family, genes)
    hyper = {name: torch.tensor(value) for name, value in learner.hyper.items()}
    params = torch.ones(2, LAYOUT.size)
    weights = learner.init_weights(torch_generator(0, "weights"))
    state = learner.init_state(weights, params, LAYOUT)
    steps = []
    for k in range(n_steps):
        context = _context(k, n_steps, params.square().sum(-1))
        step, state = learner.update(weights, hyper, state, 2 * params, params, context)
        params = params + step
        steps.append(step)
    return steps


def test_step_is_the_rules_step_times_the_factor() -> None:
    n_steps = 8
    steps = _run("sgd", {"lr": 0.1, "schedule": "cosine", "schedule.final": 0.02}, n_steps)
    params = torch.ones(2, LAYOUT.size)
    for k, step in enumerate(steps):
        factor = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * k / n_steps))
        torch.testing.assert_close(step, -0.1 * factor * 2 * params)
        params = params + step


def test_untrained_learned_schedule_leaves_the_rule_as_it_is() -> None:
    plain = _run("adam", {"schedule": "constant"}, 5)
    learned = _run("adam", {"schedule": "recurrent"}, 5)
    assert all(torch.equal(a, b) for a, b in zip(plain, learned, strict=True))


def test_parts_of_weights_and_state_lie_side_by_side() -> None:
    learner = Learner.of("momentum", {"schedule": "recurrent", "schedule.hidden": 5})
    weights = learner.init_weights(torch_generator(0, "weights"))
    state = learner.init_state(weights, torch.zeros(3, LAYOUT.size), LAYOUT)
    assert {name.split(".")[0] for name in weights} == {"schedule"}
    assert state["rule.first"].shape == (3, LAYOUT.size)
    assert state["schedule.hidden"].shape == (3, 5)


def test_structure_ignores_continuous_genes_only() -> None:
    base = Learner.of("adam", {"schedule": "cosine"})
    assert (
        base.structure
        == Learner.of("adam", {"lr": 0.5, "schedule": "cosine", "schedule.final": 0.5}).structure
    )
    others = [
        Learner.of("adamw", {"schedule": "cosine"}),
        Learner.of("adam", {"schedule": "exponential"}),
        Learner.of("adam", {"schedule": "recurrent", "schedule.hidden": 4}),
        Learner.of("adam", {"schedule": "recurrent", "schedule.hidden": 5}),
    ]
    assert len({base.structure, *(other.structure for other in others)}) == 5


def test_hyper_holds_the_continuous_genes() -> None:
    learner = Learner.of("momentum", {"lr": 0.5, "schedule": "warmup_cosine"})
    assert learner.hyper == {
        "lr": 0.5,
        "one_minus_momentum": 0.1,
        "schedule.warmup": 0.1,
        "schedule.final": 0.01,
    }


def test_genes_of_other_levels_are_ignored_and_foreign_ones_refused() -> None:
    assert Learner.of("sgd", {"meta.estimator": "tbptt"}) == Learner.of("sgd", {})
    with pytest.raises(GenomeError, match=r"'sgd' has no gene 'eps'"):
        Learner.of("sgd", {"eps": 1e-8})
    with pytest.raises(GenomeError, match=r"'lr': got 100\.0, allowed is a number from 1e-05 to 10"):
        Learner.of("sgd", {"lr": 100.0})
    with pytest.raises(UnknownNameError, match=r"unknown rule 'adm'; did you mean 'adam'"):
        Learner.of("adm", {})


def test_a_learner_that_is_remembered_lets_no_other_value_pass() -> None:
    learner = Learner.of("recurrent", {"layers": 1, "features": ("log_sign", "gradient")})
    assert Learner.of("recurrent", {"layers": 1.0, "features": ["log_sign", "gradient"]}) == learner
    with pytest.raises(GenomeError, match="'layers': got True"):
        Learner.of("recurrent", {"layers": True, "features": ("log_sign", "gradient")})
    with pytest.raises(GenomeError, match="'features': got"):
        Learner.of("recurrent", {"layers": 1, "features": [["log_sign"]]})


def test_shared_schedule_genes_are_one_gene() -> None:
    space = schedule_space()
    assert set(space["schedule.warmup"].when["schedule"]) == {"warmup_cosine", "warmup_stable_decay"}
    assert set(space["schedule.final"].when["schedule"]) == {
        "exponential",
        "cosine",
        "warmup_cosine",
        "warmup_stable_decay",
    }


@pytest.mark.parametrize("family", RULES.names())
def test_every_draw_of_a_space_makes_a_learner(family: str) -> None:
    space = learner_space(RULES[family])
    schedules = set()
    for seed in range(20):
        genes = space.sample(numpy_generator(seed, "genes"))
        learner = Learner.of(family, genes)
        schedules.add(genes["schedule"])
        weights = learner.init_weights(torch_generator(0, "weights"))
        assert has_weights(family, genes) == bool(weights)
        lines = learner.formula().splitlines()
        assert lines[-1].startswith("θ ← θ + s(k)·Δ")
        assert len(lines) > 1
        assert learner.describe()
    assert len(schedules) > len(SCHEDULES.names()) // 2


def test_the_parts_make_up_the_whole() -> None:
    """The exported optimizer keeps the rule's state per tensor and the schedule's per model."""
    learner = Learner.of("adam", {"schedule": "recurrent"})
    weights = learner.init_weights(torch_generator(0, "weights"))
    hyper = {name: torch.tensor(value) for name, value in learner.hyper.items()}
    params, context = torch.ones(2, LAYOUT.size), _context(0, 10, torch.ones(2))
    state = learner.init_state(weights, params, LAYOUT)
    parts = {
        **learner.init_rule_state(weights, params, LAYOUT),
        **learner.init_schedule_state(weights, 2, params),
    }
    assert {k: v.shape for k, v in parts.items()} == {k: v.shape for k, v in state.items()}
    whole, new_state = learner.update(weights, hyper, state, params, params, context)
    factor, schedule_state = learner.factor(weights, hyper, state, context)
    step, rule_state = learner.scaled_step(weights, hyper, state, params, params, context, factor)
    assert torch.equal(step, whole)
    assert {**rule_state, **schedule_state}.keys() == new_state.keys()
