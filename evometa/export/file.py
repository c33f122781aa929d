"""The exported file: a genome and all that belongs to it, checked when written and read."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from evometa.errors import GenomeError, UnknownNameError, unknown
from evometa.export.checks import is_horizon
from evometa.genome.codec import load_genome, require_regular, save_genome
from evometa.genome.genome import Genome
from evometa.rules.initialisation import by_tensor, model_of
from evometa.rules.learner import Learner
from evometa.rules.registry import RULES
from evometa.trees import Tree

#: What a file's extra facts call the bench card.
_CARD = "bench_card"

#: Types that weights may come in; the optimizer computes in float32 or float64 all the same.
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

#: Bytes of a bench card at most; one that ``evometa bench`` writes has a few thousand.
MOST_OF_CARD = 2**16


@dataclass(frozen=True)
class Exported:
    """What an exported file holds.

    Attributes:
        weights: the genome's weights φ; {} where nothing is learned. Those of an initialisation are there for
            each tensor of the model, see :func:`~evometa.rules.initialisation.by_tensor`.
        horizon: planned number of inner steps the genome was evolved for; None where the file names none.
        provenance: where it comes from, plain JSON data; a stranger's words.
        card: its bench card, a Markdown page; a stranger's words too, None where there is none.
    """

    genome: Genome
    weights: Tree
    horizon: int | None
    provenance: Mapping[str, object]
    card: str | None


def export_genome(
    path: Path,
    genome: Genome,
    weights: Tree,
    *,
    horizon: int,
    provenance: Mapping[str, object],
    card: str | None = None,
) -> None:
    """Write one safetensors file that :func:`~evometa.export.optimizer.load_optimizer` reads.

    Args:
        path: the file; it is replaced if it exists (a link to it stays), its directory must exist.
        weights: the genome's weights φ as in :class:`Exported`; {} where nothing is learned.
        horizon: planned number of inner steps the genome was evolved for.
        provenance: where it comes from (campaign, versions, objective values), plain JSON data.
        card: its bench card, a Markdown page.

    Raises GenomeError for a genome or weights that could not be loaded again, and where no file can be
    written.
    """
    _check_whole(genome, weights)
    extra: dict[str, object] = {"horizon": _checked_horizon(horizon), "provenance": dict(provenance)}
    if card is not None:
        extra[_CARD] = card
    try:
        if not path.parent.is_dir():
            raise GenomeError(f"{path}: the directory {str(path.parent)!r} does not exist; create it first")
        save_genome(path, genome, weights, extra=extra)
    except OSError as error:
        raise GenomeError(f"{path}: cannot be written ({error.strerror})") from error


def read_export(path: Path) -> Exported:
    """What an exported file holds, its genome, weights and horizon checked.

    Raises GenomeError naming the file for one that is missing, damaged, foreign or from a newer version,
    and for a genome that is not complete, or a genome or weights that this version does not know.
    """
    genome, weights, extra = load_genome(path)
    try:
        _check_whole(genome, weights)
        horizon = None if "horizon" not in extra else _checked_horizon(extra["horizon"])
    except GenomeError as error:
        raise GenomeError(f"{path}: {error}") from error
    provenance, card = extra.get("provenance"), extra.get(_CARD)
    return Exported(
        genome,
        weights,
        horizon,
        provenance if isinstance(provenance, dict) else {},
        card if isinstance(card, str) else None,
    )


def read_card(path: Path) -> str:
    """The bench card in a file of its own, as ``evometa bench`` writes it.

    Raises GenomeError for a file that is missing or cannot be read, or is no text of MOST_OF_CARD bytes.
    """
    try:
        require_regular(path, path.stat().st_mode)
        with path.open("rb") as file:
            data = file.read(MOST_OF_CARD + 1)
    except OSError as error:
        raise GenomeError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > MOST_OF_CARD:
        raise GenomeError(f"{path}: longer than {MOST_OF_CARD:,} bytes, expected a card of 'evometa bench'")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise GenomeError(f"{path}: not text in UTF-8, expected a card of 'evometa bench'") from error


def attach_card(path: Path, card: str) -> None:
    """Write a bench card, a Markdown page, into an exported file; one that is there is replaced.

    Genome, weights and provenance stay what they are. Raises GenomeError as :func:`read_export` does, and
    where the file cannot be written.
    """
    read_export(path)
    genome, weights, extra = load_genome(path)
    try:
        save_genome(path, genome, weights, extra={**extra, _CARD: card})
    except OSError as error:
        raise GenomeError(f"{path}: cannot be written ({error.strerror})") from error


def planned_horizon(path: str | Path, horizon: int | None, trained: int | None) -> int:
    """The number of steps the user plans, or that of the file; raises ValueError where neither says one."""
    steps = trained if horizon is None else horizon
    if steps is None:
        raise ValueError(f"{path} names no trained horizon; say how many steps you plan with horizon=…")
    return steps


def learner_of(genome: Genome) -> Learner:
    """The learner of a genome from a file. Raises GenomeError for an unknown family or wrong genes.

    Only registered families will do: a name like ``pkg.module:attribute`` imports code, and a file from
    elsewhere must not choose what is imported.
    """
    if genome.family not in RULES:
        hint = "; register it through the entry-point group 'evometa.rules'" if ":" in genome.family else ""
        raise GenomeError(unknown("rule", genome.family, RULES.names()) + hint)
    try:
        return Learner.of(genome.family, genome.genes)
    except UnknownNameError as error:  # an installed plug-in that cannot be imported
        raise GenomeError(str(error)) from error


def check_weights(learner: Learner, weights: Tree) -> None:
    """Raise GenomeError unless ``weights`` are those of ``learner``: names, shapes, finite real numbers."""
    expected = _expected(learner, weights)
    for name, fresh in expected.items():
        if name not in weights:
            raise GenomeError(f"weights {name!r} are missing, expected shape {tuple(fresh.shape)}")
        value = weights[name]
        if value.shape != fresh.shape:
            raise GenomeError(
                f"weights {name!r} have shape {reprlib.repr(tuple(value.shape))}, "
                f"expected {tuple(fresh.shape)}"
            )
        if value.dtype not in _DTYPES:
            allowed = ", ".join(str(dtype) for dtype in _DTYPES)
            raise GenomeError(f"weights {name!r} are {value.dtype}, expected one of {allowed}")
        if not torch.isfinite(value).all():
            raise GenomeError(f"weights {name!r} hold NaN or infinity")
    for name in weights:
        if name not in expected:
            raise GenomeError(unknown("weights", name, expected))


def _expected(learner: Learner, weights: Tree) -> Tree:
    """Weights of the right names and shapes; an initialisation may be for any model, which its shapes say."""
    if learner.initialisation is None:
        return learner.init_weights(torch.Generator())
    model = model_of(weights)
    if not model.segments:
        raise GenomeError("weights 'init.params.0' are missing, those of the model's first tensor")
    start = torch.zeros(model.size)
    return by_tensor(learner.init_weights(torch.Generator(), start), model)


def _check_whole(genome: Genome, weights: Tree) -> None:
    """Raise GenomeError unless a file of both says all about the optimizer.

    A default filled in for a missing gene would be another optimizer than the one that was exported.
    """
    learner = learner_of(genome)
    missing = [name for name, _ in learner.genes if name not in genome.genes]
    if missing:
        raise GenomeError(f"gene {missing[0]!r} is missing; it must be {learner.space[missing[0]].allowed}")
    check_weights(learner, weights)


def _checked_horizon(horizon: object) -> int:
    if not is_horizon(horizon):
        raise GenomeError(f"horizon is {reprlib.repr(horizon)}, expected a whole number of steps from 1")
    return cast(int, horizon)
