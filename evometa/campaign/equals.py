"""Children that would make the updates of a genome that is there already: they are not evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from evometa.campaign.lifetime import WeightBank, candidate_of
from evometa.execution import Executor, Fingerprints, FingerprintUnit
from evometa.genome.genome import Genome
from evometa.inner.fingerprint import by_rule, ingredients_hash, is_probed


def functional_hashes(
    genomes: Sequence[Genome], bank: WeightBank, horizons: Iterable[int], executor: Executor
) -> dict[str, str]:
    """By genome id what :mod:`evometa.inner.fingerprint` hashes; what cannot be tried out is missing."""
    candidates = [candidate_of(genome, bank) for genome in genomes]
    hashes = {
        genome.id: ingredients_hash(candidate, genome.weights)
        for genome, candidate in zip(genomes, candidates, strict=True)
        if not is_probed(candidate)
    }
    probed = [candidate for candidate in candidates if candidate.id not in hashes]
    lengths = tuple(sorted(set(horizons)))
    units = [
        FingerprintUnit(tuple(probed[index] for index in group), lengths)
        for group in by_rule(probed).values()
    ]
    for result in executor.run(units):
        if isinstance(result.value, Fingerprints):
            own = zip(result.unit.candidates, result.value.hashes, strict=True)
            hashes.update((candidate.id, found) for candidate, found in own)
    return hashes


def without_equals(
    children: Sequence[Genome], hashes: Mapping[str, str], known: Iterable[str]
) -> list[Genome]:
    """The first of ``children`` with each of ``hashes`` (by id) that is not among those ``known``."""
    taken = set(known)
    fresh = []
    for child in children:
        own = hashes.get(child.id)
        if own is None or own not in taken:
            fresh.append(child)
        if own is not None:
            taken.add(own)
    return fresh
