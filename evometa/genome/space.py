"""A search space: an ordered set of genes, some of which are active only under conditions on others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np

from evometa.errors import GenomeError, unknown
from evometa.genome.genes import Choice, Composite, Gene, LogReal, NumericGene, Real, Subset, Value

Genes = Mapping[str, Value]
#: Of a gene, what makes its value: name, conditions, check and default.
_Row = tuple[str, tuple[tuple[str, tuple[Value, ...]], ...], Callable[[object], Value], Value]


@dataclass(frozen=True)
class Space:
    """Genes in order; a gene's condition may name only genes that stand before it."""

    genes: tuple[Gene, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for gene in self.genes:
            if gene.name in seen:
                raise GenomeError(f"gene {gene.name!r} stands twice in a space")
            late = [name for name in gene.when if name not in seen]
            if late:
                raise GenomeError(f"gene {gene.name!r} depends on {late[0]!r}, which is not before it")
            seen.add(gene.name)

    @cached_property
    def _by_name(self) -> dict[str, Gene]:
        """Every genome of a campaign asks for every gene, many times a generation."""
        return {gene.name: gene for gene in self.genes}

    @cached_property
    def _rows(self) -> tuple[_Row, ...]:
        return tuple((gene.name, tuple(gene.when.items()), gene.check, gene.default) for gene in self.genes)

    @cached_property
    def _continuous(self) -> tuple[str, ...]:
        return tuple(gene.name for gene in self.genes if isinstance(gene, Real | LogReal))

    @cached_property
    def _composite(self) -> tuple[Composite, ...]:
        return tuple(gene for gene in self.genes if isinstance(gene, Composite))

    @cached_property
    def _structural(self) -> tuple[str, ...]:
        return tuple(gene.name for gene in self.genes if not isinstance(gene, Real | LogReal))

    @cached_property
    def movable(self) -> tuple[Gene, ...]:
        """The genes that a mutation can change: those that are not held at one value."""
        return tuple(gene for gene in self.genes if not _is_fixed(gene))

    def __iter__(self) -> Iterator[Gene]:
        return iter(self.genes)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Gene:
        if name not in self._by_name:
            raise GenomeError(unknown("gene", name, self.names()))
        return self._by_name[name]

    def names(self) -> list[str]:
        """Gene names in order."""
        return [gene.name for gene in self.genes]

    def note(self, name: str) -> str:
        """What a gene sets, or the gene that a number of :meth:`continuous` stands in."""
        if name in self:
            return self[name].note
        owner = self[name.rpartition(".")[0]]
        return owner.number_note(name) if isinstance(owner, Composite) else owner.note

    def union(self, *others: Iterable[Gene]) -> Space:
        """This space followed by the genes of other spaces; their conditions may name genes of this one."""
        return Space(self.genes + tuple(gene for other in others for gene in other))

    def is_active(self, gene: Gene, values: Genes) -> bool:
        """Whether ``gene`` counts, given the values of the genes before it."""
        for name, options in gene.when.items():  # a loop, since every genome asks for every gene
            if name not in values or values[name] not in options:
                return False
        return True

    def complete(self, values: Genes) -> dict[str, Value]:
        """The active genes in order, checked, with defaults for those not given; inactive ones are dropped.

        Raises GenomeError for a name that is not in the space or a value that is not permitted.
        """
        if not values.keys() <= self._by_name.keys():
            foreign = next(name for name in values if name not in self._by_name)
            raise GenomeError(unknown("gene", foreign, self.names()))
        chosen: dict[str, Value] = {}
        for name, when, check, default in self._rows:
            for other, options in when:  # as in is_active
                if other not in chosen or chosen[other] not in options:
                    break
            else:
                chosen[name] = check(values[name]) if name in values else default
        return chosen

    def shared(self, values: Genes) -> dict[str, Value]:
        """Those of ``values`` whose gene exists here and permits them: what crosses between families."""
        kept: dict[str, Value] = {}
        for name, value in values.items():
            if name in self._by_name:
                try:
                    kept[name] = self._by_name[name].check(value)
                except GenomeError:  # the other family's range is wider: not a shared value
                    continue
        return kept

    def sample(self, generator: np.random.Generator) -> dict[str, Value]:
        """A uniform draw of every active gene."""
        chosen: dict[str, Value] = {}
        for gene in self.genes:
            value = gene.sample(generator)  # drawn even when inactive: a condition must not shift the stream
            if self.is_active(gene, chosen):
                chosen[gene.name] = value
        return chosen

    def continuous(self, values: Genes) -> dict[str, float]:
        """The active real-valued genes, and the numbers inside others: what may differ inside one cohort."""
        found = {
            name: float(values[name])  # type: ignore[arg-type]
            for name in self._continuous
            if name in values
        }
        for gene in self._composite:
            if gene.name in values:
                found.update(gene.numbers(values[gene.name]))
        return found

    def structural(self, values: Genes) -> tuple[tuple[str, Value], ...]:
        """The active integer, choice and subset genes: what two genomes of one cohort must share.

        Of genes with numbers inside, their skeletons.
        """
        found = tuple((name, values[name]) for name in self._structural if name in values)
        if not self._composite:
            return found
        skeletons = {gene.name: gene.skeleton for gene in self._composite}
        return tuple((name, skeletons[name](v) if name in skeletons else v) for name, v in found)

    def restricted(self, limits: Mapping[str, object]) -> Space:
        """This space with some genes held at one value or narrowed.

        ``limits`` maps a gene's name to a value, to ``{"low": …, "high": …}`` for numeric genes, or to
        ``{"options": […]}`` for choices and subsets. Names that are not in the space are ignored, because
        a campaign limits the genes of several families at once. Genes with numbers inside have limits of
        their own. Raises GenomeError for what the gene does not permit.
        """
        return Space(
            tuple(_limited(gene, limits[gene.name]) if gene.name in limits else gene for gene in self)
        )


def switched(switch: str, members: Mapping[str, Iterable[Gene]]) -> list[Gene]:
    """Genes of alternatives, each active when gene ``switch`` has the name of a member that has it.

    Members may share a gene: it must be declared alike and without a condition on ``switch``. Raises
    GenomeError where two members declare a gene differently.
    """
    first: dict[str, Gene] = {}
    owners: dict[str, list[Value]] = {}
    for name, genes in members.items():
        for gene in genes:
            if first.setdefault(gene.name, gene) != gene:
                raise GenomeError(f"gene {gene.name!r} is declared differently by two values of {switch!r}")
            owners.setdefault(gene.name, []).append(name)
    return [replace(gene, when={switch: tuple(owners[gene.name]), **gene.when}) for gene in first.values()]


def _limited(gene: Gene, limit: object) -> Gene:
    """``gene`` held or narrowed; its kind stays, since continuous genes reach a rule as numbers."""
    if not isinstance(limit, Mapping):
        return _held(gene, gene.check(limit))
    if not limit:
        raise GenomeError(f"gene {gene.name!r}: got {{}}, expected a value, {{low, high}} or {{options}}")
    if isinstance(gene, Composite):
        return gene.narrowed(limit)
    if isinstance(gene, NumericGene):
        _only_keys(gene, limit, ("low", "high"))
        match limit.get("low"), limit.get("high"):
            case (int() | float() as low, int() | float() as high) if low > high:
                raise GenomeError(f"gene {gene.name!r}: low {low!r} is above high {high!r}")
        low = cast(float, gene.check(limit.get("low", gene.low)))
        high = cast(float, gene.check(limit.get("high", gene.high)))
        return replace(gene, low=low, high=high, initial=min(max(gene.initial, low), high))
    _only_keys(gene, limit, ("options",))
    options = limit.get("options")
    if not isinstance(options, list | tuple) or not options:
        raise GenomeError(f"gene {gene.name!r}: options is {options!r}, expected a list: {gene.allowed}")
    if isinstance(gene, Subset):
        kept = cast(tuple[str, ...], gene.check(options))
        initial = tuple(option for option in gene.initial if option in kept)
        return replace(gene, options=kept, initial=initial if len(initial) >= gene.min_size else kept)
    if isinstance(gene, Choice):
        allowed = tuple(dict.fromkeys(gene.check(option) for option in options))
        return replace(gene, options=allowed, initial=gene.default if gene.default in allowed else allowed[0])
    raise GenomeError(f"gene {gene.name!r} cannot be narrowed")


def _is_fixed(gene: Gene) -> bool:
    """Whether a gene is held at one value (frozen by the campaign's config)."""
    if isinstance(gene, NumericGene):
        return gene.low == gene.high
    if isinstance(gene, Subset):
        return len(gene.options) == gene.min_size
    if isinstance(gene, Composite):
        return gene.is_fixed
    return isinstance(gene, Choice) and len(gene.options) == 1


def _only_keys(gene: Gene, limit: Mapping[str, object], known: tuple[str, ...]) -> None:
    for key in limit:
        if key not in known:
            raise GenomeError(f"gene {gene.name!r}: {unknown('limit', key, known)}")


def _held(gene: Gene, value: Value) -> Gene:
    if isinstance(gene, Composite):
        return gene.held(value)
    if isinstance(gene, NumericGene):
        number = cast(float, value)
        return replace(gene, low=number, high=number, initial=number)
    if isinstance(gene, Subset):
        options = cast(tuple[str, ...], value)
        return replace(gene, options=options, initial=options, min_size=len(options))
    return Choice(gene.name, (value,), when=gene.when, note=gene.note)
