"""Keeps the one replication stream up while anybody listens, and hands what it brings on in order.

The stream opens with the first listener and closes some time after the last, so a stack without listeners decodes no
log. A stream that breaks is opened anew for as long as it takes; what was committed in between is lost, as on
Supabase, and `on_lost` and `on_back` tell the listeners so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import psycopg

from local.realtime.pgoutput import Change, PgoutputError
from local.realtime.stream import ChangeStream, open_stream

LINGER_SECONDS = 30.0  # the stream outlives its last listener, for one that only reloads its page
READ_SECONDS = 5.0
READY_SECONDS = 5.0  # how long a join waits for the stream
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.1, 2.0

_log = logging.getLogger("local.realtime")


class Feed:
    """One stream for the whole server."""

    def __init__(
        self,
        database_url: str,
        publications: Sequence[str],
        *,
        deliver: Callable[[Sequence[Change]], Awaitable[None]],
        on_lost: Callable[[], None],
        on_back: Callable[[], Awaitable[None]],
    ) -> None:
        self._database_url = database_url
        self._publications = publications
        self._deliver = deliver
        self._on_lost = on_lost
        self._on_back = on_back
        self._listeners = 0
        self._left_at = 0.0
        self._wanted = asyncio.Event()
        self._live = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="realtime-feed")

    async def stop(self) -> None:
        """Close the stream. Returns when its slot is gone or its server is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    @property
    def is_down(self) -> bool:
        """Whether somebody listens and nothing can come."""
        return self._wanted.is_set() and not self._live.is_set()

    def enter(self) -> None:
        """Count one more listener."""
        self._listeners += 1
        self._wanted.set()

    def leave(self) -> None:
        self._listeners -= 1
        if not self._listeners:
            self._left_at = time.monotonic()

    async def ready(self) -> None:
        """Wait until what is committed from now on will be seen. For a listener that has entered.

        Raises:
            TimeoutError: the stream did not come up.
        """
        async with asyncio.timeout(READY_SECONDS):
            await self._live.wait()

    async def _run(self) -> None:
        delay, broken = FIRST_RETRY_SECONDS, False
        while True:
            await self._wanted.wait()
            try:
                async with open_stream(self._database_url, self._publications) as stream:
                    try:
                        self._live.set()
                        if broken:
                            await self._on_back()
                        delay, broken = FIRST_RETRY_SECONDS, False
                        await self._pump(stream)
                    finally:
                        self._live.clear()
            except (psycopg.Error, PgoutputError, OSError) as exc:
                _log.warning("realtime.stream_lost error=%s", str(exc).strip())
            except Exception:  # noqa: BLE001 - the last stop before every channel would go silent for good
                _log.exception("realtime.stream_failed")
            else:
                continue
            if not broken:
                broken = True
                self._on_lost()
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_RETRY_SECONDS)

    async def _pump(self, stream: ChangeStream) -> None:
        """Deliver until nobody has listened for a while."""
        while True:
            changes = await stream.read(timeout_seconds=READ_SECONDS)
            if changes:
                await self._deliver(changes)
            if not self._listeners and time.monotonic() - self._left_at > LINGER_SECONDS:
                # No await between the look and this, so a listener that enters now finds the stream down and waits.
                self._wanted.clear()
                self._live.clear()
                return
