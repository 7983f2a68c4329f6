"""uvicorn's server for stacks that come and go: it says when it is ready, and it ends as soon as it is told to.

uvicorn itself looks every 100 ms whether it is to end, and then sleeps for another 100 ms whether anybody is connected
or not. What is under way has its time, as there: `timeout_graceful_shutdown`, after which it is cut off.
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress

import uvicorn

_LOOK_SECONDS = 0.005
_FORCED_SECONDS = 0.1  # who is forced to end, or cut off, gets no longer than this to do so


class PromptServer(uvicorn.Server):
    """Leaves the process's signal handlers to whoever owns the process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._told = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def end(self, *, force: bool = False) -> None:
        """Tell it to end, from any thread. With `force` it waits for nobody, or no longer. Once ended, it stays so."""
        self.force_exit = self.force_exit or force
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # its loop is closed: it has ended by itself
                self._loop.call_soon_threadsafe(self._told.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        ticks, told = asyncio.create_task(super().main_loop()), asyncio.create_task(self._told.wait())
        try:
            done, _ = await asyncio.wait([ticks, told], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ticks.cancel()
            told.cancel()
        if ticks in done:
            ticks.result()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        began = time.monotonic()
        while self.server_state.connections or self.server_state.tasks:  # uvicorn tells nobody when one ends
            if time.monotonic() - began >= self._patience():
                await self._cut_off()
                break
            await asyncio.sleep(_LOOK_SECONDS)
        await self.lifespan.shutdown()

    def _patience(self) -> float:
        if self.force_exit:
            return _FORCED_SECONDS
        grace = self.config.timeout_graceful_shutdown
        return math.inf if grace is None else grace

    async def _cut_off(self) -> None:
        """End what is under way, before what it stands on ends; also where nobody reads what was written."""
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_FORCED_SECONDS)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
