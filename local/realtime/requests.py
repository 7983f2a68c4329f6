"""A wish for row changes: one entry of a join's `postgres_changes`, as the client wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

KINDS = frozenset({"INSERT", "UPDATE", "DELETE"})


class MalformedRequest(Exception):  # noqa: N818 - reads as what it says
    """The entry names no table, or not in a way that is understood; the message is for the subscriber."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is wished for. `*` stands for any event, schema or table; a `select` of None for all columns."""

    event: str
    schema: str
    table: str
    filter: str = ""
    select: tuple[str, ...] | None = None

    def __str__(self) -> str:
        filtered = f", filter: {self.filter}" if self.filter else ""
        return f"[event: {self.event}, schema: {self.schema}, table: {self.table}{filtered}]"


def parse_request(params: Mapping[str, Any]) -> Request:
    """Read an entry.

    Raises:
        MalformedRequest: it cannot be read.
    """
    event = str(params.get("event", "*")).upper()
    select = _select(params.get("select"))
    schema, table, filter_ = (params.get(name) for name in ("schema", "table", "filter"))
    names = [name for name in ("schema", "table", "filter") if name in params]
    if not all(isinstance(params[name], str) for name in names) or names in ([], ["filter"]):
        raise MalformedRequest(
            "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to:"
            f" {dict(params)}"
        )
    if filter_ is not None and (schema is None or table is None):
        raise MalformedRequest("A `filter` needs a `schema` and a `table`")
    request = Request(
        event=event if event in KINDS else "*",
        schema=schema if schema is not None else "public",
        table=table if table is not None else "*",
        filter=(filter_ or "").strip(),
        select=select,
    )
    if select is not None and "*" in {request.schema, request.table}:
        raise MalformedRequest(
            "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name."
        )
    return request


def _select(value: object) -> tuple[str, ...] | None:
    if isinstance(value, str):
        raise MalformedRequest("Error parsing `select` params: expected a list of column name strings")
    if not isinstance(value, list):
        return None
    names = tuple(name for name in cast("list[object]", value) if isinstance(name, str))
    return names or None
