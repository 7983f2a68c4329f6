"""Which JSON Schemas (draft 2020-12) an agent's form may have: those that cost little to check, whatever they say.

A schema is written by one person and runs on another's input, so only known keywords pass; references stay inside the
document and never lead in circles; patterns are RE2, which is linear; and size, depth and what references unfold to are
bounded. Nothing is ever fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol, cast

import orjson
import re2
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from shared.agents import formats
from shared.agents.problems import MAX_PROBLEMS, Problem, depth_over
from shared.runs.models import Json, JsonObject

MAX_BYTES: Final = 32_768
MAX_DEPTH: Final = 16
MAX_SCHEMAS: Final = 500  # subschemas in the document
MAX_UNFOLDED: Final = 5_000  # subschemas with every reference in place of what it refers to
MAX_PATTERN: Final = 500
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_ONE: Final = frozenset({"items", "additionalProperties", "contains", "not", "if", "then", "else"})
_MANY: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED: Final = frozenset({"properties", "$defs"})
_PLAIN: Final = frozenset(
    {"$schema", "$ref", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "type"}
    | {"enum", "const", "format", "pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum"}
    | {"exclusiveMaximum", "multipleOf", "required", "dependentRequired", "minProperties", "maxProperties", "minItems"}
    | {"maxItems", "uniqueItems", "minContains", "maxContains"}
)
_KEYWORDS: Final = _ONE | _MANY | _NAMED | _PLAIN
_FORMATS: Final = tuple(sorted({*formats.CHECKS, *formats.DRAWN_ONLY}))
_REFERENCE: Final = "#/$defs/"

Path = tuple[str, ...]
Schema = Mapping[str, Any]


def problems_with_schema(schema: JsonObject) -> list[Problem]:
    """Why a schema cannot be an agent's input schema; the field of each problem is its place in the schema."""
    if depth_over(schema, 2 * MAX_DEPTH):
        return [Problem("", f"is nested more than {2 * MAX_DEPTH} deep")]
    if len(orjson.dumps(schema)) > MAX_BYTES:
        return [Problem("", f"must be at most {MAX_BYTES} bytes")]
    if (found := _outgrown(schema)) is not None:
        return [found]
    problems = [problem for path, part in _schemas(schema) for problem in _problems_at(path, part)]
    if schema.get("type") != "object":
        problems.append(Problem("type", "must be object: a run's input is one"))
    # Whether each keyword has the value it may have; in a schema of known keywords alone this is bounded too.
    if not problems:
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            problems.append(Problem.at(list(error.absolute_path), f"is no valid {_keyword(error)}"))
    if not problems:
        problems += _problems_with_references(schema)
    return problems[:MAX_PROBLEMS]


def _outgrown(schema: JsonObject) -> Problem | None:
    for count, (path, _) in enumerate(_schemas(schema)):
        if len(path) > MAX_DEPTH:
            return Problem.at(path, f"is nested more than {MAX_DEPTH} deep")
        if count == MAX_SCHEMAS:
            return Problem("", f"has more than {MAX_SCHEMAS} parts")
    return None


def _schemas(schema: object) -> Iterator[tuple[Path, Schema]]:
    """Every subschema with its place, outermost first. Bounded by the caller, who stops when it has seen enough."""
    waiting: list[tuple[Path, object]] = [((), schema)]
    while waiting:
        here, part = waiting.pop()
        if not isinstance(part, dict):
            continue
        part = cast("dict[str, Any]", part)
        yield here, part
        waiting += [((*here, name), inner) for name, inner in _children(part)]


def _children(part: Schema) -> Iterator[tuple[str, object]]:
    for keyword, value in part.items():
        if keyword in _ONE:
            yield keyword, value
        elif keyword in _MANY and isinstance(value, list):
            yield from ((f"{keyword}.{at}", inner) for at, inner in enumerate(cast("list[object]", value)))
        elif keyword in _NAMED and isinstance(value, dict):
            yield from ((f"{keyword}.{name}", inner) for name, inner in cast("dict[str, object]", value).items())


def _problems_at(path: Path, part: Schema) -> Iterator[Problem]:
    for keyword, value in part.items():
        where = (*path, keyword)
        if keyword not in _KEYWORDS and not keyword.startswith("x-"):
            yield Problem.at(where, "is not a keyword that an agent's schema may have")
        elif keyword == "$defs" and path:
            yield Problem.at(where, "may stand at the top only")
        elif keyword == "$schema" and (path or value != DIALECT):
            yield Problem.at(where, f"must be {DIALECT}, at the top")
        elif keyword == "$ref" and not (isinstance(value, str) and value.startswith(_REFERENCE)):
            yield Problem.at(where, "must refer to one of the schema's own $defs")
        elif keyword == "format" and value not in _FORMATS:
            yield Problem.at(where, f"must be one of {', '.join(_FORMATS)}")
        elif keyword == "pattern" and compiled(value) is None:
            yield Problem.at(where, f"must be an RE2 expression of at most {MAX_PATTERN} characters")


class Pattern(Protocol):
    """An expression of RE2's, whose package has no types."""

    def search(self, text: str) -> object | None: ...


def compiled(pattern: object) -> Pattern | None:
    """The expression, or None for what is none."""
    if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN:
        return None
    options = cast("Any", re2.Options())  # pyright: ignore[reportUnknownMemberType] - it has no types
    options.log_errors = False
    try:
        return cast("Pattern", re2.compile(pattern, options))  # pyright: ignore[reportUnknownMemberType]
    except re2.error:  # pyright: ignore[reportUnknownMemberType]
        return None


def _keyword(error: SchemaError) -> str:
    path = list(error.absolute_path)
    return str(path[-1]) if path else "schema"


def _problems_with_references(schema: JsonObject) -> list[Problem]:
    """References to nothing, in circles, or that unfold to more than may be checked."""
    defs = cast("dict[str, Json]", schema.get("$defs", {}))
    sizes: dict[str, int] = {}
    open_names: set[str] = set()
    problems: list[Problem] = []

    def unfolded(part: object, path: Path) -> int:
        if not isinstance(part, dict):
            return 1
        part = cast("dict[str, Any]", part)
        size = 1 + sum(
            unfolded(inner, (*path, name)) for name, inner in _children(part) if not name.startswith("$defs.")
        )
        if "$ref" in part:
            size += referred(str(part["$ref"]).removeprefix(_REFERENCE), (*path, "$ref"))
        return size

    def referred(name: str, path: Path) -> int:
        if name in open_names:
            problems.append(Problem.at(path, "leads in a circle"))
        elif name not in defs:
            problems.append(Problem.at(path, "refers to nothing"))
        elif name not in sizes:
            open_names.add(name)
            sizes[name] = unfolded(defs[name], ("$defs", name))
            open_names.discard(name)
        return sizes.get(name, 1)

    total = unfolded(schema, ())
    for name in defs:
        referred(name, ("$defs", name))
    if not problems and total > MAX_UNFOLDED:
        problems.append(Problem("$defs", f"unfold to more than {MAX_UNFOLDED} parts"))
    return problems
