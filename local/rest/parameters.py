"""The query string of a request, taken apart into a `Query`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from local.rest import errors
from local.rest.parser import (
    begins_operation,
    parse_junction,
    parse_key,
    parse_names,
    parse_operation,
    parse_order,
    parse_select,
)
from local.rest.query import EVERYTHING, Comparison, Path, Query, Scope, SelectItem

_JUNCTIONS = frozenset({"and", "or"})
_SCOPED = frozenset({"order", "limit", "offset"})
_INTEGER = re.compile(r"-?\d{1,18}")
_LINE_BREAKS = re.compile(r"[\r\n\t]+")
_BELOW_ZERO = "Limit should be greater than or equal to zero."
_RANGE = re.compile(r"(\d{1,18})-(\d{1,18})?")


def parse_parameters(pairs: Iterable[tuple[str, str]], *, is_call: bool) -> Query:
    """Read decoded name and value pairs in their order.

    In a function call by GET (`is_call`) a value that does not begin with an operator is an argument.
    """
    reader = _Reader(is_call=is_call)
    for key, value in pairs:
        reader.read(key, value)
    return reader.query()


def apply_range_header(scope: Scope, header: str) -> None:
    """Narrow the page to `Range: first-last`; another form is ignored, as RFC 9110 has it."""
    found = _RANGE.fullmatch(header.strip().removeprefix("items="))
    if found is None:
        return
    first, last = int(found[1]), None if found[2] is None else int(found[2])
    if last is not None and last < first:
        raise errors.bad_range(
            "The lower boundary must be lower than or equal to the upper boundary in the Range header."
        )
    if scope.limit == 0:
        return
    ends = [end for end in (last, None if scope.limit is None else scope.offset + scope.limit - 1) if end is not None]
    scope.offset = max(first, scope.offset)
    scope.limit = min(ends) - scope.offset + 1 if ends else None
    if scope.limit is not None and scope.limit <= 0:
        raise errors.bad_range(_BELOW_ZERO)


class _Reader:
    def __init__(self, *, is_call: bool) -> None:
        self._is_call = is_call
        self._select: tuple[SelectItem, ...] | None = None
        self._scopes: dict[Path, Scope] = {(): Scope()}
        self._names: dict[str, tuple[str, ...]] = {}
        self._arguments: list[tuple[str, str]] = []

    def query(self) -> Query:
        return Query(
            select=EVERYTHING if self._select is None else self._select,
            scopes=self._scopes,
            columns=self._names.get("columns"),
            on_conflict=self._names.get("on_conflict"),
            arguments=tuple(self._arguments),
        )

    def read(self, key: str, value: str) -> None:
        if key == "select":
            parsed = parse_select(_without_blanks(value))
            self._select = parsed if self._select is None else self._select
        elif key in {"columns", "on_conflict"}:
            self._names.setdefault(key, parse_names(value, what=key))
        elif self._is_call and not self._belongs_to_result(key, value):
            self._arguments.append((key, value))
        else:
            self._read_scoped(key, value)

    def _belongs_to_result(self, key: str, value: str) -> bool:
        last = key.rpartition(".")[2]
        return "." in key or last in _SCOPED or last in _JUNCTIONS or begins_operation(value)

    def _read_scoped(self, key: str, value: str) -> None:
        path, field = parse_key(key)
        if not field.path and field.name in _JUNCTIONS:
            negated = bool(path) and path[-1] == "not"
            scope = self._scope(path[:-1] if negated else path)
            scope.conditions.append(parse_junction(value, kind=field.name, negated=negated))
        elif not field.path and field.name in _SCOPED:
            self._page(self._scope(path), field.name, value)
        else:
            self._scope(path).conditions.append(Comparison(field, parse_operation(value)))

    def _page(self, scope: Scope, name: str, value: str) -> None:
        if name == "order":
            scope.order = parse_order(value) if value else ()
            return
        if not _INTEGER.fullmatch(value):
            return  # PostgREST, too, takes a page that is no number for no page
        number = int(value)
        if name == "offset":
            scope.offset = max(number, 0)
        elif number < 0:
            raise errors.bad_range(_BELOW_ZERO)
        else:
            scope.limit = number

    def _scope(self, path: Sequence[str]) -> Scope:
        return self._scopes.setdefault(tuple(path), Scope())


def _without_blanks(select: str) -> str:
    """Drop line breaks and tabs between items, which hand-written selects hold; blanks belong to names."""
    first, *others = _LINE_BREAKS.split(select)
    # Not by one pattern: to find the blanks before a break takes time in the square of their number.
    return "".join([first.rstrip(), *(line.strip() for line in others[:-1]), others[-1].lstrip()]) if others else first
