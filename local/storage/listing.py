"""Lists of a bucket's objects: one folder at a time (v1), or by prefix with a cursor (v2)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from psycopg.rows import DictRow
from psycopg.sql import SQL, Composed, Identifier
from pydantic import AwareDatetime, TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from local.storage.bodies import Column, Listing, ListingV2, Order, read_body
from local.storage.errors import StorageError, answering_errors
from local.storage.names import check_bucket_name
from local.storage.objects import timestamp
from local.storage.service import Storage

_MOST_V2 = 1000

# Folders come first, as on Supabase: they have no row of their own, and nothing but a name to be sorted by.
_FOLDER = SQL("""
with below as (
  select substr(name, length(%(prefix)s) + 1) as rest, id, updated_at, created_at, last_accessed_at, metadata
  from storage.objects
  where bucket_id = %(bucket_id)s and starts_with(name, %(prefix)s)
), entries as (
  select split_part(rest, '/', 1) as name, null::uuid as id, null::timestamptz as updated_at,
    null::timestamptz as created_at, null::timestamptz as last_accessed_at, null::jsonb as metadata
  from below where position('/' in rest) > 0 group by 1
  union all
  select rest, id, updated_at, created_at, last_accessed_at, metadata from below where position('/' in rest) = 0
)
select * from entries where starts_with(lower(name), lower(%(search)s))
order by id is not null, {order}
limit %(limit)s offset %(offset)s
""")
_FLAT = SQL("""
select name, id, updated_at, created_at, last_accessed_at, metadata
from storage.objects
where bucket_id = %(bucket_id)s and starts_with(name, %(prefix)s)
""")
# A folder is as old as the first object in it, and as new as the last change below it.
_DELIMITED = SQL("""
select left(name, length(%(prefix)s) + position('/' in substr(name, length(%(prefix)s) + 1))) as name,
  null::uuid as id, max(updated_at) as updated_at, min(created_at) as created_at,
  null::timestamptz as last_accessed_at, null::jsonb as metadata
from storage.objects
where bucket_id = %(bucket_id)s and starts_with(name, %(prefix)s)
  and position('/' in substr(name, length(%(prefix)s) + 1)) > 0
group by 1
union all
select name, id, updated_at, created_at, last_accessed_at, metadata
from storage.objects
where bucket_id = %(bucket_id)s and starts_with(name, %(prefix)s)
  and position('/' in substr(name, length(%(prefix)s) + 1)) = 0
""")
_POSITION: TypeAdapter[tuple[Column, Order, str, AwareDatetime | None]] = TypeAdapter(
    tuple[Column, Order, str, AwareDatetime | None]
)
_PAGE = SQL("""
select * from ({entries}) as entry
where %(after_name)s::text is null or {key} {beyond} {after}
order by {order}
limit %(limit)s
""")


class Lists:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def routes(self, prefix: str) -> list[BaseRoute]:
        return [
            Route(f"{prefix}/object/list/{{bucket:name}}", answering_errors(self.folder), methods=["POST"]),
            Route(f"{prefix}/object/list-v2/{{bucket:name}}", answering_errors(self.page), methods=["POST"]),
        ]

    async def folder(self, request: Request) -> Response:
        """What lies directly in one folder; `search` is how names in it begin, in any case."""
        caller = self._storage.caller(request)
        bucket_id = check_bucket_name(request.path_params["bucket"])
        body = await read_body(request, Listing)
        order = _order(body.sortBy.column, body.sortBy.order)
        values = {
            "bucket_id": bucket_id,
            "prefix": f"{body.prefix.rstrip('/')}/" if body.prefix.rstrip("/") else "",
            "search": body.search,
            "limit": body.limit,
            "offset": body.offset,
        }
        async with self._storage.database.session(request, caller, "object.list") as session:
            rows = await session.rows(_FOLDER.format(order=order), values)
        return JSONResponse([_entry(row) for row in rows])

    async def page(self, request: Request) -> Response:
        """Objects under a prefix, in a total order, so that a cursor neither repeats nor misses any.

        A cursor carries the order of the list that it goes on with.
        """
        caller = self._storage.caller(request)
        bucket_id = check_bucket_name(request.path_params["bucket"])
        body = await read_body(request, ListingV2)
        cursor = _Cursor.decode(body.cursor) if body.cursor else _Cursor(body.sortBy.column, body.sortBy.order)
        limit = min(body.limit, _MOST_V2)
        values = {
            "bucket_id": bucket_id,
            "prefix": body.prefix,
            "after_name": cursor.name,
            "after_value": cursor.value,
            "limit": limit + 1,
        }
        async with self._storage.database.session(request, caller, "object.list_v2") as session:
            rows = await session.rows(cursor.statement(_DELIMITED if body.with_delimiter else _FLAT), values)
        page = rows[:limit]
        has_next = len(rows) > limit
        answer: dict[str, Any] = {
            "hasNext": has_next,
            "folders": [{"name": row["name"], "key": _last_part(row["name"])} for row in page if row["id"] is None],
            "objects": [
                {**_entry(row), "key": _last_part(row["name"]) if body.with_delimiter else row["name"]}
                for row in page
                if row["id"] is not None
            ],
        }
        if has_next:
            answer["nextCursor"] = cursor.after(page[-1]).encode()
        return JSONResponse(answer)


@dataclass(frozen=True, slots=True)
class _Cursor:
    """The order of a list, and the entry it has come to."""

    column: Column
    order: Order
    name: str | None = None
    value: AwareDatetime | None = None

    @classmethod
    def decode(cls, text: str) -> _Cursor:
        try:
            return cls(*_POSITION.validate_json(base64.urlsafe_b64decode(text)))
        except (binascii.Error, ValueError) as exc:
            raise StorageError(400, "InvalidParameter", "Invalid Parameter cursor") from exc

    def encode(self) -> str:
        return base64.urlsafe_b64encode(orjson.dumps([self.column, self.order, self.name, self.value])).decode()

    def after(self, row: DictRow) -> _Cursor:
        value = None if self.column == "name" else row[self.column]
        return _Cursor(self.column, self.order, row["name"], value)

    def statement(self, entries: SQL) -> Composed:
        is_by_name = self.column == "name"
        name = SQL('name collate "C"')
        key = SQL("({})").format(name) if is_by_name else SQL("({}, {})").format(Identifier(self.column), name)
        after = SQL("(%(after_name)s)") if is_by_name else SQL("(%(after_value)s::timestamptz, %(after_name)s)")
        return _PAGE.format(
            entries=entries,
            key=key,
            beyond=SQL(">" if self.order == "asc" else "<"),
            after=after,
            order=_order(self.column, self.order),
        )


def _order(column: str, order: Order) -> Composed:
    direction = SQL("desc" if order == "desc" else "asc")
    by_name = SQL('name collate "C" {}').format(direction)
    return by_name if column == "name" else SQL("{} {}, {}").format(Identifier(column), direction, by_name)


def _last_part(name: str) -> str:
    """What an object or a folder is called within its folder."""
    return name.rstrip("/").rpartition("/")[2]


def _entry(row: DictRow) -> dict[str, Any]:
    shown = {name: timestamp(value) if isinstance(value, datetime) else value for name, value in row.items()}
    return {**shown, "id": str(row["id"]) if row["id"] else None}
