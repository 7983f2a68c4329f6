"""The exposed part of the database's schema: what a request may name, and how relations hang together.

A catalog is a snapshot and never changes; `schema_cache` replaces it whole. Its SQL fragments (types and
default expressions) are PostgreSQL's own deparsed text and the only SQL that is not composed here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from local.rest.errors import ApiError
from local.rest.similar import similar

_CLOSE_TABLE = 0.75
_WHOLE_BODIES = frozenset({"json", "jsonb", "text", "bytea", "xml"})
QualifiedName = tuple[str, str]


@dataclass(frozen=True, slots=True)
class TableColumn:
    """One column. `format` to `labels` are what it is described by: a domain's `format` is the type it is over.

    Attributes:
        is_vector: Whether it is a tsvector, or a domain over one.
        labels: An enum's values.
    """

    name: str
    type: str
    default: str | None
    is_vector: bool = False
    format: str = "text"
    is_nullable: bool = True
    description: str | None = None
    max_length: int | None = None
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """A table or view. `columns` are in the table's order; a view has the keys of the tables that it shows."""

    schema: str
    name: str
    columns: Mapping[str, TableColumn]
    primary_key: tuple[str, ...]
    is_view: bool = False
    is_insertable: bool = True
    is_updatable: bool = True
    is_deletable: bool = True
    description: str | None = None

    @property
    def qualified(self) -> QualifiedName:
        return self.schema, self.name


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """`columns` pairs this table's columns with the target's. Either side may be a view of the table."""

    name: str
    table: QualifiedName
    target: QualifiedName
    columns: tuple[tuple[str, str], ...]
    is_unique: bool


@dataclass(frozen=True, slots=True)
class Argument:
    name: str
    type: str
    is_optional: bool
    is_variadic: bool


@dataclass(frozen=True, slots=True)
class Function:
    """What a call needs to know.

    Attributes:
        returns_rows: Whether the result is composite or of OUT parameters.
        relation: The table whose rows the result is, if one's.
        of: The table whose row is the only argument: such a function is a computed column or relationship.
        is_single: Whether it returns one row at most.
        media: The format that the result already is in, where its type is a domain named as a media type.
    """

    schema: str
    name: str
    arguments: tuple[Argument, ...]
    returns: str
    returns_set: bool
    returns_rows: bool
    relation: QualifiedName | None
    is_volatile: bool
    settings: Mapping[str, str]
    of: QualifiedName | None = None
    is_single: bool = False
    media: str | None = None
    media_is_bytes: bool = False

    @property
    def takes_whole(self) -> str | None:
        """The type of the only argument where that has no name: it takes the whole body."""
        return self.arguments[0].type if len(self.arguments) == 1 and not self.arguments[0].name else None

    @property
    def is_callable(self) -> bool:
        """Whether a request can give it its arguments."""
        return self.takes_whole in _WHOLE_BODIES if self.takes_whole else all(one.name for one in self.arguments)

    @property
    def signature(self) -> str:
        arguments = ", ".join(f"{argument.name} => {argument.type}" for argument in self.arguments)
        return f"{self.schema}.{self.name}({arguments})"


@dataclass(frozen=True, slots=True)
class Config:
    """PostgREST's options that a database sets by `alter role authenticator set pgrst.<name> = ...`."""

    schemas: tuple[str, ...] = ("public",)  # exposed; the first answers requests that name none
    extra_search_path: tuple[str, ...] = ("public", "extensions")
    max_rows: int | None = 1000  # hosted Supabase's; holds for reads and calls, not for writes
    pre_request: QualifiedName | None = None  # a function called before each request's own statement
    rolls_back: bool = False  # what becomes of a transaction where the request does not say
    allows_tx: bool = False  # whether `Prefer: tx=` may say
    allows_aggregates: bool = False
    allows_plans: bool = False
    openapi_mode: str = "follow-privileges"  # or ignore-privileges, or disabled


@dataclass(frozen=True, eq=False)
class Catalog:
    """Look-ups over one snapshot.

    `representations` are the casts between a domain and `json` or `text` that columns of the domain go through:
    (source, target) -> function.
    """

    tables: Mapping[QualifiedName, Table]
    foreign_keys: tuple[ForeignKey, ...]
    functions: Mapping[QualifiedName, tuple[Function, ...]]
    config: Config = Config()
    representations: Mapping[tuple[str, str], QualifiedName] = field(
        default_factory=dict[tuple[str, str], QualifiedName]
    )
    role_settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])

    @cached_property
    def computed(self) -> Mapping[QualifiedName, tuple[Function, ...]]:
        """The functions of a table's row whose result is another table's rows, by that first table."""
        found: dict[QualifiedName, list[Function]] = defaultdict(list)
        for overloads in self.functions.values():
            for function in overloads:
                if function.of is not None and function.relation is not None:
                    found[function.of].append(function)
        return {table: tuple(functions) for table, functions in found.items()}

    @cached_property
    def routines(self) -> Mapping[QualifiedName, tuple[Function, ...]]:
        """The functions that can be called, those of one name in the order in which PostgREST lists them."""
        routines: dict[QualifiedName, tuple[Function, ...]] = {}
        for name, overloads in self.functions.items():
            found = [function for function in overloads if function.is_callable]
            if found:
                routines[name] = tuple(sorted(found, key=_listed_by))
        return routines

    def table(self, schema: str, name: str) -> Table:
        """Find a table or view.

        Raises:
            ApiError: PGRST205.
        """
        table = self.tables.get((schema, name))
        if table is None:
            known = (known for own, known in self.tables if own == schema)
            close = similar(name, known, at_least=_CLOSE_TABLE)
            raise ApiError(
                404,
                "PGRST205",
                f"Could not find the table '{schema}.{name}' in the schema cache",
                hint=f"Perhaps you meant the table '{schema}.{close}'" if close else None,
            )
        return table


def _listed_by(function: Function) -> tuple[int, list[tuple[str, str]]]:
    return len(function.arguments), [(one.name, one.type) for one in function.arguments]


EMPTY = Catalog(tables={}, foreign_keys=(), functions={})
