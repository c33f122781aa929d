"""A step of a whole cohort of MLP rules by the kernel ``mlp_rule``, equal to that of ``MLPRule.update``.

Python gathers the weights and the few channels that all coordinates of a run share; the rest happens in C++.
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
from evometa.rules.feature_program import NONE, FeatureProgram
from evometa.rules.feature_table import WITHIN_TENSOR, Scope
from evometa.rules.features import FeatureSet, Inputs
from evometa.rules.output import Output
from evometa.rules.output_program import output_spec
from evometa.rules.signals import Statistic, matrices
from evometa.trees import Tree

#: the native unit, see :mod:`evometa.native`
UNIT = "mlp_rule"
#: scopes of the first layer's inputs, in the order of its columns
SCOPES: tuple[Scope, ...] = (*WITHIN_TENSOR, "step", "task")
#: continuous genes in the kernel's order; those that a structure lacks are not read
HYPER = ("lr", "magnitude_scale", "nominal_lr", "nominal_gradient")


class MLPKernel:
    """The kernel's side of one rule structure; arguments as of :class:`evometa.rules.mlp.MLPRule`."""

    def __init__(self, n_layers: int, n_hidden: int, features: FeatureSet, output: Output) -> None:
        self._program = program = FeatureProgram(features)
        counts = {scope: sum(features.n_channels[name] for name in features.names(scope)) for scope in SCOPES}
        self._n_within = sum(counts[scope] for scope in WITHIN_TENSOR)
        self._inputs = [f"input.{name}" for scope in SCOPES for name in features.names(scope)]
        layers = [f"layer{layer}" for layer in range(1, n_layers)]
        self._weights = [f"{layer}.{part}" for layer in (*layers, "output") for part in ("weight", "bias")]
        second_moments = [program.second_moment] if program.second_moment else []
        self._statistics = [
            *program.momenta,
            *second_moments,
            *program.row_moments,
            *program.column_moments,
        ]
        momentum = Statistic("momentum", output.beta1).name
        nominal = program.momenta.index(momentum) if momentum in program.momenta else NONE
        self._rule_spec = [n_layers, n_hidden, *output_spec(output), nominal, counts["step"], counts["task"]]
        self._specs: dict[Layout, tuple[Tensor, int]] = {}

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
        learned = [params, factor.to(params.dtype), *self._layers(weights)]
        has_graph = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in learned)
        overwrite = overwrite and not has_graph
        before = [state[name].contiguous() for name in self._statistics]
        after = before if overwrite else [torch.empty_like(old) for old in before]
        call = self._call(hyper, grads, before, after, shared, context)
        if has_graph:
            params_after: Tensor = _Advance.apply(call, *learned)  # type: ignore[no-untyped-call]
        else:
            own = [tensor.contiguous() for tensor in learned]
            params_after = own[0] if overwrite else torch.empty_like(own[0])
            call.forward(own, params_after)
            if overwrite:  # a graph that still needs the old values shall notice
                torch.autograd.graph.increment_version([params_after, *after])
        statistics = dict(zip(self._statistics, after, strict=True)) | shared_state
        return params_after, {name: statistics[name] for name in state}

    def train(
        self, weights: Tree, hyper: Hyper, state: Tree, params: Tensor, tasks: PerceptronTasks, steps: Steps
    ) -> tuple[Tensor, Tree]:
        """See :meth:`evometa.rules.base.UpdateRule.train`."""
        program = self._program
        new = {name: value.contiguous() for name, value in state.items()}
        numbers = [program.line_numbers_of(steps.numbers), program.coordinate_numbers_of(steps.numbers)]
        channels = program.step_channels_of(steps.numbers, steps.horizon, params.dtype)
        if channels is not None:
            numbers.append(channels.double())
        losses = params.new_empty((tasks.n_steps, *params.shape[:2]))
        torch.ops.evometa.mlp_train(
            params,
            [new[name] for name in self._statistics],
            new[program.initial_loss] if program.initial_loss else None,
            [weight.contiguous() for weight in self._layers(weights)],
            self._hyper(hyper),
            steps.factors,
            self._spec(steps.layout)[0],
            torch.cat(numbers, dim=1),
            *tasks.arguments,
            losses,
        )
        return losses, new

    def _layers(self, weights: Tree) -> list[Tensor]:
        """Weight and bias of each layer, those of the first layer's inputs joined."""
        first = torch.cat([weights[name] for name in self._inputs], dim=-1)
        return [first, weights["layer0.bias"], *(weights[name] for name in self._weights)]

    def _hyper(self, hyper: Hyper) -> list[Tensor]:
        return [hyper.get(name, hyper["lr"]).contiguous() for name in HYPER]

    def _spec(self, layout: Layout) -> tuple[Tensor, int]:
        """The kernel's list of integers, as a tensor that needs no conversion, and the number of tensors."""
        if layout not in self._specs:
            sizes = [size for matrix in matrices(layout) for size in (matrix.n_rows, matrix.n_columns)]
            n_tensors = len(sizes) // 2
            program = self._program
            spec = [*self._rule_spec, n_tensors, *sizes, *program.line_spec, *program.coordinate_spec]
            self._specs[layout] = torch.tensor(spec), n_tensors
        return self._specs[layout]

    def _call(
        self,
        hyper: Hyper,
        grads: Tensor,
        before: list[Tensor],
        after: list[Tensor],
        shared: Inputs,
        context: StepContext,
    ) -> _Call:
        spec, n_tensors = self._spec(context.layout)
        runs = grads.shape[:2]
        step = float(context.step)
        numbers = self._program.line_numbers(step) + self._program.coordinate_numbers(step)
        if "step" in shared:
            numbers += shared["step"].tolist()
        task = shared["task"].permute(1, 2, 0).contiguous() if "task" in shared else grads.new_empty(*runs, 0)
        return _Call(
            spec=spec,
            numbers=numbers,
            hyper=self._hyper(hyper),
            grads=grads.contiguous(),
            task=task,
            before=before,
            after=after,
            normalisers=grads.new_empty(*runs, n_tensors, self._n_within),
        )


