"""Files of strangers, and what may come of reading one: a value, or the documented error in one line.

Each target reads bytes as one kind of file and raises AssertionError (or whatever escaped) where something
else happened. Tests give them mutated files, and so does the fuzzer in ``tests/fuzz``.
"""

from __future__ import annotations

import atexit
import json
import shutil
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch

from evometa.campaign.ingredients import Ingredients
from evometa.config import CampaignConfig, config_from_json, config_to_json, load_config
from evometa.errors import ConfigError, EvometaError, GenomeError
from evometa.export import export_genome, load_optimizer
from evometa.genome.codec import (
    METADATA_KEY,
    genome_from_json,
    genome_to_json,
    load_genome,
    signature,
    weights_from_bytes,
    weights_to_bytes,
)
from evometa.genome.genome import Genome
from evometa.registry import without_code
from evometa.rng import torch_generator
from evometa.rules.learner import Learner
from evometa.rules.seeds import load_seeds

ROOT = Path(__file__).parents[2]
#: A refusal is a line for reading, however long the names in the file are.
LONGEST_LINE = 3000


#: Values for any place of a document.
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**53, 2**63, 2**64, 10**400, -0.0, 1e-320, 1e308, 1e400, 0.5),
    *(
        "",
        "\0",
        "\ud800",
        "a\nb",
        "\x1b[2J\u202e",
        "../../x",
        "/dev/zero",
        "~",
        "os:abort",
        "mlp",
        "recurrent",
    ),
    *("cosine", "F32", "F64", "BF16", "F4", "F8_E5M2", "C64", "BOOL", "U64", "x" * 5000, "$\\frac$", "{0}%s"),
    *(
        [],
        {},
        [0, 0],
        [0, 4],
        [4, 0],
        [2**62, 2**62],
        [0, 2**62],
        [1] * 40,
        [1] * 400,
        [-1],
        [1.5],
        ["a", "a"],
    ),
    *({"low": 0}, {"low": 5, "high": 1}, {"options": []}, {"a": {"b": {"c": 1}}}, [[[[[[]]]]]]),
)


@dataclass(frozen=True)
class Target:
    """A kind of file: how it is read, and valid examples of it."""

    read: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


def refusal(read: Callable[[], object], kind: type[EvometaError]) -> str | None:
    """The line of the error of ``kind`` that ``read`` raises, None if it raises nothing; all else escapes."""
    try:
        read()
    except kind as error:
        line = str(error)
        assert len(line.splitlines()) == 1, line
        assert len(line) <= LONGEST_LINE, f"{len(line)} characters: {line[:500]}"
        return line
    return None


