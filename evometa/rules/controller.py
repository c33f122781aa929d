"""Controllers: policies that set the learning rate, and the momentum, of a hand-designed rule as it trains.

Every few steps a small network looks at statistics of the whole training and moves the settings of the rule
below it by octaves: a discrete controller halves, keeps or doubles the learning rate, a continuous one
multiplies each setting by any factor from ½ to 2. Such policies have been trained by reinforcement learning
(Daniel, Taylor & Nowozin 2016; Xu et al. 2017; Xu et al. 2019). An untrained controller *is* the rule below,
its settings as the genes say.

A rule's update is deterministic: the best action, or the mean. :meth:`ControllerRule.observe`,
:meth:`ControllerRule.decide` and :meth:`ControllerRule.act` are its parts for those who act otherwise:
estimators that explore, and the environment, where somebody else decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor

from evometa.genome.genes import Choice, Gene, Integer, LogReal, Subset
from evometa.genome.space import Genes, Space, switched
from evometa.layout import Layout
from evometa.rules.base import Hyper, RuleFamily, StepContext, UpdateRule
from evometa.rules.cells import tanh
from evometa.rules.controller_policy import MOST_OCTAVES, STATISTICS, Observation, Policy
from evometa.rules.hand_designed import HandDesignedRule
from evometa.rules.hand_designed_table import TABLE
from evometa.rules.hand_designed_text import described, equations
from evometa.trees import Tree, under_prefix, with_prefix

#: What a policy's outputs are: values of the actions, or the means of continuous ones.
Actions = Literal["discrete", "continuous"]
#: Octaves by which a discrete controller moves the learning rate; the first of equally good ones is taken.
MOVES = (0, -1, 1)

#: Rules whose settings are controlled: their genes, but for the learning rate, mean the same in all.
BASES = {row.name: row for row in TABLE if row.name in ("sgd", "momentum", "nesterov", "adam", "adamw")}
#: Those whose momentum may be controlled as well; an average is corrected for a constant one.
_WITH_MOMENTUM = tuple(name for name, row in BASES.items() if row.first == "sum")


class ControllerRule(UpdateRule):
    """Observation → policy → octaves → hand-designed rule.

    State: ``base.…``, the rule's; ``octaves (T, C)``, where each of C settings stands relative to its gene;
    those of :class:`Observation` and :class:`Policy`. Weights: the policy's.
    """

    def __init__(
        self,
        base: HandDesignedRule,
        actions: Actions,
        controls: Sequence[str],
        statistics: Sequence[str],
        interval: int,
        policy: str,
        n_hidden: int,
    ) -> None:
        self.base = base
        self.actions = actions
        self.controls = tuple(controls)
        self.interval = interval
        self.observation = Observation(statistics, len(self.controls))
        self.elementwise = self.tensorwise = self.observation.tensorwise
        n_outputs = len(MOVES) if actions == "discrete" else len(self.controls)
        self.policy = Policy(policy, n_hidden, n_outputs, self.observation.n_rows)

    def init_weights(self, generator: torch.Generator) -> Tree:
        return self.policy.init_weights(generator)

    def init_state(self, weights: Tree, params: Tensor, layout: Layout) -> Tree:
        state = with_prefix("base", self.base.init_state({}, params, layout))
        state |= self.observation.init_state(params) | self.policy.init_state(params)
        return state | {"octaves": params.new_zeros((params.shape[0], len(self.controls)))}

    def update(
        self, weights: Tree, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        rows, seen = self.observe(state, grads, context)
        outputs, hidden = self.decide(weights, state, rows, context)
        moves = self.moves(outputs)
        step, moved = self.act(moves, hyper, state, grads, params, context)
        return step, {**seen, **hidden, **moved}

    def observe(self, state: Tree, grads: Tensor, context: StepContext) -> tuple[Tensor, Tree]:
        """What the policy sees, ``(F, T)``, and that part of the next state that follows from it."""
        read, seen = self.observation.read(state, grads, context)
        return torch.cat([read[name] for name in self.observation.n_rows]), seen

    def decide(self, weights: Tree, state: Tree, rows: Tensor, context: StepContext) -> tuple[Tensor, Tree]:
        """The policy's outputs ``(A, T)``, and its part of the next state; between decisions that stays."""
        outputs, hidden = self.policy.outputs(weights, state, rows)
        if self.interval > 1:
            now = self.decides(context)
            hidden = {name: torch.where(now, value, state[name]) for name, value in hidden.items()}
        return outputs, hidden

    def decides(self, context: StepContext) -> Tensor:
        """Whether the settings are moved at this step, ()."""
        return torch.remainder(context.step, self.interval) == 0

    def moves(self, outputs: Tensor) -> Tensor:
        """The octaves ``(C, T)`` by which the settings move for outputs ``(A, T)``, nobody exploring."""
        if self.actions == "discrete":
            return discrete_moves(outputs.argmax(dim=0), outputs)
        return tanh(outputs)

    def act(
        self, moves: Tensor, hyper: Hyper, state: Tree, grads: Tensor, params: Tensor, context: StepContext
    ) -> tuple[Tensor, Tree]:
        """The step after the settings moved by ``moves`` ``(C, T)``, and that part of the next state."""
        octaves = (state["octaves"] + moves.T).clamp(-MOST_OCTAVES, MOST_OCTAVES)
        if self.interval > 1:
            octaves = torch.where(self.decides(context), octaves, state["octaves"])
        factors = torch.exp2(octaves)
        controlled = {
            name: hyper[name] * factors[:, place : place + 1] for place, name in enumerate(self.controls)
        }
        if "one_minus_momentum" in controlled:
            controlled["one_minus_momentum"] = controlled["one_minus_momentum"].clamp(max=1.0)
        own = under_prefix("base", state)
        step, after = self.base.update({}, {**hyper, **controlled}, own, grads, params, context)
        return step, {**with_prefix("base", after), "octaves": octaves}


