"""A stack in the foreground: up until a signal, with its database server brought back if it dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from local.cli.entry import Interrupted
from local.cli.signals import stop_event
from local.config import StackConfig
from local.errors import StackError
from local.server import RunningStack, keep_up, running_stack


@asynccontextmanager
async def hosted_stack(config: StackConfig) -> AsyncGenerator[tuple[RunningStack, asyncio.Event]]:
    """Hold a stack while the block runs; the event is set when a signal asks to stop.

    Starting and stopping are never broken off, so nothing is left running.
    """
    with stop_event() as stop:
        async with AsyncExitStack() as cleanup:
            try:
                stack = await cleanup.enter_async_context(running_stack(config))
            except StackError as error:
                # Ctrl-C goes to initdb too, and it gives up.
                raise Interrupted if stop.is_set() else error from error
            keeping = asyncio.create_task(keep_up(stack.postgres))
            try:
                yield stack, stop
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
