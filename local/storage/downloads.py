"""Downloads and what is known of an object: by the caller's policies, from a public bucket, or by a signed URL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import BinaryIO

from psycopg.rows import DictRow
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from local.storage.bodies import SignMany, SignOne, read_body
from local.storage.callers import STORAGE, Caller
from local.storage.database import Session
from local.storage.errors import answering_errors, invalid_request, no_such_bucket, no_such_key, not_supported
from local.storage.names import check_bucket_name, check_key
from local.storage.objects import StoredObject, find_object, require_bucket, timestamp
from local.storage.outgoing import file_response
from local.storage.service import Storage, bucket_and_key

_TRIES = 3  # a file may be replaced between the look at its row and its opening


class Downloads:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def routes(self, prefix: str) -> list[BaseRoute]:
        base, path = f"{prefix}/object", "{bucket:name}/{key:key}"
        reading = ["GET"]  # and HEAD, which Starlette adds
        return [
            Route(f"{base}/public/{path}", answering_errors(self.get_public), methods=reading),
            Route(f"{base}/authenticated/{path}", answering_errors(self.get_authenticated), methods=reading),
            Route(f"{base}/info/public/{path}", answering_errors(self.info_public), methods=reading),
            Route(f"{base}/info/authenticated/{path}", answering_errors(self.info_authenticated), methods=reading),
            Route(f"{base}/info/{path}", answering_errors(self.info), methods=reading),
            Route(f"{base}/sign/{path}", answering_errors(self.get_signed), methods=reading),
            Route(f"{base}/sign/{path}", answering_errors(self.sign), methods=["POST"]),
            Route(f"{base}/sign/{{bucket:name}}", answering_errors(self.sign_many), methods=["POST"]),
            Route(f"{base}/{path}", answering_errors(self.get), methods=reading),
        ]

    async def get(self, request: Request) -> Response:
        caller = self._storage.caller_or_nobody(request)
        return await self._send(request, caller, "object.get_authenticated")

    async def get_authenticated(self, request: Request) -> Response:
        return await self._send(request, self._storage.caller(request), "object.get_authenticated")

    async def get_public(self, request: Request) -> Response:
        return await self._send(request, STORAGE, "object.get_public", public_only=True)

    async def info(self, request: Request) -> Response:
        caller = self._storage.caller_or_nobody(request)
        return await self._tell(request, caller, "object.info_authenticated")

    async def info_authenticated(self, request: Request) -> Response:
        return await self._tell(request, self._storage.caller(request), "object.info_authenticated")

    async def info_public(self, request: Request) -> Response:
        return await self._tell(request, STORAGE, "object.info_public", public_only=True)

    async def get_signed(self, request: Request) -> Response:
        """Whoever holds the URL gets what its signer could see."""
        bucket_id, name = bucket_and_key(request)
        token = request.query_params.get("token")
        if token is None:
            raise invalid_request("querystring must have required property 'token'")
        claims = self._storage.signer.verify("download", token, f"{bucket_id}/{name}")
        expires = datetime.fromtimestamp(claims["exp"], UTC)
        return await self._send(request, STORAGE, "object.get_signed", expires=expires)

    async def sign(self, request: Request) -> Response:
        caller = self._storage.caller(request)
        bucket_id, name = _names(request)
        body = await read_body(request, SignOne)
        _refuse_extras(body)
        async with self._storage.database.session(request, caller, "object.sign") as session:
            stored = await find_object(session, bucket_id, name)
        return JSONResponse({"signedURL": self._signed_url(stored.path, body.expiresIn)})

    async def sign_many(self, request: Request) -> Response:
        """One answer for each path, in the order asked; a path that the caller cannot see has an error instead."""
        caller = self._storage.caller(request)
        bucket_id = check_bucket_name(request.path_params["bucket"])
        body = await read_body(request, SignMany)
        _refuse_extras(body)
        async with self._storage.database.session(request, caller, "object.sign_many") as session:
            visible = await session.rows(
                "select name from storage.objects where bucket_id = %(bucket_id)s and name = any(%(names)s)",
                {"bucket_id": bucket_id, "names": body.paths},
            )
        names = {row["name"] for row in visible}
        unseen = "Either the object does not exist or you do not have access to it"
        return JSONResponse(
            [
                {
                    "error": None if path in names else unseen,
                    "path": path,
                    "signedURL": self._signed_url(f"{bucket_id}/{path}", body.expiresIn) if path in names else None,
                }
                for path in body.paths
            ]
        )

    def _signed_url(self, path: str, seconds: int) -> str:
        return f"/object/sign/{path}?token={self._storage.signer.sign('download', path, seconds=seconds)}"

    async def _send(
        self,
        request: Request,
        caller: Caller,
        operation: str,
        *,
        public_only: bool = False,
        expires: datetime | None = None,
    ) -> Response:
        stored, file = await self._open(request, caller, operation, public_only=public_only)
        return file_response(request, stored, file, expires=expires)

    async def _tell(self, request: Request, caller: Caller, operation: str, *, public_only: bool = False) -> Response:
        stored, file = await self._open(request, caller, operation, public_only=public_only)
        file.close()
        facts = stored.facts
        return JSONResponse(
            {
                "id": str(stored.id),
                "name": stored.name,
                "version": stored.version,
                "bucket_id": stored.bucket_id,
                "size": facts.get("size"),
                "content_type": facts.get("mimetype"),
                "cache_control": facts.get("cacheControl"),
                "etag": facts.get("eTag"),
                "metadata": stored.user_metadata,
                "last_modified": timestamp(stored.last_modified),
                "created_at": timestamp(stored.created_at),
            }
        )

    async def _open(
        self, request: Request, caller: Caller, operation: str, *, public_only: bool
    ) -> tuple[StoredObject, BinaryIO]:
        bucket_id, name = _names(request)
        for _ in range(_TRIES):
            async with self._storage.database.session(request, caller, operation) as session:
                stored = await _find(session, bucket_id, name, public_only=public_only)
            file = self._storage.files.open(stored.version)
            if file is not None:
                return stored, file
        raise no_such_key()  # the row has no file: it was written by hand


async def _find(session: Session, bucket_id: str, name: str, *, public_only: bool) -> StoredObject:
    """The object, if its bucket is public or the policies show it. Whoever is nobody sees public buckets only."""
    bucket: DictRow = await require_bucket(session, bucket_id)
    if bucket["public"]:
        async with session.as_storage():
            return await find_object(session, bucket_id, name)
    if public_only or not session.caller.is_authenticated:
        raise no_such_bucket()
    return await find_object(session, bucket_id, name)


def _names(request: Request) -> tuple[str, str]:
    bucket_id, name = bucket_and_key(request)
    return check_bucket_name(bucket_id), check_key(name)


def _refuse_extras(body: SignOne) -> None:
    # As in a project without image transformation, `transform` changes nothing: the URL is the object's own.
    if body.versionId is not None:
        raise not_supported("object versions")
