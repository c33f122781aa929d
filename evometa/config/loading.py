"""Reads campaign configurations: a TOML file with overrides, or the JSON stored with a campaign."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

from pydantic import TypeAdapter, ValidationError

from evometa.config.problems import KeyPath, dotted, explain, not_allowed
from evometa.config.sections import CampaignConfig, GeneLimit
from evometa.errors import ConfigError, clipped, closest

Read = TypeVar("Read")
_LIMITS = frozenset(get_args(GeneLimit))
#: Bounds on what a file may hold: deeper tables and longer numbers exhaust the parsers behind it.
_MAX_DEPTH = 64
_MAX_BITS = 1024


class Form(Generic[Read]):
    """What a document must be: a frozen dataclass, of which pydantic tells what is wrong."""

    def __init__(self, kind: type[Read]) -> None:
        self.adapter: TypeAdapter[Read] = TypeAdapter(kind)
        self.schema = self.adapter.json_schema()


_CAMPAIGN = Form(CampaignConfig)


def load_config(path: str | Path, overrides: Sequence[str] = (), name: str | None = None) -> CampaignConfig:
    """The configuration in a TOML file with ``overrides`` such as ``"evolution.population=64"`` put on top.

    The value of an override is read as TOML, or as bare text where it is not TOML; later ones win. ``name``
    overrides the campaign's name, which else is the file's stem where the file gives none.
    Raises ConfigError, one line: file, key, what was given, what is allowed, the closest valid key.
    """
    path = Path(path)
    document = _read_toml(path)
    document.setdefault("name", path.stem)
    _name_genes(document)
    changes = [(_override(text, document, path), f"--set {clipped(text)}") for text in overrides]
    if name is not None:
        document["name"] = name
        changes.append((("name",), f"--name {name}"))
    _name_genes(document)
    return _validated(document, _source(path, changes), _CAMPAIGN)


def load_form(path: Path, overrides: Sequence[str], form: Form[Read]) -> Read:
    """As :func:`load_config`, of a file that is no campaign's."""
    document = _read_toml(path)
    changes = [(_override(text, document, path), f"--set {clipped(text)}") for text in overrides]
    return _validated(document, _source(path, changes), form)


def _source(path: Path, changes: Sequence[tuple[KeyPath, str]]) -> Callable[[KeyPath], str]:
    """Where the value of a key comes from: the file, or the latest of ``changes`` to it."""

    def source(place: KeyPath) -> str:
        for changed, text in reversed(changes):
            if all(a == b for a, b in zip(changed, place, strict=False)):
                return f"{path} with {text}"
        return str(path)

    return source


def config_to_json(config: CampaignConfig) -> str:
    """The fully resolved configuration as JSON; :func:`config_from_json` gives back an equal one."""
    return json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False, allow_nan=False)


def config_from_json(text: str, source: str = "stored configuration") -> CampaignConfig:
    """The inverse of :func:`config_to_json`. Raises ConfigError, one line that starts with ``source``."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{source}:{error.lineno}: not valid JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: {_beyond_parser(error)}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{source}: not a configuration, which is a JSON object")
    return _validated(document, lambda _: source, _CAMPAIGN)


def _validated(document: object, source: Callable[[KeyPath], str], form: Form[Read]) -> Read:
    for place, leaf in _leaves(document):
        flaw = _flaw(place, leaf, form.schema)
        if flaw:
            raise ConfigError(f"{source(place)}: {flaw}")
    try:
        return form.adapter.validate_json(json.dumps(document))
    except ValidationError as error:
        place, problem = explain(error, document, form.schema)
        raise ConfigError(f"{source(place)}: {problem}") from error


def _flaw(place: KeyPath, leaf: object, schema: dict[str, Any]) -> str | None:
    """What is wrong with a value whatever its key: TOML has it and JSON has not, or it is beyond bounds."""
    match leaf:
        case dict() | list():
            return f"{place[0]} is nested more than {_MAX_DEPTH} levels deep; flatten it"
        case int() if leaf.bit_length() > _MAX_BITS:
            return f"{dotted(place)} is a whole number beyond 2^{_MAX_BITS}; give a smaller one"
        case float() if not math.isfinite(leaf):
            return not_allowed(place, leaf, schema)
        case datetime.date() | datetime.time():
            return not_allowed(place, leaf, schema)
    return None


def _leaves(value: object, place: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    """The values in tables and lists with their key paths; what is nested too deeply comes as a whole."""
    children: Iterable[tuple[str | int, object]]
    if len(place) > _MAX_DEPTH:
        yield place, value
        return
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    else:
        yield place, value
        return
    for part, child in children:
        yield from _leaves(child, (*place, part))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(_missing_file(path)) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a TOML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not text in UTF-8 (byte {error.start}); give a TOML file") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r" \(at line (\d+), column \d+\)$", str(error))
        line = at[1] if at else text.count("\n") + 1
        problem = clipped(str(error).partition(" (at ")[0])
        raise ConfigError(f"{path}:{line}: not valid TOML: {problem}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {_beyond_parser(error)}") from error


def _beyond_parser(error: ValueError | RecursionError) -> str:
    """What is wrong with a document that is well-formed, yet more than Python's parsers take."""
    if isinstance(error, RecursionError):
        return f"nested too deeply to be read; at most {_MAX_DEPTH} levels are allowed"
    return f"holds a whole number too long to be read; at most 2^{_MAX_BITS} is allowed"


