"""Parameters that are stepped together: side by side in flat buffers, as the rule was evolved on.

A rule takes a whole :class:`~evometa.layout.Layout` of tensors at once, so many small tensors cost no more
than one. A large tensor is a flat buffer already and is stepped where it is. On a GPU the steps in flat
buffers are recorded and replayed, so there a lone tensor is brought to one unless it is large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import is_
from typing import cast

import torch
from torch import Tensor

from evometa.export import recorded
from evometa.export.placed import Placed, compute_dtype, layout_of, number
from evometa.export.recorded import Inputs, RecordedSteps, Recorders
from evometa.export.shards import local
from evometa.export.whole_model import Numbered, Options, WholeModel
from evometa.layout import Layout
from evometa.rules.base import LastStep, StepContext
from evometa.rules.learner import LAST_STEP, Learner
from evometa.trees import Tree


class Scratch:
    """Where small tensors are put together; all buckets of a device and dtype share it."""

    def __init__(self) -> None:
        self._held: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def rows(self, n: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Two buffers ``(1, 1, n)``, whose content is nobody's."""
        held = self._held.get((device, dtype))
        if held is None or held.shape[1] < n:
            held = self._held[device, dtype] = torch.empty((2, n), device=device, dtype=dtype)
        first, second = held[:, :n].view(2, 1, 1, n)
        return first, second


