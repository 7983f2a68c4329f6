"""`/storage/v1`: the routes, the sweep at the start, and a clear refusal of what is not served."""

from __future__ import annotations

import logging

import psycopg
from psycopg_pool import PoolTimeout
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from local.services import Part, Services
from local.storage.buckets import Buckets
from local.storage.changes import Changes
from local.storage.database import Database
from local.storage.downloads import Downloads
from local.storage.errors import StorageError, answering_errors, feature_not_enabled, not_supported
from local.storage.files import Files
from local.storage.listing import Lists
from local.storage.service import Storage
from local.storage.signing import UrlSigner
from local.storage.uploads import Uploads

PREFIX = "/storage/v1"
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]

# What a project of Supabase may have switched off: transformed images, the S3 protocol, analytics and vector buckets.
_FEATURES = ("render", "s3", "iceberg", "vector")
_UNSUPPORTED = {"upload": "resumable uploads (TUS)", "cdn": "purging a cache: it has none"}
_DATABASE = """
select system_identifier || '-' || oid from pg_control_system(), pg_database where datname = current_database()
"""

_log = logging.getLogger(__name__)


class _Name(Convertor[str]):
    """A part of the path with any character in it: a name with a line break is refused by rule, not lost on the way."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _Key(_Name):
    """The rest of the path."""

    regex = "(?s:.*)"


def build(services: Services) -> Part:
    """The Storage server's routes. The refusal of the rest comes last: it answers what nobody else does."""
    register_url_convertor("name", _Name())
    register_url_convertor("key", _Key())
    storage = Storage(services.keys, Database(services.pool), UrlSigner(services.keys))
    uploads = Uploads(storage)
    # The order counts: `/object/sign/...` could be a bucket's name too.
    groups = (Buckets(storage), Lists(storage), Downloads(storage), Changes(storage, uploads), uploads)
    about = _About(services)
    return Part(
        routes=[
            *about.routes(PREFIX),
            *(route for group in groups for route in group.routes(PREFIX)),
            about.rest(PREFIX),
        ],
        start=lambda: _start(services, storage),
    )


async def _start(services: Services, storage: Storage) -> None:
    """Find the database's files, and remove those that a killed stack left without a row."""
    async with services.admin_pool.connection() as connection:
        row = await (await connection.execute(_DATABASE)).fetchone()
        if row is None:
            raise RuntimeError("the database has no name")
        # In a folder of the database's own, so that no other one that is served with this directory sweeps it.
        storage.files = Files(services.config.storage_dir / row[0], is_durable=not services.config.ephemeral)

        async def known(versions: list[str]) -> set[str]:
            found = await connection.execute("select version from storage.objects where version = any(%s)", [versions])
            return {version for (version,) in await found.fetchall()}

        removed = await storage.files.sweep(known)
    if removed:
        _log.info("storage.swept files=%d", removed)


class _About:
    """What needs no credentials, and what is not there."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self, prefix: str) -> list[BaseRoute]:
        return [
            Route(f"{prefix}/status", self.status, methods=["GET"]),
            Route(f"{prefix}/health", self.health, methods=["GET"]),
            Route(f"{prefix}/bucket/{{bucket:name}}/lifecycle", answering_errors(self.lifecycle), methods=METHODS),
            *(
                Route(f"{prefix}/{path}/{{rest:key}}", answering_errors(self.unsupported), methods=METHODS)
                for path in _UNSUPPORTED
            ),
            *(
                Route(f"{prefix}/{path}/{{rest:key}}", answering_errors(self.switched_off), methods=METHODS)
                for path in _FEATURES
            ),
        ]

    def rest(self, prefix: str) -> BaseRoute:
        return Route(f"{prefix}/{{rest:key}}", answering_errors(self.not_served), methods=METHODS)

    async def status(self, _: Request) -> Response:
        return Response(status_code=200)

    async def health(self, _: Request) -> Response:
        try:
            async with self._services.pool.connection() as connection:
                await connection.execute("select 1")
        except (psycopg.Error, PoolTimeout):
            return JSONResponse({"healthy": False})
        return JSONResponse({"healthy": True})

    async def lifecycle(self, _: Request) -> Response:
        raise not_supported("object versions")

    async def unsupported(self, request: Request) -> Response:
        raise not_supported(_UNSUPPORTED[request.url.path.removeprefix(f"{PREFIX}/").partition("/")[0]])

    async def switched_off(self, _: Request) -> Response:
        raise feature_not_enabled()

    async def not_served(self, request: Request) -> Response:
        message = f"Route {request.method}:{request.url.path.removeprefix(PREFIX)} not found"
        raise StorageError(404, "NotFound", message, error="Not Found", http_status=404)