@cache
def folder() -> Path:
    """Where the files under test are written; it goes with the process."""
    path = Path(tempfile.mkdtemp(prefix="evometa-strangers-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def placed(name: str, data: bytes) -> Path:
    """A file of that content, alone in a folder."""
    path = folder() / name.partition(".")[0] / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def alone(path: Path) -> None:
    """Nothing was written beside the file."""
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def read_genome_file(data: bytes) -> None:
    """An exported file as it is, and once more under a checksum that fits: a liar computes that as well."""
    for content in (data, signed(data)):
        if content is None:
            continue
        path = placed("genome.safetensors", content)
        before = torch.get_rng_state()
        refusal(lambda path=path: load_genome(path), GenomeError)  # type: ignore[misc]
        refusal(lambda path=path: _trained(path), GenomeError)  # type: ignore[misc]
        assert path.read_bytes() == content
        assert torch.equal(torch.get_rng_state(), before)
        alone(path)


def _trained(path: Path) -> None:
    """One step of the optimizer in a file."""
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    load_optimizer(path, [parameter], horizon=10).step()


def read_weights(data: bytes) -> None:
    """A campaign's blob of weights."""
    refusal(lambda: weights_from_bytes(data), GenomeError)


def read_genome_json(data: bytes) -> None:
    """A genome as JSON: alone, and as a seed of a campaign."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    if refusal(lambda: genome_from_json(text), GenomeError) is None:
        genome, extra = genome_from_json(text)
        assert genome_from_json(genome_to_json(genome, extra=extra)) == (genome, extra)
    path = placed("seed.json", data)
    refusal(lambda: load_seeds([path]), GenomeError)
    alone(path)


def read_toml(data: bytes) -> None:
    """A configuration as a user gives it, up to where tasks would be built."""
    path = placed("study.toml", data)
    if refusal(lambda: load_config(path), ConfigError) is None:
        _kept(load_config(path))
    alone(path)


def read_override(data: bytes) -> None:
    """``--set`` of a text."""
    path = placed("base.toml", b'[[tasks]]\nuse = "quadratic"\n')
    text = data.decode(errors="replace")
    if refusal(lambda: load_config(path, [text]), ConfigError) is None:
        _kept(load_config(path, [text]))


def read_stored_config(data: bytes) -> None:
    """The configuration in a database."""
    text = data.decode(errors="surrogateescape")
    if refusal(lambda: config_from_json(text), ConfigError) is None:
        _kept(config_from_json(text))


def _kept(config: CampaignConfig) -> None:
    """It can be stored and read again, and what it stands for is found or refused; code is not imported."""
    text = config_to_json(config)
    text.encode()
    assert config_from_json(text) == config
    inside = [path for path in config.evolution.seeds if path == "builtin"] == list(config.evolution.seeds)
    if inside:  # a fuzzer's paths lead anywhere
        with without_code("the test"):
            refusal(lambda: Ingredients.of(config), ConfigError)


def parts(data: bytes) -> tuple[bytes, bytes] | None:
    """Header and tensors of a safetensors file; None where its length lies."""
    if len(data) < 8:
        return None
    (length,) = struct.unpack("<Q", data[:8])
    return (data[8 : 8 + length], data[8 + length :]) if 8 + length <= len(data) else None


def joined(header: bytes, tensors: bytes) -> bytes:
    """The safetensors file of both."""
    return struct.pack("<Q", len(header)) + header + tensors


def signed(data: bytes) -> bytes | None:
    """The file with the checksum that its content asks for; None where there is no place for one."""
    found = parts(data)
    if found is None:
        return None
    try:
        header = json.loads(found[0])
        document = json.loads(header["__metadata__"][METADATA_KEY])
        weights = weights_from_bytes(data)
        document.pop("sha256", None)
        document["sha256"] = signature(document, weights)
        header["__metadata__"][METADATA_KEY] = json.dumps(document)
        return joined(json.dumps(header).encode(), found[1])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, GenomeError):
        return None


def lied(data: bytes, draw: Random) -> bytes:
    """A file with one place of its header, or of the genome in it, given another value."""
    found = parts(data)
    try:
        header = json.loads(found[0]) if found else None
        metadata = header["__metadata__"] if isinstance(header, dict) else None
        if isinstance(metadata, dict) and draw.random() < 0.6:
            document = json.loads(metadata[METADATA_KEY])
            metadata[METADATA_KEY] = json.dumps(altered(document, draw))
        elif header is not None:
            header = altered(header, draw)
        if found is not None and header is not None:
            return joined(json.dumps(header).encode(), found[1])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # what was changed before is no JSON any more, or a number too long to be written
    return data


def altered(document: object, draw: Random) -> object:
    """JSON data with one place, drawn, replaced, taken out or put in twice under another name."""
    if not isinstance(document, dict | list) or not document or draw.random() < 0.1:
        return draw.choice(HOSTILE)
    places = list(document) if isinstance(document, dict) else list(range(len(document)))
    place = draw.choice(places)
    child = document[place]  # type: ignore[index]
    changed: Any = document.copy()
    chance = draw.random()
    if isinstance(child, dict | list) and child and chance < 0.8:
        changed[place] = altered(child, draw)
    elif chance < 0.9:
        changed[place] = _nudged(child, draw) if draw.random() < 0.3 else draw.choice(HOSTILE)
    elif chance < 0.95:
        del changed[place]
    elif isinstance(changed, dict):
        changed[str(draw.choice([*HOSTILE, *places]))[:200]] = child
    else:
        changed.append(child)
    return changed


def _nudged(value: object, draw: Random) -> object:
    """Something close to ``value``."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return draw.choice([value + 1, value - 1, -value, value * 2, f"{value}"[:20]])
    return draw.choice([str(value)[:-1], str(value) * 2, str(value).upper(), [value]])


def _exported(family: str, **genes: object) -> tuple[Genome, dict[str, torch.Tensor]]:
    learner = Learner.of(family, genes)  # type: ignore[arg-type]
    weights = learner.init_weights(torch_generator(0, "stranger"))
    return Genome("000-001", family, dict(learner.genes)), weights


@cache
def genome_files() -> list[bytes]:
    """Exported files: without weights, with few, and with a learned schedule."""
    made = []
    for family, genes in (
        ("adam", {}),
        ("mlp", {"hidden": 4}),
        ("recurrent", {"hidden": 4, "layers": 1, "schedule": "recurrent"}),
    ):
        genome, weights = _exported(family, **genes)
        path = folder() / "made.safetensors"
        export_genome(path, genome, weights, horizon=10, provenance={"campaign": "test"})
        made.append(path.read_bytes())
        path.unlink()
    return made


def _tomls() -> list[bytes]:
    """The experiments of this repository, and a configuration that uses every section."""
    files = sorted((ROOT / "experiments").glob("*.toml"))
    return [*(file.read_bytes() for file in files), EVERY_SECTION.encode()]


EVERY_SECTION = """
name = "every"
seed = 1
description = "all of it"
[[tasks]]
use = "quadratic"
n_tasks = 2
horizon = 6
options = { dim = 3, other = [1, 2.5, true, "x"] }
[evolution]
population = 4
families = ["adam", "recurrent"]
seeds = ["builtin"]
mutation_rate = 0.5
[genes]
hidden = 4
lr = { low = 1e-3, high = 0.1 }
cell = { options = ["gru"] }
meta.steps = { high = 3 }
[refinement]
n_tasks = 2
[objectives]
use = ["meta_loss", "flops"]
[final]
n_tasks = 3
[execution]
backend = "inline"
device = "cpu"
timeout_seconds = 1.5
[budget]
inner_steps = 1000
[baseline]
n_points = 3
"""


def _stored_configs() -> list[bytes]:
    return [config_to_json(load_config(placed("study.toml", EVERY_SECTION.encode()))).encode()]


def _genome_jsons() -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / "evometa" / "seed_genomes").glob("*.json"))]


TARGETS = {
    "genome_file": Target(read_genome_file, genome_files),
    "weights": Target(
        read_weights, lambda: [weights_to_bytes(_exported("mlp", hidden=4)[1]), weights_to_bytes({})]
    ),
    "genome_json": Target(read_genome_json, _genome_jsons),
    "toml": Target(read_toml, _tomls),
    "override": Target(
        read_override,
        lambda: [b"evolution.population=64", b'genes."meta.steps"=8', b"tasks.0.options.depth=[1, 2]"],
    ),
    "stored_config": Target(read_stored_config, _stored_configs),
}
