"""Moving, copying and removing objects."""

from __future__ import annotations

from typing import Any

from psycopg.sql import SQL
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from local.storage.bodies import Copy, Removal, Transfer, read_body
from local.storage.errors import answering_errors, no_such_key, not_supported
from local.storage.incoming import metadata_header
from local.storage.names import check_bucket_name, check_header, check_key
from local.storage.objects import COLUMNS, StoredObject, check_write, find_object, require_bucket
from local.storage.service import Storage, bucket_and_key
from local.storage.uploads import Target, Uploads

_MOVE = """
update storage.objects set bucket_id = %(to_bucket)s, name = %(to_name)s
where bucket_id = %(bucket_id)s and name = %(name)s
"""
# As on Supabase, only what the caller can see is removed: what `returning` shows is subject to the policies too.
_REMOVE = SQL("""
delete from storage.objects where bucket_id = %(bucket_id)s and name = any(%(names)s) returning {}
""").format(COLUMNS)


class Changes:
    def __init__(self, storage: Storage, uploads: Uploads) -> None:
        self._storage = storage
        self._uploads = uploads

    def routes(self, prefix: str) -> list[BaseRoute]:
        base = f"{prefix}/object"
        return [
            Route(f"{base}/move", answering_errors(self.move), methods=["POST"]),
            Route(f"{base}/copy", answering_errors(self.copy), methods=["POST"]),
            Route(f"{base}/{{bucket:name}}", answering_errors(self.remove_many), methods=["DELETE"]),
            Route(f"{base}/{{bucket:name}}/{{key:key}}", answering_errors(self.remove), methods=["DELETE"]),
        ]

    async def move(self, request: Request) -> Response:
        """Give an object another name or bucket. Its file stays where it is: no name is in its path."""
        caller = self._storage.caller(request)
        body = await read_body(request, Transfer)
        to_bucket, to_name = _destination(body)
        values = {"bucket_id": body.bucketId, "name": body.sourceKey, "to_bucket": to_bucket, "to_name": to_name}
        async with self._storage.database.session(request, caller, "object.move") as session:
            await require_bucket(session, body.bucketId)
            await require_bucket(session, to_bucket)
            stored = await find_object(session, body.bucketId, body.sourceKey)
            if not await session.check(_MOVE, values):
                raise no_such_key()
            async with session.as_storage():
                if not await session.write(_MOVE, values):
                    raise no_such_key()
        return JSONResponse({"message": "Successfully moved", "Id": str(stored.id), "Key": f"{to_bucket}/{to_name}"})

    async def copy(self, request: Request) -> Response:
        caller = self._storage.caller(request)
        body = await read_body(request, Copy)
        bucket_id, name = _destination(body)
        is_upsert = request.headers.get("x-upsert") == "true"
        target = Target(bucket_id, name, caller, caller.subject, "object.copy", is_upsert=is_upsert)
        async with self._storage.database.session(request, caller, target.operation) as session:
            await require_bucket(session, body.bucketId)
            await require_bucket(session, bucket_id)
            source = await find_object(session, body.bucketId, body.sourceKey)
            metadata = source.facts if body.copyMetadata else source.facts | _changed(body)
            user_metadata = source.user_metadata if body.copyMetadata else metadata_header(request)
            await check_write(session, target.row("1", metadata, user_metadata), is_upsert=is_upsert)
        file = self._storage.files.open(source.version)
        if file is None:
            raise no_such_key()
        async with self._storage.files.stage() as staged:
            await staged.copy_from(file)
            await staged.finish()
            new = target.row(staged.version, metadata, user_metadata)
            object_id = await self._uploads.commit(request, target, staged, new)
        return JSONResponse({"Id": object_id, "Key": target.path, "name": name, "bucket_id": bucket_id})

    async def remove(self, request: Request) -> Response:
        bucket_id, name = bucket_and_key(request)
        if not await self._remove(request, bucket_id, [check_key(name)], "object.delete"):
            raise no_such_key()
        return JSONResponse({"message": "Successfully deleted"})

    async def remove_many(self, request: Request) -> Response:
        """The rows that are gone. A name that is not there, or that the caller may not remove, is left out."""
        bucket_id = request.path_params["bucket"]
        body = await read_body(request, Removal)
        removed = await self._remove(request, bucket_id, body.prefixes, "object.delete_many")
        return JSONResponse([stored.as_json() for stored in removed])

    async def _remove(self, request: Request, bucket_id: str, names: list[str], operation: str) -> list[StoredObject]:
        caller = self._storage.caller(request)
        values = {"bucket_id": check_bucket_name(bucket_id), "names": names}
        async with self._storage.database.session(request, caller, operation) as session:
            await require_bucket(session, bucket_id)
            removed = [StoredObject.from_row(row) for row in await session.rows(_REMOVE, values)]
        await self._storage.files.discard(stored.version for stored in removed)
        return removed


def _destination(body: Transfer) -> tuple[str, str]:
    if body.sourceVersionId is not None:
        raise not_supported("object versions")
    check_bucket_name(body.bucketId)
    check_key(body.sourceKey)
    return check_bucket_name(body.destinationBucket or body.bucketId), check_key(body.destinationKey)


def _changed(body: Copy) -> dict[str, Any]:
    """What the copy is to be served with, where it differs from its source."""
    headers = {"cacheControl": "Cache-Control", "contentEncoding": "Content-Encoding", "mimetype": "Content-Type"}
    given = body.metadata.model_dump(exclude_none=True)
    return {name: check_header(headers[name], value) for name, value in given.items()}
