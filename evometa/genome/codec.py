"""Genome ↔ JSON, and genome with weights ↔ one safetensors file. Nothing here unpickles.

The file's metadata holds the genome under the key ``evometa.genome``; the tensors are its weights. A
SHA-256 over both stands inside the JSON (safetensors writes several metadata keys in random order, and
equal genomes shall give equal files). The version counts changes of the JSON's meaning: a reader refuses
what is newer than itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import reprlib
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from evometa.errors import GenomeError, clipped, quoted
from evometa.genome.genes import Value
from evometa.genome.genome import Genome, Lineage
from evometa.trees import Tree

FORMAT = "evometa.genome"
VERSION = 1
METADATA_KEY = "evometa.genome"

Kind = TypeVar("Kind")
Default = TypeVar("Default")


def genome_to_json(genome: Genome, *, extra: Mapping[str, object] | None = None) -> str:
    """The genome as readable JSON; ``extra`` adds facts that travel with it (the trained horizon).

    Raises GenomeError for what JSON cannot carry: NaN, infinities, broken Unicode, foreign types.
    """
    document: dict[str, object] = {
        "format": FORMAT,
        "version": VERSION,
        "id": genome.id,
        "name": genome.name,
        "family": genome.family,
        "genes": {k: list(v) if isinstance(v, tuple) else v for k, v in genome.genes.items()},
        "weights": genome.weights,
        "germline": genome.germline,
        "lineage": {
            "parents": list(genome.lineage.parents),
            "operator": genome.lineage.operator,
            "generation": genome.lineage.generation,
            "weights": genome.lineage.weights,
        },
    }
    if extra:
        document["extra"] = dict(extra)
    return _to_json(document, f"genome {genome.id!r}")


def genome_from_json(text: str, *, source: str = "genome") -> tuple[Genome, dict[str, object]]:
    """The genome and its extra facts. Raises GenomeError naming ``source`` and what is wrong.

    Gene *values* are checked against the family's search space by whoever knows the families.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GenomeError(f"{source}: not JSON ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise GenomeError(f'{source}: not an evometa genome (its "format" is not {FORMAT!r})')
    _check_version(document.get("version"), source)
    genes: dict[str, object] = _required(document, "genes", dict, source)
    lineage: dict[str, object] = _optional(document, "lineage", dict, source, {})
    extra: dict[str, object] = _optional(document, "extra", dict, source, {})
    genome = Genome(
        id=_required(document, "id", str, source),
        family=_required(document, "family", str, source),
        genes={name: _gene_value(name, value, source) for name, value in genes.items()},
        weights=_optional(document, "weights", str, source, None),
        germline=_optional(document, "germline", str, source, None),
        lineage=Lineage(
            parents=_strings(lineage, "parents", source),
            operator=_optional(lineage, "operator", str, source, "seed"),
            generation=_optional(lineage, "generation", int, source, 0),
            weights=_optional(lineage, "weights", str, source, "none"),
        ),
        name=_optional(document, "name", str, source, ""),
    )
    _to_json(document, source)  # what was read can be written again
    return genome, extra


def weights_to_bytes(weights: Tree) -> bytes:
    """Weights as safetensors bytes, names sorted, on the CPU; equal weights give equal bytes."""
    return _saved(_detached(weights))


def weights_from_bytes(data: bytes, *, source: str = "weights") -> Tree:
    """The inverse of :func:`weights_to_bytes`, names sorted. Raises GenomeError naming ``source``.

    safetensors hands tensors out in random order, in which sums over them would differ in the last digit.
    """
    try:
        return dict(sorted(safetensors.torch.load(data).items()))
    except safetensors.SafetensorError as error:
        raise GenomeError(f"{source}: not readable as safetensors ({_reason(error)})") from error
    except KeyError as error:  # what safetensors raises for a dtype it cannot map to torch
        raise GenomeError(f"{source}: holds numbers of the unsupported type {_reason(error)}") from error


def content_hash(data: bytes) -> str:
    """SHA-256 in hexadecimal: the name of a weights blob."""
    return hashlib.sha256(data).hexdigest()


def save_genome(
    path: Path, genome: Genome, weights: Tree, *, extra: Mapping[str, object] | None = None
) -> None:
    """Write genome and weights as one safetensors file; an existing file is replaced in one step.

    A symbolic link stays, and the file it leads to is written. Raises GenomeError where something stands
    that is not a regular file (a directory, a device, a pipe), OSError where the disk refuses.
    """
    target = Path(os.path.realpath(path))
    with suppress(FileNotFoundError):
        require_regular(path, target.stat().st_mode)
    tensors = _detached(weights)
    document = json.loads(genome_to_json(genome, extra=extra))
    document["sha256"] = signature(document, tensors)
    data = _saved(tensors, {METADATA_KEY: _to_json(document, str(path))})
    partial = target.with_name(target.name + ".partial")
    try:
        partial.write_bytes(data)
        partial.replace(target)
    except OSError:  # as on a full disk, where what is there of it is in the way
        partial.unlink(missing_ok=True)
        raise


