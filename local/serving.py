"""Serve an application on a socket of this machine, over a database that is brought up to date before.

Apart from `local.server`, because what is imported here takes as long as the database server does to start.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from local.migrate import migrate
from local.platform import apply_platform
from local.prompt_server import PromptServer

GRACE_SECONDS = 1  # an open stream or websocket gets this long when the stack stops

_log = logging.getLogger("local.server")


@asynccontextmanager
async def serving(app: Starlette, listener: socket.socket) -> AsyncGenerator[None]:
    """Serve an application on a listening socket while the block runs, its lifespan included."""
    server = PromptServer(
        uvicorn.Config(
            app,
            http="httptools",
            ws="websockets-sansio",
            ws_per_message_deflate=False,  # to save bytes on loopback costs time, and memory for every socket
            lifespan="off",  # run here, so that what fails in it is raised and not only logged
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # who calls from this machine could say to be anybody, and no limit would hold
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    async with app.router.lifespan_context(app):
        serve = asyncio.create_task(server.serve([listener]))
        try:
            ready = asyncio.create_task(server.ready.wait())
            await asyncio.wait([serve, ready], return_when=asyncio.FIRST_COMPLETED)
            yield
        finally:
            server.end()
            await serve


async def prepare_database(database_url: str, migrations_dir: Path) -> None:
    """Apply the platform and the project's migrations."""
    await apply_platform(database_url)
    done = await migrate(database_url, migrations_dir)
    if done.seeded:
        _log.info("stack.seeded files=%s", ",".join(done.seeded))
    if done.changed:
        _log.warning(
            "These migrations changed after they were applied, and the database still has the old ones: %s. "
            "Start with an empty data directory to get the new ones.",
            ", ".join(done.changed),
        )
