"""What a learner costs to run, measured on its own code; nothing is typed in per rule.

Convention. One update is made on a reference model, an MLP 64–32–10 (N = 2,410 coordinates), and every
operation PyTorch dispatches is counted:

- a matrix product of ``(m, k)`` and ``(k, n)`` costs ``2·m·k·n`` operations, plus one per element of what is
  added to it;
- an elementwise operation costs one per element of its result, whichever function it is (a root counts as
  an addition); a fused one counts its parts (``lerp``, ``addcmul`` and ``addcdiv`` three);
- a reduction costs one per element of its input;
- views, copies, concatenations and the creation of constants are free.

Beside it the numbers are counted that operations write to memory, computed or copied; the chunk plan goes by
them. The totals are divided by N. The gradient itself is not part of it: it is the same for every learner.

What a rule does once for each tensor, as those that steer whole tensors do, is divided by N as well. Here
four tensors have 602 coordinates each on average; with larger ones it is less for a coordinate, down to what
the rule does for each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from math import nan
from operator import add
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from evometa.layout import Layout
from evometa.rng import torch_generator
from evometa.rules.base import LastStep, StepContext, UpdateRule
from evometa.rules.initialisation import Initialisation
from evometa.rules.learner import Learner
from evometa.rules.learner_structure import Structural
from evometa.rules.registry import SCHEDULES
from evometa.rules.schedule_base import Schedule
from evometa.rules.schedule_space import schedule_space
from evometa.trees import Tree, count, under_prefix, with_prefix

#: The model on which every learner is measured.
REFERENCE_LAYOUT = Layout.of({"0.weight": (32, 64), "0.bias": (32,), "2.weight": (10, 32), "2.bias": (10,)})

#: Operations that move or make numbers and compute none (besides views, which say so themselves).
# fmt: off
_FREE = frozenset([
    "_to_copy", "_unsafe_view", "arange", "cat", "clone", "constant_pad_nd", "copy", "copy_",
    "empty", "empty_like", "empty_strided", "fill_", "full", "full_like", "gather", "index",
    "index_select", "lift_fresh_copy", "new_empty", "new_empty_strided", "new_full", "new_ones",
    "new_zeros", "ones", "ones_like", "repeat", "repeat_interleave", "scalar_tensor", "scatter",
    "slice_scatter", "stack", "zero_", "zeros", "zeros_like",
])
# fmt: on
#: Matrix products, with the place of their first factor among the arguments.
_PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "addmm": 1, "baddbmm": 1, "addmv": 1}
#: Elementwise operations that stand for several.
_FUSED = {"lerp": 3, "addcmul": 3, "addcdiv": 3}

#: How many structures are remembered.
_N_KEPT = 1024


@dataclass(frozen=True)
class Cost:
    """Cost of one learner.

    Attributes:
        state_floats_per_param: numbers kept between steps, per coordinate of the model.
        flops_per_param: operations of one update, per coordinate of the model; nan where not counted.
        n_weights: number of meta-trained weights φ.
        floats_written_per_param: numbers that one update in PyTorch writes, the next state and the step
            included, per coordinate of the model; nan where not counted.
    """

    state_floats_per_param: float
    flops_per_param: float
    n_weights: int
    floats_written_per_param: float


@dataclass(frozen=True)
class Counts:
    """What a part of a learner comes to on the reference model: whole numbers, so that sums are exact.

    Attributes:
        state: numbers kept between steps.
        operations: operations of one update.
        weights: meta-trained weights.
        written: numbers that one update writes.
    """

    state: int
    operations: int
    weights: int
    written: int

    def __add__(self, other: Counts) -> Counts:
        """Of both parts."""
        return Counts(*map(add, astuple(self), astuple(other)))


#: Counts of rules by family and structural genes, the latest last.
_COUNTED: dict[tuple[str, Structural], Counts] = {}
#: Of rules likewise, the numbers that they keep between steps, and their weights.
_SIZED: dict[tuple[str, Structural], tuple[int, int]] = {}


def measure_cost(learner: Learner) -> Cost:
    """The cost of ``learner``; equal for all learners of one structure, and measured once for each."""
    _, schedule, begin = learner.parts
    return _cost_of(count_rule(learner), _schedule_counts(schedule) + _initialisation_counts(begin))


def size_cost(learner: Learner) -> Cost:
    """The part of :func:`measure_cost` that is told without an update; what an update does is nan."""
    rule, schedule, begin = learner.parts
    if (learner.family, rule) not in _SIZED:
        note_sizes(learner, with_prefix("rule", learner.rule.init_weights(torch_generator(0, "cost"))))
    return _size_cost(
        _SIZED[learner.family, rule], _schedule_counts(schedule) + _initialisation_counts(begin)
    )


def note_sizes(learner: Learner, weights: Tree) -> None:
    """Find the sizes that :func:`size_cost` tells with the help of ``weights`` of such a learner.

    It would make some of its own, which takes longer than all the rest.
    """
    key = learner.family, learner.parts[0]
    if key in _SIZED:
        return
    params = torch.zeros((1, REFERENCE_LAYOUT.size))
    own = under_prefix("rule", weights)
    _SIZED[key] = count(learner.rule.init_state(own, params, REFERENCE_LAYOUT)), count(own)
    if len(_SIZED) > _N_KEPT:
        del _SIZED[next(iter(_SIZED))]


@lru_cache(maxsize=_N_KEPT)
def _size_cost(rule: tuple[int, int], others: Counts) -> Cost:
    state, weights = rule[0] + others.state, rule[1] + others.weights
    return Cost(state / REFERENCE_LAYOUT.size, nan, weights, nan)


@lru_cache(maxsize=_N_KEPT)
def _cost_of(rule: Counts, others: Counts) -> Cost:
    found, size = rule + others, REFERENCE_LAYOUT.size
    return Cost(found.state / size, found.operations / size, found.weights, found.written / size)


def state_floats_per_param(learner: Learner) -> float:
    """As in :func:`measure_cost`, but without making an update."""
    return size_cost(learner).state_floats_per_param


def count_rule(learner: Learner) -> Counts:
    """The counts of the learner's rule; they are found by an update unless they are known or were noted."""
    if not is_counted(learner):
        note_counts(learner, count_anew(learner))
    return _COUNTED[learner.family, learner.parts[0]]


