"""A step of a whole cohort of recurrent rules by the kernel ``recurrent``.

Equal to :class:`evometa.rules.recurrent.RecurrentRule`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from evometa.layout import Layout
from evometa.native.tasks import PerceptronTasks
from evometa.rules.base import Hyper, StepContext, Steps
from evometa.rules.cells import CELLS
from evometa.rules.feature_program import NONE, FeatureProgram
from evometa.rules.features import FeatureSet, Inputs
from evometa.rules.output import Output
from evometa.rules.output_program import output_spec
from evometa.rules.signals import Statistic
from evometa.trees import Tree

#: the native unit, see :mod:`evometa.native`
UNIT = "recurrent"
#: continuous genes in the kernel's order; those that a structure lacks are not read
HYPER = ("lr", "magnitude_scale", "nominal_lr", "nominal_gradient")


class RecurrentKernel:
    """The kernel's side of one rule structure.

    ``inputs`` are the features that are rows of the first layer's input, ``carried`` the state's names of the
    hidden states and memories, both in the order of :class:`evometa.rules.recurrent.RecurrentRule`.
    """

    def __init__(
        self,
        cell: str,
        n_layers: int,
        n_hidden: int,
        features: FeatureSet,
        output: Output,
        inputs: list[str],
        carried: list[str],
    ) -> None:
        self._program = program = FeatureProgram(features)
        self._inputs = [f"input.{name}" for name in (*inputs, *features.names("step"))]
        self._carried = carried
        parts = ["recurrent", "bias"] + ["recurrent_bias"] * CELLS[cell].has_recurrent_bias
        # The first layer's input weights are one tensor a feature and stand in front of these.
        names = [f"layer{layer}.{part}" for layer in range(n_layers) for part in ("input", *parts)]
        self._layers = [*names[1:], "output.weight", "output.bias"]
        self._statistics = [*program.momenta, *([program.second_moment] if program.second_moment else [])]
        self._is_normalised = output.parametrisation == "rms_normalised"
        momentum = Statistic("momentum", output.beta1).name
        nominal = program.momenta.index(momentum) if momentum in program.momenta else NONE
        self._spec = [list(CELLS).index(cell), n_layers, n_hidden, *output_spec(output), nominal]

    def advance(
        self,
        weights: Tree,
        hyper: Hyper,
        state: Tree,
        grads: Tensor,
        params: Tensor,
        context: StepContext,
        factor: Tensor,
        *,
        overwrite: bool,
    ) -> tuple[Tensor, Tree]:
        """See :meth:`evometa.rules.base.UpdateRule.advance`."""
        shared, shared_state = self._program.shared(state, grads, params, context)
        learned = [
            params,
            factor if factor.dtype == params.dtype else factor.to(params.dtype),
            *(state[name] for name in self._carried),
            *self._weights(weights),
        ]
        has_graph = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in learned)
        statistics = [state[name].contiguous() for name in self._statistics]
        call = self._call(hyper, grads, statistics, shared, context)
        if has_graph:
            call.after = [torch.empty_like(old) for old in statistics]
            params_after, *carried = _Advance.apply(call, *learned)  # type: ignore[no-untyped-call]
        else:
            own = [(tensor.detach() if tensor.requires_grad else tensor).contiguous() for tensor in learned]
            before = [own[0], *own[2 : call.n_carried + 2]]
            call.after = statistics if overwrite else [torch.empty_like(old) for old in statistics]
            after = before if overwrite else [torch.empty_like(old) for old in before]
            call.forward(own, after)
            if overwrite:  # a graph that still needs the old values shall notice
                torch.autograd.graph.increment_version([*after, *statistics])
            params_after, *carried = after
        new = dict(zip(self._carried, carried, strict=True))
        new |= dict(zip(self._statistics, call.after, strict=True)) | shared_state
        return params_after, {name: new[name] for name in state}

    def train(
        self, weights: Tree, hyper: Hyper, state: Tree, params: Tensor, tasks: PerceptronTasks, steps: Steps
    ) -> tuple[Tensor, Tree]:
        """See :meth:`evometa.rules.base.UpdateRule.train`."""
        program = self._program
        new = {name: value.contiguous() for name, value in state.items()}
        losses = params.new_empty((tasks.n_steps, *params.shape[:2]))
        torch.ops.evometa.recurrent_train(
            self._spec_of(steps.layout),
            program.coordinate_numbers_of(steps.numbers),
            params,
            steps.factors,
            new[program.initial_loss] if program.initial_loss else None,
            program.step_channels_of(steps.numbers, steps.horizon, params.dtype),
            [hyper.get(name) for name in HYPER],
            [weight.contiguous() for weight in self._weights(weights)],
            [new[name] for name in self._statistics],
            [new[name] for name in self._carried],
            *tasks.arguments,
            losses,
        )
        return losses, new

    def _weights(self, weights: Tree) -> list[Tensor]:
        """In the kernel's order."""
        own = [weights[name] for name in self._inputs]
        first = torch.cat(own, dim=-1) if len(own) > 1 else own[0]
        return [first, *(weights[name] for name in self._layers)]

    def _spec_of(self, layout: Layout) -> list[int]:
        sizes = [size for size in layout.sizes if size] if self._is_normalised else []
        return [*self._spec, len(sizes), *sizes, *self._program.coordinate_spec]

    def _call(
        self,
        hyper: Hyper,
        grads: Tensor,
        statistics: list[Tensor],
        shared: Inputs,
        context: StepContext,
    ) -> _Call:
        tasks = shared.get("task")
        return _Call(
            spec=self._spec_of(context.layout),
            numbers=self._program.coordinate_numbers(float(context.step)),
            grads=grads.detach().contiguous(),
            tasks=None if tasks is None else tasks.contiguous(),
            steps=shared.get("step"),
            hyper=[hyper.get(name) for name in HYPER],
            before=statistics,
            after=[],
            outputs=grads.new_empty(grads.shape) if self._is_normalised else None,
            n_carried=len(self._carried),
        )