def _missing_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f"{path}: there is no folder {str(path.parent)!r}"
    there = sorted(file.name for file in path.parent.glob("*.toml"))
    near = closest(path.name, there)
    hint = f"; did you mean {path.with_name(near)}?" if near else ""
    return f"{path}: no such file{hint} (TOML files in that folder: {', '.join(there) or 'none'})"


def _override(text: str, document: dict[str, Any], path: Path) -> KeyPath:
    """Puts one ``KEY=VALUE`` into ``document``; returns the path of what changed."""
    key, equals, value = text.partition("=")
    parts = _key_parts(key)
    if not equals or not parts:
        raise ConfigError(f"--set {clipped(text)}: write KEY=VALUE, as in --set evolution.population=64")
    *parents, last = _with_gene_name(parts)
    place: KeyPath = ()
    node: Any = document
    for part in parents:
        step = _step(node, part, place, f"{path} with --set {clipped(text)}")
        child = node[step] if isinstance(step, int) else node.get(step)
        if not isinstance(child, dict | list):
            child = node[step] = {}  # was absent, or a plain value: validation says what is allowed there
        node, place = child, (*place, step)
    step = _step(node, last, place, f"{path} with --set {clipped(text)}")
    node[step] = _override_value(value)
    return (*place, step)


def _name_genes(document: dict[str, Any]) -> None:
    """Makes ``meta.steps = 8`` in ``[genes]``, to TOML a table in a table, the gene named ``meta.steps``."""

    def named(genes: dict[str, Any], prefix: str) -> Iterator[tuple[str, object]]:
        for key, value in genes.items():
            is_table = isinstance(value, dict) and value and not value.keys() & _LIMITS
            if is_table and prefix.count(".") < _MAX_DEPTH:
                yield from named(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    if isinstance(document.get("genes"), dict):
        document["genes"] = dict(named(document["genes"], ""))


def _with_gene_name(parts: list[str]) -> list[str]:
    """``genes.meta.steps.low`` → genes, meta.steps, low; other keys as they are."""
    if parts[0] != "genes" or len(parts) < 3:
        return parts
    limits = parts[-1:] if parts[-1] in _LIMITS else []
    return ["genes", ".".join(parts[1 : len(parts) - len(limits)]), *limits]


def _step(node: object, part: str, place: KeyPath, source: str) -> str | int:
    """``part`` of a key as what indexes ``node``: an entry's number where it is a list."""
    if not isinstance(node, list):
        return part
    if not part.isdecimal() or int(part) >= len(node):
        entries = ", ".join(dotted((*place, index)) for index in range(len(node))) or "none"
        raise ConfigError(f"{source}: {dotted(place)} is a list; name one of its entries ({entries})")
    return int(part)


def _key_parts(key: str) -> list[str]:
    """The parts of a key such as ``evolution.population``, by TOML's rules; [] where it is no key."""
    try:
        node: object = tomllib.loads(f"{key} = 0")
    except (ValueError, RecursionError):
        return []
    parts = []
    while isinstance(node, dict) and len(node) == 1:
        ((part, node),) = node.items()
        parts.append(part)
    return parts if node == 0 else []


def _override_value(text: str) -> object:
    try:
        document = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text.strip()
    return document["value"] if len(document) == 1 else text
