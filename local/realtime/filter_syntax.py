"""The text of a subscription's filter, `column=operator.value` joined by commas, as conditions that must all hold.

Only syntax: whether the column is there and the value fits it is the caller's to find out. A value with a comma, a
parenthesis, a quote or a space at an end is written between double quotes, with backslashes before quotes and
backslashes, which is what the clients' filter builder does.
"""

from __future__ import annotations

from dataclasses import dataclass

OPERATORS = frozenset(
    {"eq", "neq", "lt", "lte", "gt", "gte", "in", "like", "ilike", "is", "match", "imatch", "isdistinct"}
)
_NEGATION = "not."
_BEFORE_A_QUOTE = frozenset(".(,")  # elsewhere a quote is a character like any other


class FilterSyntaxError(Exception):
    """The text is no filter; the message says why."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition. The `value` of `in` is an array literal of PostgreSQL."""

    column: str
    operator: str
    value: str
    negated: bool = False


def parse(text: str) -> list[Condition]:
    """The conditions of a filter; none for a blank one.

    Raises:
        FilterSyntaxError: it cannot be read.
    """
    text = text.strip()
    return [_condition(part.strip()) for part in _parts(text)] if text else []


def _parts(text: str) -> list[str]:
    """Cut at the commas that are neither in parentheses nor between quotes."""
    parts: list[str] = []
    depth, quoted, escaped, start, before = 0, False, False, 0, ""
    for position, character in enumerate(text):
        if escaped:
            escaped = False
        elif quoted:
            escaped, quoted = character == "\\", character != '"'
        elif character == '"':
            quoted = before in _BEFORE_A_QUOTE
        elif character == "(":
            depth += 1
        elif character == ")":
            depth = max(0, depth - 1)
        elif character == "," and not depth:
            parts.append(text[start:position])
            start = position + 1
        before = character
    return [*parts, text[start:]]


def _condition(part: str) -> Condition:
    if not part:
        raise FilterSyntaxError("filter must not contain empty segments (check for extra commas)")
    column, equals, rest = part.partition("=")
    negated = rest.startswith(_NEGATION)
    operator, dot, value = rest.removeprefix(_NEGATION).partition(".")
    if not equals or not dot:
        raise FilterSyntaxError(f"expected column=operator.value, got {part!r}")
    if operator not in OPERATORS:
        raise FilterSyntaxError(f"unknown operator {operator!r} in {part!r}")
    if operator != "in":
        return Condition(column, operator, _unquoted(value), negated)
    if len(value) < len("()") or not value.startswith("(") or not value.endswith(")"):
        raise FilterSyntaxError("`in` filter value must be wrapped by parentheses")
    # The quoting within the list is that of an array literal already.
    return Condition(column, operator, f"{{{value[1:-1]}}}", negated)


def _unquoted(value: str) -> str:
    """What stands between the quotes; a value that is not quoted as a whole is meant as it is."""
    if not value.startswith('"'):
        return value
    characters: list[str] = []
    rest = iter(value[1:])
    for character in rest:
        if character == '"':
            return "".join(characters) if next(rest, None) is None else value
        # A backslash at the very end escapes nothing, and then the quotes were not closed either.
        characters.append(next(rest, "") if character == "\\" else character)
    return value
