"""Whether a run's input fits its agent's schema: all that is wrong with it at once, in words for a form.

Checked by `jsonschema`, within a budget: an input that takes more work than any form's is refused. A message never
repeats what was entered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from itertools import islice
from typing import Any, Final, cast

import orjson
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend  # pyright: ignore[reportUnknownVariableType]
from referencing import Registry

from shared.agents import formats
from shared.agents.problems import MAX_PROBLEMS, Problem, depth_over
from shared.agents.schemas import compiled
from shared.runs.models import Json, JsonObject

MAX_INPUT_DEPTH: Final = 32  # the database's own limit
MAX_CHECKS: Final = 100_000  # keywords applied to values; a form of a hundred fields takes a few hundred

Check = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]
"""A keyword as jsonschema wants it: validator, the keyword's value, the instance, the schema it stands in."""

_SHOWN_CHOICES: Final = 10
_KINDS: Final[Mapping[str, str]] = {
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_WORDS: Final[Mapping[str, str]] = {
    "const": "must be {}",
    "format": "must be a valid {}",
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "minItems": "must have at least {} entries",
    "maxItems": "must have at most {} entries",
    "minProperties": "must have at least {} entries",
    "maxProperties": "must have at most {} entries",
    "contains": "lacks an entry that it needs",
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "multipleOf": "must be a multiple of {}",
    "anyOf": "fits none of its alternatives",
    "oneOf": "fits none, or more than one, of its alternatives",
}


class _BudgetSpent(Exception):  # noqa: N818 - no error: it stops the work
    """More work than any form takes."""


_left: ContextVar[int] = ContextVar("checks_left")


def problems_with_input(schema: JsonObject, value: JsonObject) -> list[Problem]:
    """What is wrong with `value`, at most 50 problems. `schema` is one that `problems_with_schema` has nothing against.

    Takes up to a second of the processor at worst, so call it in a thread.
    """
    if depth_over(value, MAX_INPUT_DEPTH):
        return [Problem("input", f"is nested more than {MAX_INPUT_DEPTH} deep")]
    validator = _Validator(schema, format_checker=_FORMATS, registry=Registry[Any]())
    token = _left.set(MAX_CHECKS)
    try:
        errors = islice(cast("Iterator[ValidationError]", validator.iter_errors(value)), MAX_PROBLEMS)  # pyright: ignore[reportUnknownMemberType]
        return [Problem.at(["input", *error.absolute_path], _message(error)) for error in errors]
    except _BudgetSpent:
        return [Problem("input", "is more than can be checked")]
    finally:
        _left.reset(token)


def _spend(checks: int) -> None:
    left = _left.get() - checks
    if left < 0:
        raise _BudgetSpent
    _left.set(left)


def _counted(check: Check) -> Check:
    def counted(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[ValidationError] | None:
        _spend(1 + (len(cast("list[Any]", wanted)) if isinstance(wanted, list) else 0))
        return check(validator, wanted, value, schema)

    return counted


def _required(_validator: Any, names: list[str], value: Any, _schema: Any) -> Iterator[ValidationError]:
    if isinstance(value, dict):
        yield from (ValidationError("is required", path=[name]) for name in names if name not in value)


def _dependent(_validator: Any, needs: dict[str, list[str]], value: Any, _schema: Any) -> Iterator[ValidationError]:
    if isinstance(value, dict):
        for name, others in needs.items():
            if name in value:
                missing = (other for other in others if other not in value)
                yield from (ValidationError(f"is required beside {name}", path=[other]) for other in missing)


def _additional(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(value, dict):
        return
    known = schema.get("properties", {})
    for name, inner in cast("dict[str, Any]", value).items():
        if name not in known:
            if wanted is False:
                yield ValidationError("is unknown", path=[name])
            else:
                yield from validator.descend(inner, wanted, path=name)


def _pattern(_validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[ValidationError]:
    expression = compiled(pattern) if isinstance(value, str) else None
    if expression is not None and expression.search(value) is None:
        yield ValidationError("must match the pattern")


def _unique(_validator: Any, wanted: bool, value: Any, _schema: Any) -> Iterator[ValidationError]:  # noqa: FBT001 - its signature is jsonschema's
    if wanted and isinstance(value, list):
        items = cast("list[Json]", value)
        _spend(len(items))
        if len({orjson.dumps(_canonical(item), option=orjson.OPT_SORT_KEYS) for item in items}) < len(items):
            yield ValidationError("names something twice")


def _canonical(value: Json) -> Json:
    """The value with its whole numbers as integers: 1 and 1.0 are one number in JSON."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, dict):
        return {name: _canonical(item) for name, item in value.items()}
    return value


def _message(error: ValidationError) -> str:
    """What a person is told. Ours are written where they are found; those of the library would show the value."""
    wanted: Any = error.validator_value
    keyword = str(error.validator)
    if keyword in _OURS:
        return error.message
    if keyword == "type":
        kinds = cast("list[str]", [wanted] if isinstance(wanted, str) else wanted)
        return f"must be {' or '.join(_KINDS.get(kind, kind) for kind in kinds)}"
    if keyword == "enum":
        return f"must be one of {_choices(wanted)}"
    if keyword == "minLength" and wanted == 1:
        return "must not be empty"
    return _WORDS.get(keyword, "is not allowed here").format(_shown(wanted))


def _choices(values: list[Json]) -> str:
    shown = ", ".join(_shown(value) for value in values[:_SHOWN_CHOICES])
    return shown if len(values) <= _SHOWN_CHOICES else f"{shown} and {len(values) - _SHOWN_CHOICES} more"


def _shown(value: Json) -> str:
    """A part of the schema; a word such as a format's name without quotes."""
    return value[:60] if isinstance(value, str) else orjson.dumps(value).decode()[:60]


def _format_checker() -> FormatChecker:
    checker = FormatChecker(formats=())
    for name, fits in formats.CHECKS.items():

        def check(value: object, fits: Callable[[str], bool] = fits) -> bool:
            return not isinstance(value, str) or fits(value)

        checker.checks(name)(check)
    return checker


_OURS: Final[Mapping[str, Check]] = {
    "required": _required,
    "dependentRequired": _dependent,
    "additionalProperties": _additional,
    "pattern": _pattern,
    "uniqueItems": _unique,
}
_KEYWORDS: Final = cast("Mapping[str, Check]", Draft202012Validator.VALIDATORS)
_FORMATS: Final = _format_checker()
_Validator: Final = cast(
    "type[Draft202012Validator]",
    extend(Draft202012Validator, {name: _counted(check) for name, check in {**_KEYWORDS, **_OURS}.items()}),
)