def load_genome(path: Path) -> tuple[Genome, Tree, dict[str, object]]:
    """Genome, weights and extra facts of a file written by :func:`save_genome`.

    Raises GenomeError for a missing, truncated, damaged or foreign file and for a newer version.
    """
    try:
        require_regular(path, path.stat().st_mode)
    except FileNotFoundError as error:
        raise GenomeError(f"{path}: no such file") from error
    except OSError as error:
        raise GenomeError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            # cloned, because get_tensor may map the file: it can change or shrink after it was read
            weights = {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
    except (safetensors.SafetensorError, OSError) as error:
        raise GenomeError(
            f"{path}: not readable as safetensors, truncated or foreign ({_reason(error)})"
        ) from error
    if METADATA_KEY not in metadata:
        raise GenomeError(f"{path}: a safetensors file, but without an evometa genome in its metadata")
    genome, extra = genome_from_json(metadata[METADATA_KEY], source=str(path))
    document = json.loads(metadata[METADATA_KEY])
    if document.pop("sha256", None) != signature(document, weights):
        raise GenomeError(f"{path}: damaged, its content does not match its checksum; export it again")
    return genome, weights, extra


def _reason(error: Exception) -> str:
    """What safetensors says, which may quote the file: in one line that has an end."""
    return clipped(" ".join(str(error).split()))


def require_regular(path: Path, mode: int) -> None:
    """Raise GenomeError where a file of this ``mode`` is a device, a pipe or a directory."""
    if stat.S_ISDIR(mode):
        raise GenomeError(f"{path}: is a directory, expected the name of a file")
    if not stat.S_ISREG(mode):
        raise GenomeError(f"{path}: is a device, pipe or socket, expected the name of a regular file")


def _detached(weights: Tree) -> Tree:
    """Names sorted, each tensor with memory of its own: safetensors refuses tensors that share some."""
    return {name: weights[name].detach().cpu().clone().contiguous() for name in sorted(weights)}


def _saved(tensors: Tree, metadata: dict[str, str] | None = None) -> bytes:
    """What safetensors makes of :func:`_detached` weights; through NumPy, which is five times as quick."""
    try:
        arrays = {name: value.numpy() for name, value in tensors.items()}
    except TypeError:  # a type that NumPy lacks, such as bfloat16
        return safetensors.torch.save(tensors, metadata)
    return safetensors.numpy.save(arrays, metadata)


def signature(document: Mapping[str, object], weights: Tree) -> str:
    """A file's checksum: SHA-256 over the genome's JSON and every tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(json.dumps(document).encode())
    for name in sorted(weights):
        value = weights[name]
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _to_json(document: dict[str, object], source: str) -> str:
    try:
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        text.encode()  # lone surrogates pass json, but no file can hold them
    except (ValueError, TypeError, RecursionError) as error:
        raise GenomeError(f"{source}: holds a value that JSON cannot carry ({error})") from error
    return text


def _check_version(version: object, source: str) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise GenomeError(
            f"{source}: version is {reprlib.repr(version)}, expected a whole number from 1 to {VERSION}"
        )
    if version > VERSION:
        raise GenomeError(
            f"{source}: written by a newer evometa (genome version {version}, this one reads up to "
            f"{VERSION}); upgrade with 'pip install --upgrade evometa'"
        )


def _optional(
    document: Mapping[str, object], key: str, kind: type[Kind], source: str, default: Default
) -> Kind | Default:
    """The entry ``key``, of type ``kind``; a JSON null counts as absent."""
    value = document.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise GenomeError(f"{source}: {key!r} is {type(value).__name__}, expected {kind.__name__}")
    return value


def _required(document: Mapping[str, object], key: str, kind: type[Kind], source: str) -> Kind:
    value = _optional(document, key, kind, source, None)
    if value is None:
        raise GenomeError(f"{source}: {key!r} is missing")
    return value


def _strings(document: Mapping[str, object], key: str, source: str) -> tuple[str, ...]:
    values: list[object] = _optional(document, key, list, source, [])
    strings = tuple(value for value in values if isinstance(value, str))
    if len(strings) < len(values):
        raise GenomeError(f"{source}: {key!r} holds something that is not a string")
    return strings


def _gene_value(name: str, value: object, source: str) -> Value:
    if isinstance(value, float) and not math.isfinite(value):
        raise GenomeError(f"{source}: gene {quoted(name)} is {value}, expected a finite number")
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise GenomeError(f"{source}: gene {quoted(name)} has a value of type {type(value).__name__}")