@dataclass
class _Call:
    """What is constant in a step, and where it leaves the statistics and outputs that are to be normalised.

    ``learned`` are params, factor, the carried tensors, and the weights in the kernel's order.
    """

    spec: list[int]
    numbers: list[float]
    grads: Tensor
    tasks: Tensor | None
    steps: Tensor | None
    hyper: list[Tensor | None]
    before: list[Tensor]
    after: list[Tensor]
    outputs: Tensor | None
    n_carried: int

    def forward(self, learned: list[Tensor], after: list[Tensor]) -> None:
        """Write the next params and carried tensors to ``after``, and the statistics after the step."""
        torch.ops.evometa.recurrent_advance(
            *self._arguments(learned), after[0], self.after, after[1:], self.outputs
        )

    def backward(
        self, learned: list[Tensor], d_after: list[Tensor | None], *, of_factor: bool
    ) -> list[Tensor | None]:
        """The cotangents of ``learned`` from those of the next params and carried tensors."""
        cotangents = [torch.empty_like(tensor) for tensor in learned]
        d_params, d_factor, *d_rest = cotangents
        d_own = [None if tensor is None else tensor.contiguous() for tensor in d_after]
        torch.ops.evometa.recurrent_backward(
            *self._arguments(learned), self.outputs, d_own[0], d_own[1:],
            d_params, d_rest[: self.n_carried], d_rest[self.n_carried :], d_factor if of_factor else None,
        )  # fmt: skip
        return [d_params, d_factor if of_factor else None, *d_rest]

    def _arguments(self, learned: list[Tensor]) -> tuple[Any, ...]:
        params, factor, *rest = learned
        constant = (self.tasks, self.steps, self.hyper)
        kept = (rest[self.n_carried :], self.before, rest[: self.n_carried])
        return (self.spec, self.numbers, self.grads, params, factor, *constant, *kept)


class _Advance(torch.autograd.Function):
    """A step that keeps its inputs alone: the backward pass computes everything between again."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *learned: Tensor) -> tuple[Tensor, ...]:
        own = [tensor.contiguous() for tensor in learned]
        after = [
            torch.empty_like(own[0]),
            *(torch.empty_like(tensor) for tensor in own[2 : call.n_carried + 2]),
        ]
        call.forward(own, after)
        # Statistics and outputs are saved like inputs, so that writing over them later is noticed.
        ctx.call, ctx.n_learned = replace(call, before=[], after=[], outputs=None), len(own)
        ctx.is_normalised = call.outputs is not None
        ctx.save_for_backward(*own, *call.before, *([] if call.outputs is None else [call.outputs]))
        ctx.set_materialize_grads(False)
        return tuple(after)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_after: Tensor | None) -> tuple[Tensor | None, ...]:
        own, kept = list(ctx.saved_tensors[: ctx.n_learned]), list(ctx.saved_tensors[ctx.n_learned :])
        outputs = kept.pop() if ctx.is_normalised else None
        call = replace(ctx.call, before=kept, outputs=outputs)
        return None, *call.backward(own, list(d_after), of_factor=ctx.needs_input_grad[2])