def is_counted(learner: Learner) -> bool:
    """Whether this process knows what :func:`count_rule` gives."""
    return (learner.family, learner.parts[0]) in _COUNTED


def note_counts(learner: Learner, counts: Counts) -> None:
    """Take it from another process that :func:`count_rule` gives ``counts`` for such a learner."""
    _COUNTED[learner.family, learner.parts[0]] = counts
    if len(_COUNTED) > _N_KEPT:
        del _COUNTED[next(iter(_COUNTED))]


def count_anew(learner: Learner) -> Counts:
    """What :func:`count_rule` remembers: an update, and its product with a schedule's factor.

    Only structural genes count; the continuous ones are at their defaults.
    """
    family = learner.rule_family
    genes = family.space.complete(dict(learner.parts[0]))
    rule = family.build(genes)
    weights, params, grads, context = _reference(rule)
    hyper = {name: torch.tensor(value) for name, value in family.space.continuous(genes).items()}
    with torch.no_grad():
        state = rule.init_state(weights, params, context.layout)
        with OperationCounter() as counter:
            step, _ = rule.update(weights, hyper, state, grads, params, context)
            step.mul(torch.tensor(1.0))
    return Counts(count(state), counter.n_operations, count(weights), counter.n_written)


@lru_cache(maxsize=_N_KEPT)
def _schedule_counts(structure: Structural) -> Counts:
    """One factor, the continuous genes at their defaults."""
    space = schedule_space()
    genes = space.complete(dict(structure))
    schedule = SCHEDULES[str(genes["schedule"])].build(genes)
    weights, params, grads, context = _reference(schedule)
    hyper = {name: torch.tensor(value) for name, value in space.continuous(genes).items()}
    with torch.no_grad():
        state = schedule.init_state(weights, len(params), params)
        with OperationCounter() as counter:
            if schedule.follows_steps:
                context = replace(context, last_step=LastStep.of(grads, params))
            schedule.factor(weights, hyper, state, context)
    kept = count(state) + (params.numel() if schedule.follows_steps else 0)  # the rule's last step
    return Counts(kept, counter.n_operations, count(weights), counter.n_written)


