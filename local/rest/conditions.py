"""Filters as SQL.

`Row` stands for the relation that a filter speaks about: where its columns come from and of what type they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Identifier

from local.rest.query import COMPARISONS, SEARCHES, TRUTHS, Comparison, Condition, Field, Operation
from local.rest.sql import NOTHING, Parameters, deparsed, joined

_PATTERNS = frozenset({"like", "ilike"})
_JSON = frozenset({"json", "jsonb"})


@dataclass(frozen=True, slots=True)
class Row:
    """`alias` names the row in SQL; a column whose type is not known (a record's) has none in `types`."""

    alias: str
    types: Mapping[str, str]

    def column(self, name: str) -> Composable:
        return Identifier(self.alias, name)

    def value(self, field: Field, parameters: Parameters) -> Composable:
        """The column, or what its JSON path reaches; other types than JSON are read as JSON first."""
        value = self.column(field.name)
        if not field.path:
            return value
        if self.types.get(field.name, "jsonb") not in _JSON:
            value = SQL("to_jsonb({})").format(value)
        for step in field.path:
            arrow = SQL("->>") if step.as_text else SQL("->")
            key = SQL("{}::int4") if isinstance(step.key, int) else SQL("{}::text")
            value = SQL("{}{}{}").format(value, arrow, key.format(parameters.bind(step.key)))
        return value


# Answers a filter that names an embed instead of a column, or None if it names none.
EmbedFilter = Callable[[Comparison], Composable | None]


def condition(row: Row, asked: Condition, parameters: Parameters, embed_filter: EmbedFilter) -> Composable:
    if isinstance(asked, Comparison):
        on_embed = embed_filter(asked)
        if on_embed is not None:
            return on_embed
        return _negated(asked.operation.negated, _comparison(row, asked, parameters))
    inner = [condition(row, part, parameters, embed_filter) for part in asked.conditions]
    tree = SQL("({})").format(joined(inner, f" {asked.kind} "))
    return _negated(asked.negated, tree)


def no_embeds(_: Comparison) -> None:
    """The embed filter of a statement that has no embeds."""


def _negated(negated: bool, asked: Composable) -> Composable:  # noqa: FBT001 - private, and named by its first word
    return SQL("not ({})").format(asked) if negated else asked


def _comparison(row: Row, asked: Comparison, parameters: Parameters) -> Composable:
    operation = asked.operation
    value = row.value(asked.field, parameters)
    if operation.operator == "is":
        return SQL("{} is {}").format(value, deparsed(TRUTHS[str(operation.value)]))
    if isinstance(operation.value, tuple):
        return SQL("{} = any({})").format(value, parameters.bind(array_literal(operation.value)))
    if operation.operator in SEARCHES:
        return _search(row, asked, value, parameters)
    return _compared(operation, operation.value, value, parameters)


def _compared(operation: Operation, text: str, value: Composable, parameters: Parameters) -> Composable:
    if operation.operator in _PATTERNS:
        text = text.replace("*", "%")
    bound = parameters.bind(text)
    if operation.modifier is not None:
        bound = SQL("{}({})").format(deparsed(operation.modifier), bound)
    return SQL("{} {} {}").format(value, deparsed(COMPARISONS[operation.operator]), bound)


def _search(row: Row, asked: Comparison, value: Composable, parameters: Parameters) -> Composable:
    operation = asked.operation
    language: Composable = NOTHING
    if operation.modifier is not None:
        language = SQL("{}::regconfig, ").format(parameters.bind(operation.modifier))
    if asked.field.path or row.types.get(asked.field.name, "tsvector") != "tsvector":
        value = SQL("to_tsvector({}{})").format(language, value)
    reader = deparsed(SEARCHES[operation.operator])
    return SQL("{} @@ {}({}{})").format(value, reader, language, parameters.bind(operation.value))


def array_literal(elements: tuple[str, ...]) -> str:
    """PostgreSQL's text form of an array; each element is quoted, so none is taken for NULL."""
    escaped = (element.replace("\\", "\\\\").replace('"', '\\"') for element in elements)
    return "{" + ",".join(f'"{element}"' for element in escaped) + "}"
