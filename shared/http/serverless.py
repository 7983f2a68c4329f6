"""An ASGI application as an AWS Lambda handler (API Gateway v2 or a function URL)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from mangum import Mangum
from starlette.types import ASGIApp

Event = dict[str, Any]
Handler = Callable[[Event, Any], dict[str, Any]]


def serverless(app: ASGIApp) -> Handler:
    """Wrap `app`. One event loop serves every call of the process, so that pooled connections stay usable."""
    mangum = Mangum(cast("Any", app), lifespan="off")  # its own ASGI protocol names the parameters
    loop: asyncio.AbstractEventLoop | None = None

    def handler(event: Event, context: Any) -> dict[str, Any]:
        nonlocal loop
        if loop is None or loop.is_closed():
            loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)  # where Mangum looks for it
        return mangum(event, context)

    return handler
