"""Seed genomes: JSON files of hand-chosen genes with which a campaign's first generation starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evometa.errors import EvometaError, GenomeError, one_line, quoted, unknown
from evometa.genome.codec import genome_from_json, require_regular
from evometa.genome.genome import Genome
from evometa.rules.learner import Learner
from evometa.rules.registry import RULES

#: Stands for the seed genomes that come with evometa.
BUILTIN = "builtin"
#: In a checkout a link to ``populations/seeds``, in an installation a copy of it.
_SHIPPED = Path(__file__).parents[1] / "seed_genomes"


def load_seeds(paths: Sequence[Path]) -> list[Genome]:
    """The genomes of JSON files; a folder stands for all ``*.json`` in it, :data:`BUILTIN` for those shipped.

    Genes that a file leaves out get their defaults; ``meta.…`` genes are passed on unchecked, since they
    belong to another level. Raises GenomeError naming the file that is missing or wrong.
    """
    return [_load_seed(file) for path in paths for file in _files(path)]


def _files(path: Path) -> list[Path]:
    if str(path) == BUILTIN:
        path = _SHIPPED
    if not os.path.isdir(path):  # Path.is_dir raises for a path that the system cannot look up
        return [path]
    files = sorted(path.glob("*.json"))
    if not files:
        raise GenomeError(f"{path}: holds no seed genome; expected at least one .json file")
    return files


def _load_seed(path: Path) -> Genome:
    try:
        require_regular(path, path.stat().st_mode)  # /dev/zero has no end
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path with a null character
        raise GenomeError(f"{one_line(str(path))}: cannot read the seed genome ({error})") from error
    genome, _ = genome_from_json(text, source=str(path))
    blob = genome.weights or genome.germline
    if blob is not None:
        raise GenomeError(f"{path}: a seed genome has no weights, but this one names {quoted(blob)}")
    if genome.family not in RULES:
        # A name such as pkg.module:attribute would import code: a file is data, only a config may do that.
        raise GenomeError(f"{path}: {unknown('rule', genome.family, RULES.names())}")
    try:
        own = dict(Learner.of(genome.family, genome.genes).genes)
    except EvometaError as error:
        raise GenomeError(f"{path}: {error}") from error
    other = {name: value for name, value in genome.genes.items() if name.startswith("meta.")}
    return replace(genome, genes={**own, **other}, name=genome.name or path.stem)
