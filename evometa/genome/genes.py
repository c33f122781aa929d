"""Typed genes: what values a gene may take, and how such a value is drawn, mutated and recombined.

Numeric genes do their arithmetic in *unit coordinates*: the interval ``[low, high]`` (its logarithm for
:class:`LogReal`, bins of equal width for :class:`Integer`) mapped onto ``[0, 1]``, so that one mutation
strength means the same for a learning rate and for a hidden size. Random numbers come from the generator
that is passed in (DEAP's own operators draw from the global ``random``, which would break resumption).
"""

from __future__ import annotations

import math
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from evometa.errors import GenomeError

Value = float | int | str | bool | tuple[str, ...]
Condition = Mapping[str, tuple[Value, ...]]


@dataclass(frozen=True)
class Gene(ABC):
    """One gene. ``when`` names the genes (and their values) that make this one active; empty: always."""

    name: str
    when: Condition = field(default_factory=dict, kw_only=True)
    note: str = field(default="", kw_only=True)

    @property
    @abstractmethod
    def allowed(self) -> str:
        """The permitted values, in words, for help and error texts."""

    @property
    @abstractmethod
    def default(self) -> Value:
        """The value a genome gets that says nothing about this gene."""

    @abstractmethod
    def check(self, value: object) -> Value:
        """``value`` in canonical type; raises GenomeError when it is not permitted."""

    @abstractmethod
    def sample(self, generator: np.random.Generator) -> Value:
        """A uniform draw."""

    def skip(self, generator: np.random.Generator) -> None:
        """Draw what :meth:`sample` draws, for nothing: what comes next is the same either way."""
        self.sample(generator)

    @abstractmethod
    def mutate(self, value: Value, generator: np.random.Generator, strength: float) -> Value:
        """A neighbour of ``value``; ``strength`` is a standard deviation in unit coordinates."""

    def cross(self, a: Value, b: Value, generator: np.random.Generator) -> tuple[Value, Value]:
        """Two children's values from the parents' ``a`` and ``b``; here: swapped with probability ½."""
        return (b, a) if generator.random() < 0.5 else (a, b)

    def refuse(self, value: object) -> GenomeError:
        """The error for a value that is not permitted; long values are shortened to keep it one line."""
        return GenomeError(f"gene {self.name!r}: got {reprlib.repr(value)}, allowed is {self.allowed}")


class Composite(Gene):
    """A gene with continuous numbers inside: what is left without them is structural.

    Its numbers are named ``gene.number``.
    """

    @abstractmethod
    def numbers(self, value: Value) -> dict[str, float]:
        """The numbers inside ``value`` by name; values of one skeleton have the same names."""

    @abstractmethod
    def number_note(self, name: str) -> str:
        """What a number of :meth:`numbers` is."""

    @abstractmethod
    def skeleton(self, value: Value) -> Value:
        """A permitted value that stands for all values that differ from this one in their numbers alone."""

    @abstractmethod
    def held(self, value: Value) -> Composite:
        """This gene, held at one value."""

    @abstractmethod
    def narrowed(self, limit: Mapping[str, object]) -> Composite:
        """This gene, permitting less; raises GenomeError for a limit that it does not know."""

    @property
    @abstractmethod
    def is_fixed(self) -> bool:
        """Whether it is held at one value."""


