"""What a request asks of a relation, after parsing and before SQL.

Values of this module hold what the client wrote, decoded and typed, and nothing of the database: whether
a column or relation exists is decided later. All are immutable and hashable, so that parsing can be cached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Path = tuple[str, ...]  # the embeds on the way from the root, by the name the client gave them


@dataclass(frozen=True, slots=True)
class JsonStep:
    """`->key` or, as text, `->>key`; an int counts into an array."""

    key: str | int
    as_text: bool


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    path: tuple[JsonStep, ...] = ()


@dataclass(frozen=True, slots=True)
class Star:
    """`*`: every column."""


@dataclass(frozen=True, slots=True)
class Column:
    """A selected column."""

    field: Field
    cast: str | None = None
    alias: str | None = None

    @property
    def output_name(self) -> str:
        """The key in the answer: the alias, else the last named step of the JSON path, else the column."""
        if self.alias is not None:
            return self.alias
        named = [step.key for step in self.field.path if isinstance(step.key, str)]
        return named[-1] if named else self.field.name


@dataclass(frozen=True, slots=True)
class Aggregate:
    """`alias:column.function()::cast`, of each group of the rows that are alike in the other items of the select."""

    function: str
    of: Column | None  # None counts the rows themselves
    alias: str | None = None
    cast: str | None = None

    @property
    def output_name(self) -> str:
        return self.alias or self.function


@dataclass(frozen=True, slots=True)
class Embed:
    """`alias:target!hint!inner(items)`: rows of a related relation."""

    target: str
    items: tuple[SelectItem, ...]
    alias: str | None = None
    hint: str | None = None
    inner: bool = False
    spread: bool = False

    @property
    def output_name(self) -> str:
        return self.alias or self.target


SelectItem = Star | Column | Aggregate | Embed


@dataclass(frozen=True, slots=True)
class Operation:
    """`[not.]operator[(modifier)].value`; the modifier is any or all, or a text search configuration."""

    operator: str
    value: str | tuple[str, ...]  # a tuple for `in` alone
    negated: bool = False
    modifier: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    field: Field
    operation: Operation


@dataclass(frozen=True, slots=True)
class Junction:
    """`and(...)` or `or(...)`."""

    kind: Literal["and", "or"]
    conditions: tuple[Condition, ...]
    negated: bool = False


Condition = Comparison | Junction


@dataclass(frozen=True, slots=True)
class OrderTerm:
    """`relation` names the to-one embed whose column orders the parent."""

    field: Field
    descending: bool = False
    nulls: Literal["first", "last"] | None = None
    relation: str | None = None


@dataclass(slots=True)
class Scope:
    """Filters, order and page of one relation of the query: the root or an embed."""

    conditions: list[Condition] = field(default_factory=list[Condition])
    order: tuple[OrderTerm, ...] = ()
    limit: int | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Query:
    """The whole query string. `scopes[()]` is the root and always there."""

    select: tuple[SelectItem, ...]
    scopes: Mapping[Path, Scope]
    columns: tuple[str, ...] | None = None
    on_conflict: tuple[str, ...] | None = None
    arguments: tuple[tuple[str, str], ...] = ()  # of a function called by GET

    @property
    def root(self) -> Scope:
        return self.scopes[()]


EVERYTHING: tuple[SelectItem, ...] = (Star(),)

# Operators that compare a column with one value: PostgREST's name -> SQL.
COMPARISONS: Mapping[str, str] = {
    "eq": "=",
    "neq": "<>",
    "gt": ">",
    "gte": ">=",
    "lt": "<",
    "lte": "<=",
    "like": "like",
    "ilike": "ilike",
    "match": "~",
    "imatch": "~*",
    "isdistinct": "is distinct from",
    "cs": "@>",
    "cd": "<@",
    "ov": "&&",
    "sl": "<<",
    "sr": ">>",
    "nxr": "&<",
    "nxl": "&>",
    "adj": "-|-",
}
QUANTIFIABLE = frozenset({"eq", "gt", "gte", "lt", "lte", "like", "ilike", "match", "imatch"})
# Full text search: PostgREST's name -> the function that reads the value.
SEARCHES: Mapping[str, str] = {
    "fts": "to_tsquery",
    "plfts": "plainto_tsquery",
    "phfts": "phraseto_tsquery",
    "wfts": "websearch_to_tsquery",
}
# What `is` may be compared with.
TRUTHS: Mapping[str, str] = {
    "null": "null",
    "not_null": "not null",
    "true": "true",
    "false": "false",
    "unknown": "unknown",
}
