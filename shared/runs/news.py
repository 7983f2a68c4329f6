"""A flag that one task waits for, without `asyncio.Event`'s list of waiters: a run's execution does so twice a step."""

from __future__ import annotations

import asyncio


class News:
    """Set at any time, from any task of the loop; waited for by one task at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._some = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        self._some = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def clear(self) -> None:
        self._some = False

    async def wait(self) -> None:
        """Return at once if it is set, else when it is."""
        if self._some:
            return
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
