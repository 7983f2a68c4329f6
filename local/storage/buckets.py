"""Buckets: making, showing, changing, emptying and deleting them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psycopg.rows import DictRow
from psycopg.sql import SQL, Identifier, Placeholder
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from local.storage.bodies import BucketChange, BucketListing, NewBucket, read_body, read_query
from local.storage.errors import (
    access_denied,
    answering_errors,
    bucket_not_empty,
    no_such_bucket,
    not_supported,
)
from local.storage.names import check_bucket_name, check_mime_types, parse_size
from local.storage.objects import timestamp, uuid_or_none
from local.storage.service import Storage
from local.storage.uploads import LARGEST_FILE

_COLUMNS = SQL("id, name, owner, public, file_size_limit, allowed_mime_types, created_at, updated_at")
_FIND = SQL("select {} from storage.buckets where id = %(id)s").format(_COLUMNS)
_LIST = """
select {columns} from storage.buckets
where position(lower(%(search)s) in lower(name)) > 0
order by {column} {order}, id
limit %(limit)s offset %(offset)s
"""
_INSERT = """
insert into storage.buckets (id, name, owner, owner_id, public, file_size_limit, allowed_mime_types)
values (%(id)s, %(name)s, %(owner)s, %(owner_id)s, %(public)s, %(file_size_limit)s, %(allowed_mime_types)s)
"""
_MOST_NAMED = 10  # objects that an error lists


class Buckets:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def routes(self, prefix: str) -> list[BaseRoute]:
        all_, one = f"{prefix}/bucket", f"{prefix}/bucket/{{bucket:name}}"
        routes: list[BaseRoute] = []
        for base in (all_, f"{all_}/"):
            routes += [
                Route(base, answering_errors(self.list), methods=["GET"]),
                Route(base, answering_errors(self.create), methods=["POST"]),
            ]
        return [
            *routes,
            Route(f"{one}/empty", answering_errors(self.empty), methods=["POST"]),
            Route(one, answering_errors(self.get), methods=["GET"]),
            Route(one, answering_errors(self.update), methods=["PUT"]),
            Route(one, answering_errors(self.delete), methods=["DELETE"]),
        ]

    async def list(self, request: Request) -> Response:
        caller = self._storage.caller(request)
        asked = read_query(request.query_params, BucketListing)
        statement = SQL(_LIST).format(
            columns=_COLUMNS,
            column=Identifier(asked.sortColumn),
            order=SQL("desc" if asked.sortOrder == "desc" else "asc"),
        )
        values = {"search": asked.search, "limit": asked.limit, "offset": asked.offset}
        async with self._storage.database.session(request, caller, "bucket.list") as session:
            rows = await session.rows(statement, values)
        return JSONResponse([_shown(row) for row in rows])

    async def get(self, request: Request) -> Response:
        caller = self._storage.caller(request)
        async with self._storage.database.session(request, caller, "bucket.get") as session:
            row = await session.row(_FIND, {"id": request.path_params["bucket"]})
        if row is None:
            raise no_such_bucket()
        return JSONResponse(_shown(row))

    async def create(self, request: Request) -> Response:
        caller = self._storage.caller(request)
        body = await read_body(request, NewBucket)
        if body.type not in {None, "STANDARD"}:
            raise not_supported(f"buckets of the type {body.type}")
        _refuse_versions(body.versioning_status)
        values = {
            "id": check_bucket_name(body.id or body.name),
            "name": check_bucket_name(body.name),
            "owner": uuid_or_none(caller.subject),
            "owner_id": caller.subject,
            "public": body.public,
            "file_size_limit": parse_size(body.file_size_limit, largest=LARGEST_FILE),
            "allowed_mime_types": check_mime_types(body.allowed_mime_types),
        }
        async with self._storage.database.session(request, caller, "bucket.create") as session:
            await session.write(_INSERT, values)
        return JSONResponse({"name": body.name})

    async def update(self, request: Request) -> Response:
        caller = self._storage.caller(request)
        body = await read_body(request, BucketChange)
        _refuse_versions(body.versioning_status)
        given: dict[str, Any] = {
            "public": bool(body.public),
            "file_size_limit": parse_size(body.file_size_limit, largest=LARGEST_FILE),
            "allowed_mime_types": check_mime_types(body.allowed_mime_types),
        }
        changes = {name: value for name, value in given.items() if name in body.model_fields_set}
        assignments = [SQL("{} = {}").format(Identifier(name), Placeholder(name)) for name in changes]
        statement = SQL("update storage.buckets set {} where id = %(id)s").format(
            SQL(", ").join([*assignments, SQL("updated_at = now()")])
        )
        async with self._storage.database.session(request, caller, "bucket.update") as session:
            if not await session.write(statement, {**changes, "id": request.path_params["bucket"]}):
                raise no_such_bucket()
        return JSONResponse({"message": "Successfully updated"})

    async def empty(self, request: Request) -> Response:
        """Remove what the caller can see in the bucket, all of it or nothing."""
        caller = self._storage.caller(request)
        values = {"id": request.path_params["bucket"], "limit": _MOST_NAMED}
        async with self._storage.database.session(request, caller, "bucket.empty") as session:
            if await session.row(_FIND, values) is None:
                raise no_such_bucket()
            removed = await session.rows(
                "delete from storage.objects where bucket_id = %(id)s returning version", values
            )
            left = await session.rows(
                "select name from storage.objects where bucket_id = %(id)s order by name limit %(limit)s", values
            )
            if left:
                names = " ,".join(row["name"] for row in left)
                raise access_denied(f"Cannot delete: {names}, you may have SELECT but not DELETE permissions")
        await self._storage.files.discard(row["version"] for row in removed)
        return JSONResponse({"message": "Successfully emptied"})

    async def delete(self, request: Request) -> Response:
        caller = self._storage.caller(request)
        values = {"id": request.path_params["bucket"]}
        async with self._storage.database.session(request, caller, "bucket.delete") as session:
            async with session.as_storage():
                # Locked, so that no object comes in between.
                if await session.row("select id from storage.buckets where id = %(id)s for update", values) is None:
                    raise no_such_bucket()
                if await session.row("select id from storage.objects where bucket_id = %(id)s limit 1", values):
                    raise bucket_not_empty()
            if not await session.write("delete from storage.buckets where id = %(id)s", values):
                raise no_such_bucket()
        return JSONResponse({"message": "Successfully deleted"})


def _refuse_versions(status: str | None) -> None:
    if status not in {None, "DISABLED"}:
        raise not_supported("object versions")


def _shown(row: DictRow) -> dict[str, Any]:
    moments = {name: timestamp(value) for name, value in row.items() if isinstance(value, datetime)}
    return {**row, **moments, "owner": str(row["owner"] or ""), "type": "STANDARD"}
