"""An exported genome as a ``torch.optim.Optimizer``.

It runs the very rule that was evolved (:class:`~evometa.rules.learner.Learner`, with one task), so there is
no second implementation to keep equal. What belongs to a tensor is kept in ``state[parameter]``, as views of
the flat buffers of :mod:`evometa.export.bucket`; the schedule reads the training of the whole model, so its
state exists once, as ``state[SCHEDULE_KEY]`` and, in a state dictionary, as an entry of the first group.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, StateDict

from evometa.export.bucket import compact
from evometa.export.buckets import Buckets, States, last_step
from evometa.export.checks import (
    Loss,
    as_loss,
    check_horizon,
    check_model,
    check_options,
    check_parameter,
    check_state,
    has_gradient,
)
from evometa.export.file import check_weights, learner_of
from evometa.export.placed import compute_dtype, layout_of, number
from evometa.export.shards import local
from evometa.export.whole_model import Numbered
from evometa.genome.genome import Genome
from evometa.layout import Layout
from evometa.rules.base import LastStep, StepContext
from evometa.rules.initialisation import model_of
from evometa.rules.schedule_factors import factors_at
from evometa.trees import Tree, tree_map

#: Where ``state`` holds what belongs to the whole model: step count, horizon, the schedule's state.
SCHEDULE_KEY = "schedule"

#: How many factors of a schedule are computed at once.
_AHEAD = 64


class EvolvedOptimizer(Optimizer):
    """Trains with the update rule and schedule of ``genome``.

    Everything a ``torch.optim.Optimizer`` does works: parameter groups with their own ``lr`` and
    ``weight_decay``, learning-rate schedulers, hooks, ``state_dict``, pickling, copying. Parameters of
    half precision are updated in float32; integers and parameters without a gradient are left alone.

    Args:
        weights: the genome's weights φ; {} where nothing is learned. Those of a learned initialisation are
            there for each tensor of the model, and ``params`` must be all of its parameters in order, see
            :meth:`initialise`.
        horizon: planned number of steps. After it the schedule stays where it ends, and where steps are
            learned, by a rule, a schedule or rates of their own, they become smaller and smaller: they were
            never trained there.
        maximize: climb the objective whose gradients are given, by descending its negative: gradients are
            negated, and so is the loss for the rules that read it (for the schedule, where every group
            climbs). Rules and schedules that read the loss compare it with the first positive one; of an
            objective above zero they see only values below it, which they were not evolved on. Leave the
            loss out there, or add a constant that keeps the objective below zero.

    Parameters may be DTensors (FSDP2, tensor parallelism): each process steps its own shards, as it would the
    whole tensors, where the rule is elementwise; another rule is refused unless each shard is the whole.

    Raises GenomeError for a genome or weights that are not valid, ValueError for a wrong option and for
    complex or cut parameters.
    """

    def __init__(
        self,
        params: ParamsT,
        genome: Genome,
        weights: Tree,
        lr: float | Tensor = 1.0,
        *,
        weight_decay: float = 0.0,
        horizon: int,
        maximize: bool = False,
    ) -> None:
        check_horizon(horizon)
        self.genome = genome
        self._learner = learner_of(genome)
        check_weights(self._learner, weights)
        self._weights = tree_map(lambda value: value.detach().clone(), weights)
        self._horizon = horizon
        self._set_up()
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "maximize": maximize})
        if self._learner.initialisation is not None:
            self._check_model(complete=True)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its tensors begin their own step count at the next step.

        Raises ValueError for an option this optimizer does not have, a negative one, complex parameters.
        """
        if isinstance(param_group, dict):  # torch refuses the rest
            param_group = dict(param_group)
            check_options(param_group, self.defaults)
        super().add_param_group(param_group)
        try:
            for parameter in self.param_groups[-1]["params"]:
                check_parameter(parameter, self._learner)
            if self._learner.initialisation is not None:
                self._check_model(complete=False)
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def initialise(self) -> None:
        """Set the parameters to the learned initialisation, which the steps were meta-trained to begin from.

        The state is left alone. Raises ValueError where the genome has none.
        """
        if self._learner.initialisation is None:
            raise ValueError("this optimizer has no learned initialisation: train from any parameters")
        for place, parameter in enumerate(self._parameters()):
            parameter.copy_(self._weights[f"init.params.{place}"])

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], Loss] | None = None, *, loss: Loss | None = None
    ) -> Loss | None:
        """Update every parameter that has a gradient; returns what ``closure`` returned.

        Args:
            closure: computes loss and gradients anew, as for any ``torch.optim`` optimizer.
            loss: training loss at the current parameters, for rules and schedules that read it; taken
                from the closure where there is one, and left out at will.
        """
        returned: Loss | None = None
        if closure is not None:
            with torch.enable_grad():
                returned = closure()
        self._update(as_loss(returned if loss is None else loss))
        return returned

    # Dynamo would break the graph at every count that it meets. This way as in torch.optim's own methods:
    # torch.compiler.disable would import Dynamo together with this module.
    @torch._disable_dynamo  # type: ignore[attr-defined]
    def _update(self, loss: Tensor | None) -> None:
        """Update every parameter that has a gradient."""
        groups = self.param_groups
        moving = [(g, p) for g, group in enumerate(groups) for p in group["params"] if has_gradient(p)]
        if not moving:
            return
        # A process may hold an empty part of a tensor, and counts the step all the same.
        with_them = moving if self._learner.rule.tensorwise else self._trained_parameters()
        here = [(g, p) for g, p in with_them if local(p).numel()]
        buckets = self._buckets.of(here, cast(States, self.state))
        climbs = loss is not None and all(groups[g]["maximize"] for g, _ in moving)
        last: LastStep | None = None
        if self._learner.schedule.follows_steps:
            last = last_step(buckets, groups, *self._home())
        factor = self._advance_schedule(-cast(Tensor, loss) if climbs else loss, last)
        for bucket in buckets:
            bucket.advance(factor, self._horizon, loss, groups)

    def state_dict(self) -> StateDict:
        """As of any ``torch.optim`` optimizer, but a snapshot: training on does not change it."""

        def snapshot(_: Optimizer, taken: StateDict) -> StateDict:
            states = {key: tree_map(compact, own) for key, own in taken["state"].items()}
            first, *others = copy.deepcopy(taken["param_groups"])
            # torch.distributed.checkpoint takes every key of "state" for a parameter's.
            whole = states.pop(SCHEDULE_KEY, None) or self._fresh_model_state()
            return {"state": states, "param_groups": [{**first, SCHEDULE_KEY: whole}, *others]}

        # First, so that the user's own hooks see the snapshot.
        handle = self.register_state_dict_post_hook(snapshot, prepend=True)
        try:
            return super().state_dict()
        finally:
            handle.remove()

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Continue where :meth:`state_dict` was taken, bit for bit, the horizon included.

        Raises ValueError for the state of another optimizer, another rule, or other parameters.
        """
        received: list[StateDict] = []

        def check(_: Optimizer, given: StateDict) -> None:
            self._check_state(given)
            received.append(given)

        # Registered last, so that it sees what the user's own hooks made of the dictionary.
        handle = self.register_load_state_dict_pre_hook(check)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        # torch has cast the state to the dtype of the parameter, which for half precision loses digits.
        saved = received[0]["state"]
        for key, parameter in self._by_key(received[0]):
            if key in saved:
                self.state[parameter] = _cast(saved[key], parameter.device, compute_dtype(parameter))
        whole = self.param_groups[0].pop(SCHEDULE_KEY)
        cast(dict[object, Tree], self.state)[SCHEDULE_KEY] = tree_map(torch.clone, whole)
        self._horizon = int(whole["horizon"])

    def __getstate__(self) -> dict[str, Any]:
        """What pickling and copying keep: hooks are left out, as ``torch.optim`` does."""
        own = {"genome": self.genome, "_weights": self._weights, "_horizon": self._horizon}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("maximize", False)  # what was saved before there was this option
        if "genome" in state:  # load_state_dict comes here as well, without one
            self._learner = learner_of(self.genome)
            self._set_up()

    def _set_up(self) -> None:
        """What is kept to save time, and follows from the rest."""
        self._buckets = Buckets(self._learner, self._weights, self._parameters)
        self._ahead: tuple[object, tuple[Tensor, ...]] = (None, ())

    def _check_model(self, *, complete: bool) -> None:
        """Raise ValueError unless the parameters are those that the initialisation is for, or begin them."""
        check_model(list(self._parameters()), self._learner, model_of(self._weights), complete=complete)

    def _parameters(self) -> Iterator[Tensor]:
        return chain.from_iterable(group["params"] for group in self.param_groups)

    def _trained_parameters(self) -> list[Numbered]:
        """What a rule takes for the model: not what was frozen from the start."""
        numbered = ((g, p) for g, group in enumerate(self.param_groups) for p in group["params"])
        return [(g, p) for g, p in numbered if p.requires_grad or p in self.state]

    def _home(self) -> tuple[torch.device, torch.dtype]:
        """Where the schedule computes: as the first parameter does."""
        for parameter in self._parameters():
            return parameter.device, compute_dtype(parameter)
        return torch.device("cpu"), torch.float32

    def _fresh_model_state(self) -> Tree:
        """What belongs to the whole model, before the first step; the horizon is there to be saved."""
        device, dtype = self._home()
        weights = self._buckets.placed(device, dtype).weights
        like = torch.empty((), device=device, dtype=dtype)
        counts = {"step": torch.tensor(0), "horizon": torch.tensor(self._horizon)}
        return {**counts, **self._learner.init_schedule_state(weights, 1, like)}

    def _fresh_rule_state(self, parameter: Tensor) -> Tree:
        device, dtype = parameter.device, compute_dtype(parameter)
        weights = self._buckets.placed(device, dtype).weights
        shape = tuple(local(parameter).shape)
        flat = torch.empty((1, math.prod(shape)), device=device, dtype=dtype)
        rule = self._learner.init_rule_state(weights, flat, layout_of((shape,)))
        return {"step": torch.tensor(0), **rule}

    def _advance_schedule(self, loss: Tensor | None, last: LastStep | None) -> Tensor:
        """The factor on this step, () or (1,); counts the step."""
        device, dtype = self._home()
        states = cast(States, self.state)
        # Absent before the first step and after optimizer.state.clear(), as any torch.optim optimizer's.
        whole = states[SCHEDULE_KEY] or self._fresh_model_state()
        n_steps = int(whole["step"])
        new: Tree = {}
        if self._learner.schedule.elementwise:
            factor = self._factor_ahead(n_steps, device, dtype)
        else:
            placed = self._buckets.placed(device, dtype)
            context = StepContext(
                self._layout(),
                number(n_steps, device, dtype),
                number(self._horizon, device, dtype),
                None if loss is None else loss.to(device, dtype),
                last,
            )
            state = _cast(whole, device, dtype)
            factor, new = self._learner.factor(placed.weights, placed.hyper, state, context)
        states[SCHEDULE_KEY] = {"step": whole["step"].cpu() + 1, "horizon": whole["horizon"].cpu(), **new}
        guard = self._learner.guard(n_steps, self._horizon)
        return factor if guard == 1.0 else factor * guard

    def _factor_ahead(self, step: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The factor of a schedule that only counts: many are computed at once and kept.

        Always the same ones together, wherever training was resumed, so that they have the same last digits.
        """
        start = step - step % _AHEAD
        kind = start, self._horizon, device, dtype
        if self._ahead[0] != kind:
            like = torch.empty((), device=device, dtype=dtype)
            hyper = self._buckets.placed(device, dtype).hyper
            numbers = range(start, start + _AHEAD)
            found = factors_at(self._learner.schedule, hyper, numbers, self._horizon, self._layout(), like)
            self._ahead = kind, found[:, 0].unbind()
        return self._ahead[1][step - start]

    def _layout(self) -> Layout:
        return layout_of(tuple(tuple(parameter.shape) for parameter in self._parameters()))

    def _by_key(self, state_dict: StateDict) -> Iterator[tuple[object, Tensor]]:
        """The keys of a state dictionary beside the parameters they stand for."""
        keys = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        return zip(keys, self._parameters(), strict=False)  # torch refuses other numbers of parameters

    def _check_state(self, state_dict: StateDict) -> None:
        saved, groups = state_dict.get("state", {}), state_dict.get("param_groups", [])
        if not groups or SCHEDULE_KEY not in groups[0]:
            raise ValueError("loaded state dict was not saved by an evolved optimizer")
        whole = groups[0][SCHEDULE_KEY]
        check_state(whole, self._fresh_model_state(), "the schedule")
        check_horizon(whole["horizon"].item())
        for key, parameter in self._by_key(state_dict):
            if key in saved:
                check_state(saved[key], self._fresh_rule_state(parameter), f"parameter {key}")


def _cast(state: Tree, device: torch.device, dtype: torch.dtype) -> Tree:
    """State where its parameter is; counts are whole numbers that stay on the CPU, where reading is free."""
    return tree_map(lambda v: v.to(device, dtype) if v.is_floating_point() else v.cpu(), state)