def discrete_moves(chosen: Tensor, like: Tensor) -> Tensor:
    """The octaves ``(1, T)`` of the chosen places ``(T,)`` in MOVES, in the dtype of ``like``."""
    return ((chosen == 2).to(like.dtype) - (chosen == 1).to(like.dtype)).unsqueeze(0)


class ControllerFamily(RuleFamily):
    """The registry row of the controllers with one kind of actions."""

    learned = True

    def __init__(self, name: str, actions: Actions) -> None:
        self.name = name
        self.actions = actions
        self.differentiable = actions == "continuous"
        how = "halves, keeps or doubles" if actions == "discrete" else "scales"
        what = "the learning rate" if actions == "discrete" else "the learning rate and momentum"
        self.summary = f"a small network {how} {what} of a hand-designed rule, reading how training goes"

    @property
    def space(self) -> Space:
        below = {name: [gene for gene in row.genes if gene.name != "lr"] for name, row in BASES.items()}
        with_momentum: tuple[Gene, ...] = ()
        if self.actions == "continuous":
            only = {"base": _WITH_MOMENTUM}
            with_momentum = (Choice("controls_momentum", (False, True), when=only, note="momentum, too"),)
        return Space(
            (
                Choice("base", tuple(BASES), "adam", note="the rule whose settings are controlled"),
                LogReal("lr", 1e-7, 10.0, 3e-3, note="learning rate before the first decision"),
                *switched("base", below),
                *with_momentum,
                Choice("policy", ("mlp", "gru"), note="kind of hidden layer of the policy"),
                Integer("hidden", 4, 32, 16, log=True, note="units of that layer"),
                Choice("interval", (5, 1, 10), note="steps from one decision to the next"),
                Subset("statistics", tuple(STATISTICS), tuple(STATISTICS), note="what the policy looks at"),
            )
        )

    def build(self, genes: Genes) -> ControllerRule:
        controls = ("lr", "one_minus_momentum") if genes.get("controls_momentum") else ("lr",)
        return ControllerRule(
            HandDesignedRule(BASES[str(genes["base"])]),
            self.actions,
            controls,
            cast(Sequence[str], genes["statistics"]),
            cast(int, genes["interval"]),
            str(genes["policy"]),
            cast(int, genes["hidden"]),
        )

    def describe(self, genes: Genes) -> str:
        rule = self.build(genes)
        network = "a GRU" if rule.policy.kind == "gru" else "a layer"
        how = {
            "discrete": "halves, keeps or doubles the learning rate",
            "continuous": "multiplies the learning rate by a factor from ½ to 2",
        }[self.actions]
        momentum = " and 1 − momentum by another" if len(rule.controls) > 1 else ""
        when = "At every step" if rule.interval == 1 else f"Every {rule.interval} steps"
        return (
            f"{described(rule.base.row, genes)} {when} {network} of {rule.policy.n_hidden} units {how}"
            f"{momentum}. It reads {rule.observation.in_words()}."
        )

    def formula(self, genes: Genes) -> str:
        rule = self.build(genes)
        hidden = "GRU(x, h)" if rule.policy.kind == "gru" else "tanh(V·x + c)"
        settings = " and ".join("η" if name == "lr" else "1 − μ" for name in rule.controls)
        choice = "the a of {0, −1, 1} whose oₐ is largest" if self.actions == "discrete" else "tanh(o)"
        lines = [
            f"x = [{', '.join(rule.observation.n_rows)}]",
            f"h ← {hidden},  o = W·h + b,  every {rule.interval} steps",
            f"e ← e + {choice}",
            f"{settings} of the rule below times 2^e",
            *equations(rule.base.row, genes),
        ]
        return "\n".join(lines)


CONTROLLERS = (
    ControllerFamily("controller", "continuous"),
    ControllerFamily("discrete_controller", "discrete"),
)