@lru_cache(maxsize=_N_KEPT)
def _initialisation_counts(structure: Structural) -> Counts:
    """A step's product with its scale, where it has one."""
    begin = Initialisation.of(dict(structure))
    if begin is None:
        return Counts(0, 0, 0, 0)
    weights = begin.init_weights(torch.zeros(REFERENCE_LAYOUT.size))
    with torch.no_grad(), OperationCounter() as counter:
        if begin.scales:
            torch.zeros((1, REFERENCE_LAYOUT.size)).mul(begin.scale(weights, REFERENCE_LAYOUT))
    return Counts(0, counter.n_operations, count(weights), counter.n_written)


def _reference(part: UpdateRule | Schedule) -> tuple[Tree, Tensor, Tensor, StepContext]:
    """Fresh weights of a rule or a schedule; params, gradients and context of the reference model."""
    generator = torch_generator(0, "cost")
    weights = part.init_weights(generator)
    params, grads = torch.randn((2, 1, REFERENCE_LAYOUT.size), generator=generator)
    context = StepContext(REFERENCE_LAYOUT, torch.tensor(1.0), torch.tensor(100.0), torch.ones(1))
    return weights, params, grads, context


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, by the module's convention, the arithmetic of what runs inside its ``with`` block.

    Attributes:
        n_operations: operations so far.
        n_written: numbers written to new memory so far.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to keep the compiler out of it would import the compiler, in every worker

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.n_operations = 0
        self.n_written = 0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **kwargs) if kwargs else func(*args)
        # Written out, because this runs hundreds of times for every new structure of a campaign.
        kind = _KINDS.get(id(func)) or _kind(func)
        if kind.is_view:
            return result
        given = _tensors(args)
        largest = 0
        for value in given:
            largest = max(largest, value.numel())
        for made in (result,) if isinstance(result, Tensor) else _tensors((result,)):
            n_made = made.numel()
            largest = max(largest, n_made)
            for value in given:
                if value is made:  # written in place
                    break
            else:
                self.n_written += n_made
        if kind.first_factor is None:
            self.n_operations += kind.per_element * largest
        else:
            per_element = 2 * args[kind.first_factor].shape[-1] + (1 if kind.first_factor else 0)
            self.n_operations += per_element * result.numel()
        return result


@dataclass(frozen=True)
class _Kind:
    """How the operations of a call of ``func`` are told from its arguments and results.

    ``per_element`` of the largest tensor, unless ``first_factor`` is the place of a product's first factor.
    """

    func: OpOverload
    is_view: bool
    per_element: int
    first_factor: int | None


#: By the identity of the operation: its own hash is computed in Python.
_KINDS: dict[int, _Kind] = {}


def _kind(func: OpOverload) -> _Kind:
    full_name: str = func.overloadpacket.__name__
    name = full_name.removesuffix("_")
    per_element = 0 if full_name in _FREE else _FUSED.get(name, 1)
    kind = _KINDS[id(func)] = _Kind(func, func.is_view, per_element, _PRODUCTS.get(name))
    return kind


def _tensors(values: Iterable[object]) -> list[Tensor]:
    """All tensors among the arguments or results of an operation."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _tensors(value)
    return found