@dataclass(frozen=True)
class _Call:
    """What is constant in a step, and where it leaves the statistics and the normalisers of the channels.

    ``learned`` are params, factor, and weights and bias of each layer.
    """

    spec: Tensor
    numbers: list[float]
    hyper: list[Tensor]
    grads: Tensor
    task: Tensor
    before: list[Tensor]
    after: list[Tensor]
    normalisers: Tensor

    def forward(self, learned: list[Tensor], params_after: Tensor) -> None:
        """Write params_after, the statistics after the step and the normalisers."""
        params, factor, *weights = learned
        torch.ops.evometa.mlp_advance(
            self.grads, params, params_after, self.before, self.after, weights, self.hyper, factor,
            self.task, self.normalisers, self.spec, self.numbers,
        )  # fmt: skip

    def backward(self, learned: list[Tensor], d_params_after: Tensor) -> list[Tensor]:
        """The cotangents of ``learned``."""
        params, factor, *weights = learned
        d_params, d_factor = torch.empty_like(params), params.new_empty(params.shape[:2])
        d_weights = [torch.empty_like(weight) for weight in weights]
        torch.ops.evometa.mlp_backward(
            d_params_after.contiguous(), self.grads, params, self.after, weights, self.hyper, factor,
            self.task, self.normalisers, self.spec, self.numbers, d_params, d_weights, d_factor,
        )  # fmt: skip
        return [d_params, d_factor.sum_to_size(factor.shape), *d_weights]


class _Advance(torch.autograd.Function):
    """A step that keeps its inputs alone: the backward pass computes everything between again."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *learned: Tensor) -> Tensor:
        own = [tensor.contiguous() for tensor in learned]
        params_after = torch.empty_like(own[0])
        call.forward(own, params_after)
        # Statistics and normalisers are saved like inputs, so that writing over them later is noticed.
        ctx.call, ctx.n_learned = replace(call, before=[], after=[]), len(own)
        ctx.save_for_backward(*own, *call.after)
        return params_after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_params_after: Tensor) -> tuple[Tensor | None, ...]:
        learned, after = ctx.saved_tensors[: ctx.n_learned], ctx.saved_tensors[ctx.n_learned :]
        call = replace(ctx.call, after=list(after))
        return None, *call.backward(list(learned), d_params_after)
