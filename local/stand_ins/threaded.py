"""A stand-in as a server in a thread of its own: tests may block, and workers in other processes may call it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from local.prompt_server import PromptServer

DEADLINE_SECONDS: Final = 20.0


class ThreadedServer:
    """Serves routes on a random port of this machine, from `with` until its end."""

    def serve(self, routes: list[Route]) -> None:
        """Say what is served; before the server is entered."""
        self._released = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            Starlette(routes=routes), log_level="critical", lifespan="off", loop="asyncio", ws="none"
        )
        self._server = PromptServer(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def release(self) -> None:
        """Let what hangs, now and later, go on."""
        self._released.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for `condition`, for instance that a request has arrived.

        Raises:
            TimeoutError: it did not become true by the deadline.
        """
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError("the condition did not become true")
            await asyncio.sleep(0.01)

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise TimeoutError(f"{type(self).__name__} did not start")
            time.sleep(0.005)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self._server.end(force=True)
        self._thread.join(DEADLINE_SECONDS)
        self._socket.close()
