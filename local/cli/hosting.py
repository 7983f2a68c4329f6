"""A stack in the foreground: up until a signal, with its database server brought back if it dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from local.cli.signals import stop_event
from local.config import StackConfig
from local.server import WATCH_SECONDS, RunningStack, running_stack

_log = logging.getLogger("runbase.stack")


@asynccontextmanager
async def hosted_stack(config: StackConfig) -> AsyncGenerator[tuple[RunningStack, asyncio.Event]]:
    """Hold a stack while the block runs; the event is set when a signal asks to stop."""
    with stop_event() as stop:
        async with running_stack(config) as stack:
            keeping = asyncio.create_task(_keep_up(stack))
            try:
                yield stack, stop
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)


async def _keep_up(stack: RunningStack) -> None:
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        if not stack.postgres.is_running():
            _log.error("PostgreSQL stopped unexpectedly; starting it again.")
            await asyncio.to_thread(stack.postgres.restart)
