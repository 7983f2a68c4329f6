"""A database server that died is brought back, also when the first try fails."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from local import server
from local.postgres import EPHEMERAL_SETTINGS, PostgresServer
from tests.support.runs import until


async def test_a_server_that_cannot_be_started_is_tried_again_until_it_can(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody takes the port the moment the server dies, and lets it go later."""
    monkeypatch.setattr(server, "WATCH_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    postgres = PostgresServer(data_dir, port=port, settings=EPHEMERAL_SETTINGS)
    await asyncio.to_thread(postgres.start)
    await asyncio.to_thread(postgres.stop, immediate=True)
    with socket.create_server(("127.0.0.1", port)):
        keeping = asyncio.create_task(server.keep_up(postgres))
        await until(lambda: _logged(caplog, "could not be started"))

    try:
        await until(lambda: asyncio.to_thread(postgres.is_running))
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        await asyncio.to_thread(postgres.stop, immediate=True)


async def _logged(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return text in caplog.text
