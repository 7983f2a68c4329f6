"""Uploads: the policies are asked before a byte is read and again with the row, the file goes to disk in between."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psycopg.rows import DictRow
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from local.storage.callers import STORAGE, Caller
from local.storage.errors import answering_errors, invalid_request, too_large
from local.storage.files import StagedFile
from local.storage.incoming import FileHead, read_upload
from local.storage.names import FOLDER_PLACEHOLDER, check_bucket_name, check_key, require_allowed
from local.storage.objects import NewObject, check_write, require_bucket, timestamp, write_object
from local.storage.service import Storage, bucket_and_key

LARGEST_FILE = 50 * 1024 * 1024  # the Supabase CLI's default for local stacks
UPLOAD_URL_SECONDS = 2 * 60 * 60

_UNWRITTEN = "1"  # the version of a row that is only tried


@dataclass(frozen=True, slots=True)
class Target:
    """Where an upload goes, for whom, and as what."""

    bucket_id: str
    name: str
    caller: Caller
    owner: str | None
    operation: str
    is_upsert: bool

    @property
    def path(self) -> str:
        return f"{self.bucket_id}/{self.name}"

    def row(self, version: str, metadata: dict[str, Any] | None, user_metadata: dict[str, Any] | None) -> NewObject:
        return NewObject(self.bucket_id, self.name, self.owner, version, metadata, user_metadata)


class Uploads:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def routes(self, prefix: str) -> list[BaseRoute]:
        signed = f"{prefix}/object/upload/sign/{{bucket:name}}/{{key:key}}"
        plain = f"{prefix}/object/{{bucket:name}}/{{key:key}}"
        return [
            Route(signed, answering_errors(self.sign), methods=["POST"]),
            Route(signed, answering_errors(self.upload_signed), methods=["PUT"]),
            Route(plain, answering_errors(self.create), methods=["POST"]),
            Route(plain, answering_errors(self.update), methods=["PUT"]),
        ]

    async def create(self, request: Request) -> Response:
        is_upsert = request.headers.get("x-upsert") == "true"
        return await self._upload(request, self._target(request, "object.upload", is_upsert=is_upsert))

    async def update(self, request: Request) -> Response:
        """As on Supabase, an object that is not there yet is made."""
        return await self._upload(request, self._target(request, "object.upload_update", is_upsert=True))

    async def sign(self, request: Request) -> Response:
        """Let whoever has the URL upload in the caller's name. The policies are asked now, and not again then."""
        is_upsert = request.headers.get("x-upsert") == "true"
        target = self._target(request, "object.sign_upload_url", is_upsert=is_upsert)
        async with self._storage.database.session(request, target.caller, target.operation) as session:
            await require_bucket(session, target.bucket_id)
            await check_write(session, target.row(_UNWRITTEN, None, None), is_upsert=is_upsert)
        claims = {"owner": target.owner, "upsert": is_upsert}
        token = self._storage.signer.sign("upload", target.path, seconds=UPLOAD_URL_SECONDS, claims=claims)
        return JSONResponse({"url": f"/object/upload/sign/{target.path}?token={token}", "token": token})

    async def upload_signed(self, request: Request) -> Response:
        bucket_id, name = bucket_and_key(request)
        token = request.query_params.get("token")
        if token is None:
            raise invalid_request("querystring must have required property 'token'")
        claims = self._storage.signer.verify("upload", token, f"{bucket_id}/{name}")
        target = Target(
            check_bucket_name(bucket_id),
            check_key(name),
            STORAGE,
            claims.get("owner"),
            "object.upload_signed",
            is_upsert=claims.get("upsert") is True,
        )
        return await self._upload(request, target)

    def _target(self, request: Request, operation: str, *, is_upsert: bool) -> Target:
        caller = self._storage.caller(request)
        bucket_id, name = bucket_and_key(request)
        return Target(
            check_bucket_name(bucket_id), check_key(name), caller, caller.subject, operation, is_upsert=is_upsert
        )

    async def _upload(self, request: Request, target: Target) -> Response:
        async with aclosing(read_upload(request)) as pieces:
            head = await anext(pieces)
            if not isinstance(head, FileHead):
                raise TypeError("an upload starts with its head")
            limit = await self._permit(request, target, head)
            if head.size is not None and head.size > limit:
                raise too_large()
            async with self._storage.files.stage() as staged:
                await _receive(pieces, staged, limit=limit)
                new = target.row(staged.version, _metadata(head, staged), head.user_metadata or {})
                object_id = await self.commit(request, target, staged, new)
        return JSONResponse({"Id": object_id, "Key": target.path})

    async def commit(self, request: Request, target: Target, staged: StagedFile, new: NewObject) -> str:
        """Write the row of a finished file, and take the place of what was there; the object's id.

        The policies are asked again: they may have changed while the file came in, and see it whole now. Storage
        itself writes, as on Supabase, so that a project's triggers find here whom they will find there.
        """
        async with self._storage.database.session(request, target.caller, target.operation) as session:
            await check_write(session, new, is_upsert=target.is_upsert)
            async with session.as_storage():
                object_id, replaced = await write_object(session, new, is_upsert=target.is_upsert)
            await staged.place()
        staged.keep()
        await self._storage.files.discard([replaced])
        return str(object_id)

    async def _permit(self, request: Request, target: Target, head: FileHead) -> int:
        """Refuse what the bucket or a policy does not take, before the file is read; else how large it may be."""
        async with self._storage.database.session(request, target.caller, target.operation) as session:
            bucket = await require_bucket(session, target.bucket_id)
            is_folder = target.name.endswith(FOLDER_PLACEHOLDER)
            if not is_folder:
                require_allowed(head.mime_type, bucket["allowed_mime_types"])
            expected = {"mimetype": head.mime_type, "contentLength": head.size}
            await check_write(session, target.row(_UNWRITTEN, expected, head.user_metadata), is_upsert=target.is_upsert)
        return 0 if is_folder else _largest(bucket)


async def _receive(pieces: AsyncGenerator[FileHead | bytes], staged: StagedFile, *, limit: int) -> None:
    async for piece in pieces:
        if isinstance(piece, bytes):
            await staged.write(piece)
            if staged.size > limit:
                raise too_large()
    await staged.finish()


def _largest(bucket: DictRow) -> int:
    limit: int | None = bucket["file_size_limit"]
    return LARGEST_FILE if limit is None else min(limit, LARGEST_FILE)


def _metadata(head: FileHead, staged: StagedFile) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "eTag": staged.etag,
        "size": staged.size,
        "mimetype": head.mime_type,
        "cacheControl": head.cache_control,
        "lastModified": timestamp(datetime.now(UTC)),
        "contentLength": staged.size,
        "httpStatusCode": 200,
    }
    if head.content_encoding:
        facts["contentEncoding"] = head.content_encoding
    return facts
