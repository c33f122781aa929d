"""One plain line for whatever is wrong with a configuration, worked out from the JSON schema of its sections.

A *key path* is the way to a value through tables and lists, ``("tasks", 0, "horizon")``; people see and
write it as ``tasks.0.horizon``.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import ValidationError

from evometa.errors import clipped, closest

KeyPath = tuple[str | int, ...]
Schema = Mapping[str, Any]

_LONGEST_VALUE = 60


def dotted(path: KeyPath) -> str:
    """A key path as people write it; a part is cut where it is long."""
    return ".".join(clipped(str(part), _LONGEST_VALUE) for part in path)


def shown(value: object) -> str:
    """A value as TOML would have it (but for tables), cut where it is long."""
    is_plain = isinstance(value, float | datetime.date | datetime.time)
    text = str(value) if is_plain else json.dumps(value, ensure_ascii=False, default=str)
    return clipped(text, _LONGEST_VALUE)


def explain(error: ValidationError, document: object, schema: Schema) -> tuple[KeyPath, str]:
    """Where the first problem of ``document`` lies, and what to say about it.

    Unknown keys go first: a misspelt key is often why another one is missing.
    """
    problems = error.errors(include_url=False)
    unknown = [problem for problem in problems if problem["type"] == "unexpected_keyword_argument"]
    problem = (unknown or problems)[0]
    location: KeyPath = problem["loc"]
    if unknown:
        return location, _unknown_key(location, problem["input"], schema)
    limit = next((problem["loc"] for problem in problems if problem["loc"][-1:] == ("[key]",)), None)
    if limit is not None:
        table, entries = _part_of(document, limit)
        place = (*table, limit[-2])
        return place, _unknown_key(place, cast(dict[object, object], entries)[limit[-2]], schema)
    if problem["type"] == "json_invalid":  # half a character, which Python's JSON lets pass
        return (), f"cannot be read ({clipped(problem['msg'])})"
    if problem["type"] == "missing":
        return location, f"{dotted(location)} is missing: it must be {allowed(location, schema)}"
    if problem["type"] == "value_error":
        return location, f"{dotted(location)}.{clipped(str(problem['ctx']['error']))}"
    path, value = _part_of(document, location)
    return path, not_allowed(path, value, schema)


def not_allowed(path: KeyPath, value: object, schema: Schema) -> str:
    """The text for a key that exists and a value that it cannot have."""
    return f"{dotted(path)} = {shown(value)}: allowed is {allowed(path, schema)}"


def allowed(path: KeyPath, schema: Schema) -> str:
    """What the value at ``path`` may be, in words."""
    here = schema
    for part in path:
        here = _child(here, part, schema)
    return _words(here, schema)


def _unknown_key(path: KeyPath, value: object, schema: Schema) -> str:
    *parents, key = path
    section = schema
    for part in parents:
        section = _child(section, part, schema)
    known = _names(section, schema)
    elsewhere = [dotted(other) for other in _keys(schema, schema) if other[-1] == key]
    near = closest(str(key), known)
    suggestion = " or ".join(elsewhere) if elsewhere else dotted((*parents, near)) if near else None
    hint = f"; did you mean {suggestion}?" if suggestion else ""
    where = f"in {dotted(tuple(parents))}" if parents else "at the top level"
    kind, given = ("section", "") if isinstance(value, dict) else ("key", f" = {shown(value)}")
    return f"unknown {kind} {dotted(path)}{given}{hint} (allowed {where}: {', '.join(known)})"


def _part_of(document: object, location: KeyPath) -> tuple[KeyPath, object]:
    """As much of ``location`` as leads through ``document``, and its value; the rest names tried types."""
    path: KeyPath = ()
    value: Any = document
    for part in location:
        if not (part in value if isinstance(value, dict) else isinstance(part, int)):
            break
        path, value = (*path, part), value[part]
    return path, value


def _resolved(schema: Schema, root: Schema) -> Schema:
    reference: str | None = schema.get("$ref")
    return root["$defs"][reference.rpartition("/")[2]] if reference else schema


def _child(schema: Schema, part: str | int, root: Schema) -> Schema:
    table = _resolved(schema, root)
    for option in (table, *table.get("anyOf", ())):
        if isinstance(part, int) and "items" in option:
            return option["items"]  # type: ignore[no-any-return]
    child: Schema = table.get("properties", {}).get(part) or table.get("additionalProperties") or {}
    return child


def _names(section: Schema, root: Schema) -> list[str]:
    """The keys that a section has, or a table whose keys are limited."""
    table = _resolved(section, root)
    if "properties" in table:
        return list(table["properties"])
    return next(option["propertyNames"]["enum"] for option in table["anyOf"] if "propertyNames" in option)


def _keys(schema: Schema, root: Schema) -> Iterator[KeyPath]:
    """Every key there is, in all sections; entries of lists count as number 0."""
    for key, child in _resolved(schema, root).get("properties", {}).items():
        yield (key,)
        inner, prefix = (child["items"], (key, 0)) if "items" in child else (child, (key,))
        yield from ((*prefix, *rest) for rest in _keys(inner, root))


def _words(schema: Schema, root: Schema) -> str:
    if "description" in schema:
        return str(schema["description"])
    table = _resolved(schema, root)
    if "anyOf" in table:
        return " or ".join(_words(option, root) for option in table["anyOf"])
    match table.get("type"):
        case "boolean":
            return "true or false"
        case "integer":
            return "a whole number" + _bounds(table)
        case "number":
            return "a number" + _bounds(table)
        case "string":
            return "text in quotes" + (", not empty" if table.get("minLength") else "")
        case "array":
            size = f" of {table['minItems']} to {table['maxItems']} entries" if "maxItems" in table else ""
            return f"a list{size}, each {_words(table['items'], root)}"
        case "object" if "properties" in table:
            return f"a table with the keys {', '.join(table['properties'])}"
        case _:
            return "a finite number, text, true, false, or a list or table of these"


def _bounds(schema: Schema) -> str:
    low, high, above = schema.get("minimum"), schema.get("maximum"), schema.get("exclusiveMinimum")
    if above is not None:
        return f" above {above} and at most {high}"
    if high is None:
        return f" of at least {low}" if low is not None else ""
    return f" from {low} to {high}"