class Bucket:
    """Parameters that have made all their steps together, and their state.

    They are of one group and have gradients, unless their rule is not tensorwise.

    Attributes:
        groups: the number of each one's parameter group.
        params: they are all on one device and computed in one dtype.
        states: what ``optimizer.state`` holds for each: their step count and views of ``_state``.
    """

    def __init__(
        self,
        members: Sequence[Numbered],
        learner: Learner,
        placed: Placed,
        scratch: Scratch,
        recorders: Recorders,
        scale: Tensor | None,
    ) -> None:
        self.groups = [group for group, _ in members]
        self.params = [parameter for _, parameter in members]
        self.shapes = [tuple(local(parameter).shape) for parameter in self.params]
        self.device, self.dtype = self.params[0].device, compute_dtype(self.params[0])
        self._learner = learner
        self._placed = placed
        self._scale = scale
        self._layout = layout_of(tuple(self.shapes))
        if not learner.rule.tensorwise:
            self._whole = WholeModel(members, self._layout.sizes, self.device)
        self._steps = torch.zeros(len(self.params), dtype=torch.int64)
        fresh = self._fresh(self._layout)
        self._state: Tree = {name: value.unsqueeze(0).contiguous() for name, value in fresh.items()}
        self._own = {name: value[0] for name, value in self._state.items()}
        self.states = self._views()
        self._given = [tuple(state.values()) for state in self.states]
        self._recorded: RecordedSteps | None = None
        if recorded.serves(self.device, self._layout.size):
            self._recorded = RecordedSteps(recorders)
        self._rows: tuple[Tensor, Tensor] | None = None
        if len(self.params) > 1 or recorded.serves(self.device, self._layout.size):
            self._rows = scratch.rows(self._layout.size, self.device, self.dtype)
            views = [list(self._layout.views(row[0, 0]).values()) for row in self._rows]
            self._param_views, self._grad_views = views

    def holds(self, index: int, group: int, state: Mapping[str, Tensor] | None) -> bool:
        """Whether parameter ``index`` is still as the bucket took it, and ``state`` what the bucket gave it.

        Some clients replace the dictionary of a parameter, others the tensors in it.
        """
        parameter = self.params[index]
        return (
            state is self.states[index]
            and group == self.groups[index]
            and parameter.device == self.device
            and compute_dtype(parameter) == self.dtype
            and local(parameter).shape == self.shapes[index]
            and len(state) == len(self._given[index])
            and all(map(is_, state.values(), self._given[index]))
        )

    def is_together(self) -> bool:
        """Whether all have made equally many steps; somebody may have edited the count of one."""
        return len(set(self._steps.tolist())) == 1

    def restore(self, states: Sequence[Mapping[str, Tensor] | None]) -> None:
        """Take over the state that each parameter had; None for one that has none."""
        for own, given in zip(self.states, states, strict=True):
            for name, value in () if given is None else given.items():
                if value.shape != own[name].shape:
                    raise RuntimeError(
                        f"state {name!r} has shape {tuple(value.shape)}, but its parameter wants "
                        f"{tuple(own[name].shape)} now; delete optimizer.state[parameter] to begin it afresh"
                    )
                own[name].copy_(value)

    def last_step(self, options: Options) -> LastStep:
        """How the gradients lie to the last step, for a schedule that follows steps.

        That step is taken as it would be with the learning rates of now.
        """
        grads = self._gathered(options)[1][0]
        step = self._own[LAST_STEP] * self._option(options, "lr")
        return LastStep.of(-grads if self._maximize(options) else grads, step)

    def advance(self, factor: Tensor, horizon: int, loss: Tensor | None, options: Options) -> None:
        """Step all parameters by their gradients.

        Args:
            factor: the schedule's, () or (1,).
            loss: (1,), as the caller gave it.
            options: those of all groups.
        """
        if not (self._learner.rule.tensorwise or self._whole.has_gradients()):
            return
        inputs = Inputs(
            step=self._number(int(self._steps[0])),
            horizon=self._number(horizon),
            factor=factor.to(self.device, self.dtype).reshape(()) * self._option(options, "lr"),
            decay=self._decay(options),
            loss=None if loss is None else loss.to(self.device, self.dtype),
            maximize=self._maximize(options),
        )
        params, grads = self._gathered(options)
        if recorded.serves(self.device, self._layout.size):
            cast(RecordedSteps, self._recorded).make(self._move_rows, inputs)
            self._write(params, params)
        else:
            self._write(params, self._moved(params, grads, inputs))
        self._steps += 1

    def _option(self, options: Options, name: str) -> float | Tensor:
        """An option of the group; of a whole model for each coordinate, (N,)."""
        if self._learner.rule.tensorwise:
            return self._scalar(options[self.groups[0]][name])
        return self._whole.spread([self._number(self._scalar(group[name])) for group in options])

    def _decay(self, options: Options) -> Tensor | None:
        """The share that weight decay takes off; None for none."""
        if self._learner.rule.tensorwise:
            decays = bool(options[self.groups[0]]["weight_decay"])
        else:
            decays = self._whole.decays(options)
        if not decays:
            return None
        return self._number(self._option(options, "lr") * self._option(options, "weight_decay"))

    def _maximize(self, options: Options) -> bool:
        if self._learner.rule.tensorwise:
            return bool(options[self.groups[0]]["maximize"])
        return self._whole.maximize(options)

    def _move_rows(self, inputs: Inputs) -> None:
        """The arithmetic of a step, on the gradients and params in the flat buffers."""
        params, grads = cast(tuple[Tensor, Tensor], self._rows)
        after = self._moved(params, grads, inputs)
        if after.data_ptr() != params.data_ptr():
            params.copy_(after)

    def _moved(self, params: Tensor, grads: Tensor, inputs: Inputs) -> Tensor:
        """The next params ``(1, 1, N)``, in the memory of ``params`` or not; the state is edited in place."""
        loss = inputs.loss
        if inputs.maximize:
            grads = grads.neg_() if self._rows is not None else grads.neg()
            loss = None if loss is None else -loss
        decayed = None if inputs.decay is None else params * inputs.decay
        context = StepContext(self._layout, inputs.step, inputs.horizon, loss)
        after = self._stepped(params, grads, context, inputs.factor)
        return after if decayed is None else after.sub_(decayed)

    def _number(self, value: float | Tensor) -> Tensor:
        return value if isinstance(value, Tensor) else number(value, self.device, self.dtype)

    def _scalar(self, value: float | Tensor) -> float | Tensor:
        """An option as a number or a 0-d tensor here; a float64 tensor would widen a float32 step."""
        return value.to(self.device, self.dtype).reshape(()) if isinstance(value, Tensor) else value

    def _stepped(self, params: Tensor, grads: Tensor, context: StepContext, factor: Tensor) -> Tensor:
        """The next params ``(1, 1, N)``; the state is edited in place, and ``params`` may be."""
        learner, placed = self._learner, self._placed
        if learner.has_kernel(grads, params):
            many = StepContext(
                context.layout,
                context.step,
                context.horizon,
                None if context.loss is None else context.loss.unsqueeze(0),
            )
            after, new = learner.scaled_advance(
                placed.weights_of_cohort,
                placed.hyper_of_cohort,
                self._state,
                grads,
                params,
                many,
                factor.reshape(1, 1),
                overwrite=True,
            )
            _keep(self._state, new)
            return after
        # The factor of a whole model is of each coordinate, which the learner's is not.
        whole = factor if learner.rule.tensorwise else self._number(1.0)
        step, new = learner.scaled_step(
            placed.weights, placed.hyper, self._own, grads[0], params[0], context, whole, self._scale
        )
        _keep(self._own, new)
        return params.add_(step if learner.rule.tensorwise else step * factor)

    def _gathered(self, options: Options) -> tuple[Tensor, Tensor]:
        """Params and gradients as ``(1, 1, N)``; the params of a lone tensor may be its own memory."""
        params = [local(parameter) for parameter in self.params]
        if self._learner.rule.tensorwise:
            grads = [local(cast(Tensor, parameter.grad), parameter) for parameter in self.params]
        else:
            grads = self._whole.grads(options)
        if self._rows is None:
            (parameter,), (grad,) = params, grads
            return self._flat(parameter), self._flat(grad)
        torch._foreach_copy_(self._param_views, params)
        torch._foreach_copy_(self._grad_views, grads)
        return self._rows

    def _flat(self, value: Tensor) -> Tensor:
        return value.detach().to(self.dtype).reshape(1, 1, -1)

    def _write(self, params: Tensor, after: Tensor) -> None:
        """Let the parameters be ``after``; ``params`` is what :meth:`_gathered` gave."""
        if self._rows is None:
            parameter = local(self.params[0])
            if after.data_ptr() == parameter.data_ptr():
                torch.autograd.graph.increment_version(parameter)  # as any edit in place does
            else:
                parameter.copy_(after.view(parameter.shape))
            return
        in_place = after.data_ptr() == params.data_ptr()
        views = self._param_views if in_place else list(self._layout.views(after[0, 0]).values())
        if self._learner.rule.tensorwise:
            torch._foreach_copy_([local(parameter) for parameter in self.params], views)
        else:
            self._whole.write(views)

    def _fresh(self, layout: Layout) -> Tree:
        params = torch.empty((1, layout.size), device=self.device, dtype=self.dtype)
        return self._learner.init_rule_state(self._placed.weights, params, layout)

    def _views(self) -> list[Tree]:
        """The state of each parameter: its piece of every tensor's last axis, or what all share."""
        states: list[Tree] = [{"step": own} for own in self._steps.unbind()]
        if len(states) == 1:
            return [states[0] | self._own]
        alone = [self._fresh(layout_of((segment.shape,))) for segment in self._layout.segments]
        for name, whole in self._own.items():
            sizes = [fresh[name].shape[-1] for fresh in alone]
            shared = name in self._placed.shared
            pieces = [whole] * len(alone) if shared else list(torch.split(whole, sizes, dim=-1))
            for state, piece in zip(states, pieces, strict=True):
                state[name] = piece
        return states


def _keep(state: Tree, new: Mapping[str, Tensor]) -> None:
    """Write ``new`` into the memory of ``state``."""
    places = {value.untyped_storage().data_ptr(): name for name, value in state.items()}
    moved = {}
    for name, value in new.items():
        holder = places.get(value.untyped_storage().data_ptr())
        if holder != name:  # what is another's memory now may be written before it is read
            moved[name] = value if holder is None else value.clone()
        elif value.data_ptr() != state[name].data_ptr():
            moved[name] = value.clone()
    for name, value in moved.items():
        state[name].copy_(value)


def compact(value: Tensor) -> Tensor:
    """A copy in memory of its own, no larger than it needs."""
    return value.detach().clone(memory_format=torch.contiguous_format)
