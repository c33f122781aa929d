"""Which parameters are stepped together: those that have made all their steps together so far.

Buckets are only ever split. A parameter that waits while others of its bucket are stepped (it has no
gradient) has another step count from then on, and with it other bias corrections.

A rule that is not tensorwise was evolved on whole models. All that is given to the optimizer is one bucket
then, across groups and however large; in a step without its gradient a parameter counts with a gradient of
zero, but stays where it is. Those that join later begin a step count of their own, and so are a model of
their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from evometa.export.bucket import Bucket, Scratch, compact
from evometa.export.placed import Placed, compute_dtype
from evometa.export.recorded import MOST_COORDINATES, Recorders
from evometa.export.shards import local
from evometa.export.whole_model import Numbered, Options
from evometa.rules.base import LastStep
from evometa.rules.learner import Learner
from evometa.trees import Tree, tree_map

#: Coordinates that small tensors are put together to, on a CPU and elsewhere: on a CPU gradients and params
#: that were just put together should still be in cache when the rule reads them; elsewhere a bucket should
#: not be too large to be recorded, which also bounds the memory that a step works in.
_CPU_COORDINATES, _COORDINATES = 2**18, MOST_COORDINATES

#: What ``optimizer.state`` holds.
States = dict[object, Tree]


class Buckets:
    """The buckets of an optimizer's parameters, made and split as gradients come and go."""

    def __init__(self, learner: Learner, weights: Tree, parameters: Callable[[], Iterable[Tensor]]) -> None:
        self._learner = learner
        self._parameters = parameters
        self._weights = weights
        self._scratch = Scratch()
        self._recorders = Recorders()
        self._places: dict[Tensor, tuple[Bucket, int]] = {}
        self._placed: dict[tuple[torch.device, torch.dtype], Placed] = {}

    def placed(self, device: torch.device, dtype: torch.dtype) -> Placed:
        """Weights and continuous genes on ``device`` in ``dtype``; moved once."""
        if (device, dtype) not in self._placed:
            self._placed[device, dtype] = Placed.of(self._learner, self._weights, device, dtype)
        return self._placed[device, dtype]

    def of(self, moving: Sequence[Numbered], states: States) -> list[Bucket]:
        """The buckets that hold exactly the parameters of ``moving``.

        ``states`` has the state of each, or none before its first step. It is given views of the buckets'
        state in place of its own; whoever replaces an entry since then is heeded. Raises RuntimeError where
        those that a rule must step at once are in several places.
        """
        homes = [self._home(group, parameter, states) for group, parameter in moving]
        counts = Counter(bucket for bucket in homes if bucket is not None)
        whole = [bucket for bucket, n in counts.items() if n == len(bucket.params) and bucket.is_together()]
        if sum(counts[bucket] for bucket in whole) == len(moving):
            return whole
        homeless = [one for one, bucket in zip(moving, homes, strict=True) if bucket not in whole]
        self._dissolve(counts.keys() - whole, {parameter for _, parameter in homeless}, states)
        return [*whole, *self._made(homeless, states)]

    def _home(self, group: int, parameter: Tensor, states: States) -> Bucket | None:
        """The bucket of a parameter; None where somebody has moved it, or given it another state."""
        bucket, index = self._places.get(parameter, (None, 0))
        if bucket is None or not bucket.holds(index, group, states.get(parameter)):
            return None
        return bucket

    def _dissolve(self, torn: set[Bucket], moving: set[Tensor], states: States) -> None:
        """Give each parameter of the buckets that stays behind a state in memory of its own."""
        for bucket in torn:
            for parameter, own in zip(bucket.params, bucket.states, strict=True):
                if self._places.get(parameter, (None, 0))[0] is bucket:
                    del self._places[parameter]
                if parameter not in moving and states.get(parameter) is own:
                    states[parameter] = tree_map(compact, own)

    def _made(self, homeless: Sequence[Numbered], states: States) -> Iterator[Bucket]:
        """New buckets for these parameters, with their state."""
        history = [self._history(parameter, states.get(parameter)) for _, parameter in homeless]
        for places in list(self._places_of_buckets(homeless, history)):
            members = [homeless[place] for place in places]
            _, first = members[0]
            placed = self.placed(first.device, compute_dtype(first))
            scale = None
            if placed.scale is not None:
                scale = self._scale(members, placed.scale)
            bucket = Bucket(members, self._learner, placed, self._scratch, self._recorders, scale)
            bucket.restore([states.get(parameter) for _, parameter in members])
            for index, (_, parameter) in enumerate(members):
                states[parameter] = bucket.states[index]
                self._places[parameter] = bucket, index
            yield bucket

    def _scale(self, members: Sequence[Numbered], whole: Tensor) -> Tensor:
        """The pieces of ``members`` of what the steps of the whole model are multiplied by."""
        parameters = list(self._parameters())
        pieces = torch.split(whole, [parameter.numel() for parameter in parameters])
        own = dict(zip(parameters, pieces, strict=True))
        return torch.cat([own[parameter] for _, parameter in members])

    def _places_of_buckets(
        self, homeless: Sequence[Numbered], history: Sequence[Hashable]
    ) -> Iterator[list[int]]:
        """The places in ``homeless`` of the parameters that each new bucket takes."""
        if self._learner.rule.tensorwise:
            return _together(homeless, history)
        return _at_once(homeless, history, self._learner.family)

    def _history(self, parameter: Tensor, state: Mapping[str, Tensor] | None) -> Hashable:
        """What all parameters of a bucket have in common of their pasts."""
        if not state:
            return None
        shared = self.placed(parameter.device, compute_dtype(parameter)).shared
        return int(state["step"]), *(tuple(state[name].flatten().tolist()) for name in sorted(shared))


