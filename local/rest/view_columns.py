"""Where the columns of a view come from, read from the query tree that PostgreSQL keeps of it.

Each entry of a query's target list names the table and column that it passes on unchanged (`resorigtbl`,
`resorigcol`), through subqueries and CTEs but not through further views; those are followed here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

_PIECE = re.compile(r"[{}()]|(?:\\.|[^{}()\\])+", re.DOTALL)
_ORIGIN = re.compile(r":resno (\d+) .*:resorigtbl (\d+) :resorigcol (-?\d+) ", re.DOTALL)
# How deep `({QUERY :targetList ({TARGETENTRY ...}) ...})` has the fields of the query and of one entry.
_QUERY_DEPTH = 2
_ENTRY_DEPTH = 4
_CACHED = 256  # views; their rules change seldom, and are read again with every change of the schema


@dataclass(frozen=True, slots=True)
class Origin:
    """A relation of any schema: its columns by number, and the rule that makes it a view."""

    oid: int
    name: tuple[str, str]
    columns: Mapping[int, str]
    primary_key: tuple[str, ...]
    rule: str | None


BaseColumn = tuple[tuple[str, str], str]  # a table's qualified name, and its column


def base_columns(origins: Mapping[int, Origin], view: Origin) -> dict[str, BaseColumn]:
    """The columns of `view` that are a table's, by their name in the view, in its order."""
    found: dict[str, BaseColumn] = {}
    for number, (oid, column) in target_columns(view.rule or "").items():
        base = _followed(origins, oid, column)
        if base is not None and number in view.columns:
            found[view.columns[number]] = base
    return found


def _followed(origins: Mapping[int, Origin], oid: int, column: int) -> BaseColumn | None:
    """Through views on views down to a table; PostgreSQL lets no view depend on itself."""
    relation = origins.get(oid)
    while relation is not None and relation.rule is not None:
        oid, column = target_columns(relation.rule).get(column, (0, 0))
        relation = origins.get(oid)
    if relation is None or column not in relation.columns:
        return None
    return relation.name, relation.columns[column]


@lru_cache(_CACHED)
def target_columns(rule: str) -> dict[int, tuple[int, int]]:
    """Read a rule's target list: the view's column number -> the relation's oid and column number."""
    found: dict[int, tuple[int, int]] = {}
    depth, in_targets, entry = 0, False, ""
    for piece in _PIECE.findall(rule):
        if piece in "({":
            depth += 1
            if depth == _ENTRY_DEPTH:
                entry = ""
        elif piece in ")}":
            origin = _ORIGIN.search(entry) if in_targets and depth == _ENTRY_DEPTH else None
            if origin is not None and origin[2] != "0":
                found[int(origin[1])] = int(origin[2]), int(origin[3])
            depth -= 1
        elif depth == _QUERY_DEPTH:
            in_targets = piece.rstrip().endswith(":targetList")
        elif depth == _ENTRY_DEPTH:
            entry += piece
    return found
