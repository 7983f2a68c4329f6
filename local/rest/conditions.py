"""Filters as SQL.

`Row` stands for the relation that a filter speaks about: where its columns come from and of what type they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

from psycopg.sql import SQL, Composable, Identifier

from local.rest.catalog import Catalog, QualifiedName, Table
from local.rest.query import COMPARISONS, SEARCHES, TRUTHS, Comparison, Condition, Field
from local.rest.sql import NOTHING, Parameters, deparsed, joined, qualified

_PATTERNS = frozenset({"like", "ilike"})
_JSON = frozenset({"json", "jsonb"})


@dataclass(frozen=True, slots=True)
class Row:
    """Where the columns of a relation come from.

    Attributes:
        alias: Names the row in SQL.
        types: The columns that are known, with their types; a record's have none.
        texts: Those of them that a text search has to read as a document first.
        composite: The table whose row this is, where SQL sees only a record: computed columns are reached by it.
        representations: The casts that values of a domain go through, as `Catalog.representations` has them.
    """

    alias: str
    types: Mapping[str, str] = field(default_factory=dict[str, str])
    texts: frozenset[str] = frozenset()
    composite: QualifiedName | None = None
    representations: Mapping[tuple[str, str], QualifiedName] = field(
        default_factory=dict[tuple[str, str], QualifiedName]
    )

    @classmethod
    def of(cls, catalog: Catalog, table: Table, alias: str, *, is_record: bool = False) -> Self:
        types = {name: column.type for name, column in table.columns.items()}
        texts = frozenset(name for name, column in table.columns.items() if not column.is_vector)
        return cls(alias, types, texts, table.qualified if is_record else None, catalog.representations)

    @property
    def composite_value(self) -> Composable:
        alias = Identifier(self.alias)
        return alias if self.composite is None else SQL("({}::{})").format(alias, qualified(self.composite))

    def column(self, name: str) -> Composable:
        if self.composite is not None and name not in self.types:
            return SQL("{}.{}").format(self.composite_value, Identifier(name))
        return Identifier(self.alias, name)

    def represented(self, name: str) -> Composable | None:
        """The column as its domain's own JSON, if the domain has one."""
        function = self.representations.get((self.types.get(name, ""), "json"))
        return None if function is None else SQL("{}({})").format(qualified(function), self.column(name))

    def parsed(self, field: Field, bound: Composable) -> Composable:
        """A value to compare the column with, read by the column's domain if that has a way to."""
        function = None if field.path else self.representations.get(("text", self.types.get(field.name, "")))
        return bound if function is None else SQL("{}({}::text)").format(qualified(function), bound)

    def value(self, field: Field, parameters: Parameters) -> Composable:
        """The column, or what its JSON path reaches; other types than JSON are read as JSON first."""
        value = self.column(field.name)
        if not field.path:
            return value
        if self.types.get(field.name, "jsonb") not in _JSON:
            value = SQL("to_jsonb({})").format(value)
        for step in field.path:
            arrow = SQL("->>") if step.as_text else SQL("->")
            key = SQL("{}::int4") if isinstance(step.key, int) else SQL("{}")
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
        return SQL("{} = any({})").format(value, _elements(row, asked.field, operation.value, parameters))
    if operation.operator in SEARCHES:
        return _search(row, asked, value, parameters)
    return _compared(row, asked, operation.value, value, parameters)


def _elements(row: Row, field: Field, texts: tuple[str, ...], parameters: Parameters) -> Composable:
    parsed = [row.parsed(field, parameters.bind(text)) for text in texts] if _is_parsed(row, field) else []
    if not parsed:
        return parameters.bind(array_literal(texts))
    return SQL("array[{}]").format(joined(parsed))


def _is_parsed(row: Row, field: Field) -> bool:
    return not field.path and ("text", row.types.get(field.name, "")) in row.representations


def _compared(row: Row, asked: Comparison, text: str, value: Composable, parameters: Parameters) -> Composable:
    operation = asked.operation
    if operation.operator in _PATTERNS:
        text = text.replace("*", "%")
    bound = parameters.bind(text)
    if operation.modifier is None:
        bound = row.parsed(asked.field, bound)
    else:
        bound = SQL("{}({})").format(deparsed(operation.modifier), bound)
    return SQL("{} {} {}").format(value, deparsed(COMPARISONS[operation.operator]), bound)


def _search(row: Row, asked: Comparison, value: Composable, parameters: Parameters) -> Composable:
    operation = asked.operation
    language: Composable = NOTHING
    if operation.modifier is not None:
        language = SQL("{}::regconfig, ").format(parameters.bind(operation.modifier))
    if asked.field.path or asked.field.name in row.texts:
        value = SQL("to_tsvector({}{})").format(language, value)
    reader = deparsed(SEARCHES[operation.operator])
    return SQL("{} @@ {}({}{})").format(value, reader, language, parameters.bind(operation.value))


def array_literal(elements: tuple[str, ...]) -> str:
    """PostgreSQL's text form of an array; each element is quoted, so none is taken for NULL."""
    escaped = (element.replace("\\", "\\\\").replace('"', '\\"') for element in elements)
    return "{" + ",".join(f'"{element}"' for element in escaped) + "}"