@dataclass(frozen=True)
class NumericGene(Gene):
    """A gene with a bounded numeric value and a map to unit coordinates."""

    low: float
    high: float
    initial: float

    def __post_init__(self) -> None:
        if not -math.inf < self.low <= self.initial <= self.high < math.inf:
            raise GenomeError(f"gene {self.name!r}: default {self.initial} outside [{self.low}, {self.high}]")

    @property
    def default(self) -> Value:
        return self.check(self.initial)

    @property
    def allowed(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"

    def check(self, value: object) -> Value:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(value)
        if not self.low <= value <= self.high:  # NaN fails the comparison, infinities lie outside
            raise self.refuse(value)
        return float(value)

    @abstractmethod
    def to_unit(self, value: float) -> float:
        """The place of ``value`` in [0, 1]."""

    @abstractmethod
    def from_unit(self, unit: float) -> Value:
        """The permitted value at place ``unit``."""

    def sample(self, generator: np.random.Generator) -> Value:
        return self.from_unit(float(generator.random()))

    def skip(self, generator: np.random.Generator) -> None:
        generator.random()

    def mutate(self, value: Value, generator: np.random.Generator, strength: float) -> Value:
        unit = self.to_unit(float(value)) + strength * float(generator.standard_normal())  # type: ignore[arg-type]
        return self.from_unit(_reflect(unit))

    def cross(self, a: Value, b: Value, generator: np.random.Generator) -> tuple[Value, Value]:
        """Simulated binary crossover (Deb & Agrawal 1995) with distribution index 10, in unit coordinates.

        Parents that agree have children that agree: not even a last digit moves.
        """
        x, y = self.to_unit(float(a)), self.to_unit(float(b))  # type: ignore[arg-type]
        draw = float(generator.random())
        exponent = 1.0 / 11.0
        spread = (2 * draw) ** exponent if draw <= 0.5 else (1 / (2 * (1 - draw))) ** exponent
        first = 0.5 * ((1 + spread) * x + (1 - spread) * y)
        second = 0.5 * ((1 - spread) * x + (1 + spread) * y)
        children = (self.from_unit(_reflect(first)), self.from_unit(_reflect(second)))
        swap = generator.random() < 0.5
        if a == b:
            return a, b
        return (children[1], children[0]) if swap else children


@dataclass(frozen=True)
class Real(NumericGene):
    """A real number, uniform in ``[low, high]``."""

    def to_unit(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0

    def from_unit(self, unit: float) -> Value:
        return min(max(self.low + unit * (self.high - self.low), self.low), self.high)


@dataclass(frozen=True)
class LogReal(NumericGene):
    """A positive real number, uniform in its logarithm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low <= 0:
            raise GenomeError(f"gene {self.name!r}: a logarithmic range starts above 0, got low={self.low:g}")

    def to_unit(self, value: float) -> float:
        return math.log(value / self.low) / math.log(self.high / self.low) if self.high > self.low else 0.0

    def from_unit(self, unit: float) -> Value:
        value = self.low * math.exp(unit * math.log(self.high / self.low))
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class Integer(NumericGene):
    """A whole number, both bounds included; ``log=True`` spreads the draws evenly over magnitudes."""

    log: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.log and self.low < 1:
            raise GenomeError(f"gene {self.name!r}: a logarithmic range starts at 1, got low={self.low:g}")

    @property
    def allowed(self) -> str:
        return f"a whole number from {self.low:g} to {self.high:g}"

    def check(self, value: object) -> Value:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise self.refuse(value)
        return value

    def _edges(self) -> tuple[float, float]:
        low, high = self.low - 0.5, self.high + 0.5
        return (math.log(max(low, 0.5)), math.log(high)) if self.log else (low, high)

    def to_unit(self, value: float) -> float:
        low, high = self._edges()
        place = ((math.log(max(value, 0.5)) if self.log else value) - low) / (high - low)
        return min(max(place, 0.0), 1.0)

    def from_unit(self, unit: float) -> Value:
        low, high = self._edges()
        place = low + unit * (high - low)
        value = round(math.exp(place) if self.log else place)
        return int(min(max(value, self.low), self.high))

    def mutate(self, value: Value, generator: np.random.Generator, strength: float) -> Value:
        """As for reals, but never the same value again unless there is no other."""
        changed = super().mutate(value, generator, strength)
        if changed == value and self.low < self.high:
            step = 1 if generator.random() < 0.5 else -1
            moved = int(value) + step  # type: ignore[arg-type]
            changed = moved if self.low <= moved <= self.high else int(value) - step  # type: ignore[arg-type]
        return changed


@dataclass(frozen=True)
class Choice(Gene):
    """One of several options; the first is the default unless ``initial`` says otherwise."""

    options: tuple[Value, ...]
    initial: Value | None = None

    def __post_init__(self) -> None:
        if not self.options:
            raise GenomeError(f"gene {self.name!r}: a choice needs at least one option")
        self.check(self.default)

    @property
    def allowed(self) -> str:
        return "one of " + ", ".join(repr(option) for option in self.options)

    @property
    def default(self) -> Value:
        return self.options[0] if self.initial is None else self.initial

    def check(self, value: object) -> Value:
        if type(value) is str and value in self.options:  # most choices are among words
            return value
        for option in self.options:
            if option == value and isinstance(option, bool) == isinstance(value, bool):
                return option
        raise self.refuse(value)

    def sample(self, generator: np.random.Generator) -> Value:
        return self.options[int(generator.integers(len(self.options)))]

    def mutate(self, value: Value, generator: np.random.Generator, strength: float) -> Value:
        others = [option for option in self.options if option != value]
        return others[int(generator.integers(len(others)))] if others else value


@dataclass(frozen=True)
class Subset(Gene):
    """A set of at least ``min_size`` of the options, kept in the options' order."""

    options: tuple[str, ...]
    initial: tuple[str, ...]
    min_size: int = 1

    def __post_init__(self) -> None:
        self.check(self.initial)

    @property
    def allowed(self) -> str:
        return f"at least {self.min_size} of " + ", ".join(repr(option) for option in self.options)

    @property
    def default(self) -> Value:
        return self.check(self.initial)

    def check(self, value: object) -> Value:
        if isinstance(value, str) or not isinstance(value, tuple | list | set | frozenset):
            raise self.refuse(value)
        if not all(isinstance(option, str) and option in self.options for option in value):
            raise self.refuse(value)
        chosen = set(value)
        if len(chosen) != len(value) or len(chosen) < self.min_size:
            raise self.refuse(value)
        return tuple(option for option in self.options if option in chosen)

    def _at_least(self, chosen: set[str], generator: np.random.Generator) -> Value:
        missing = [option for option in self.options if option not in chosen]
        while len(chosen) < self.min_size:
            chosen.add(missing.pop(int(generator.integers(len(missing)))))
        return tuple(option for option in self.options if option in chosen)

    def sample(self, generator: np.random.Generator) -> Value:
        draws = zip(self.options, generator.random(len(self.options)), strict=True)
        return self._at_least({option for option, draw in draws if draw < 0.5}, generator)

    def mutate(self, value: Value, generator: np.random.Generator, strength: float) -> Value:
        """One option flipped; where that would leave too few, one is exchanged for another."""
        chosen = set(value)  # type: ignore[arg-type]
        flipped = self.options[int(generator.integers(len(self.options)))]
        if flipped not in chosen:
            return self.check(chosen | {flipped})
        others = [option for option in self.options if option not in chosen]
        if len(chosen) - 1 < self.min_size and others:
            chosen.add(others[int(generator.integers(len(others)))])
        return self.check(chosen - {flipped}) if len(chosen) > self.min_size else self.check(chosen)

    def cross(self, a: Value, b: Value, generator: np.random.Generator) -> tuple[Value, Value]:
        """Membership of each option from one parent or the other."""
        first: set[str] = set()
        second: set[str] = set()
        for option in self.options:
            parents = (option in a, option in b)  # type: ignore[operator]
            swap = generator.random() < 0.5
            if parents[swap]:
                first.add(option)
            if parents[not swap]:
                second.add(option)
        return self._at_least(first, generator), self._at_least(second, generator)


def _reflect(unit: float) -> float:
    """Fold a point back into [0, 1] as a mirror would; clipping would heap values on the bounds."""
    folded = math.fmod(abs(unit), 2.0)
    return 2.0 - folded if folded > 1.0 else folded