def last_step(
    buckets: Sequence[Bucket], options: Options, device: torch.device, dtype: torch.dtype
) -> LastStep:
    """How all gradients together lie to the last step, each (1,), on ``device`` in ``dtype``."""
    parts = [bucket.last_step(options) for bucket in buckets]
    sums = [torch.stack([part.slope, part.grad_square, part.step_square]).to(device, dtype) for part in parts]
    return LastStep(*torch.stack(sums).sum(dim=0).unbind())


def _together(homeless: Sequence[Numbered], history: Sequence[Hashable]) -> Iterator[list[int]]:
    """The places in ``homeless`` of the parameters that each new bucket takes.

    They share group, device, dtype and ``history``; small ones are put together as long as there is room.
    """
    alike: dict[Hashable, list[int]] = {}
    for place, ((group, parameter), own) in enumerate(zip(homeless, history, strict=True)):
        alike.setdefault((group, parameter.device, compute_dtype(parameter), own), []).append(place)
    for places in alike.values():
        some: list[int] = []
        size = 0
        for place in places:
            parameter = homeless[place][1]
            room = _CPU_COORDINATES if parameter.is_cpu else _COORDINATES
            n = local(parameter).numel()
            if some and size + n > room:
                yield some
                some, size = [], 0
            some.append(place)
            size += n
        yield some


def _at_once(homeless: Sequence[Numbered], history: Sequence[Hashable], family: str) -> Iterator[list[int]]:
    """As :func:`_together` where all of one ``history`` are stepped at once, whatever their groups and sizes.

    Raises RuntimeError where they are on several devices or computed in several dtypes.
    """
    alike: dict[Hashable, list[int]] = {}
    for place, own in enumerate(history):
        alike.setdefault(own, []).append(place)
    for places in alike.values():
        params = [homeless[place][1] for place in places]
        found = {f"{parameter.device} in {compute_dtype(parameter)}": None for parameter in params}
        if len(found) > 1:
            raise RuntimeError(
                f"this {family!r} rule steps all parameters of a model at once, but they are on "
                f"{' and on '.join(found)}; bring them to one device and dtype"
            )
        yield places
