"""How long to wait before the next try: of a failed step, and of a database that is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from shared.errors import DatabaseUnavailable

Read = TypeVar("Read")

BASE_SECONDS: Final = 1.0
CAP_SECONDS: Final = 60.0


def backoff_seconds(failed_attempts: int, *, jitter: float | None = None) -> float:
    """Exponential back-off with equal jitter: half of min(60, 2^(n-1)) for sure, the other half by chance.

    `failed_attempts` counts from 1; `jitter` in [0, 1) replaces chance. Equal jitter keeps a floor, so that a failing
    provider is never asked again at once (AWS Architecture Blog, "Exponential Backoff And Jitter").
    """
    ceiling = min(CAP_SECONDS, BASE_SECONDS * 2 ** min(failed_attempts - 1, 16))
    chance = random.random() if jitter is None else jitter  # noqa: S311 - spread, not secrecy
    return ceiling / 2 + ceiling / 2 * chance


async def patiently(read: Callable[[], Awaitable[Read]]) -> Read:
    """Read again while the database is away, until the caller's own time is up: that is no failure of a step."""
    failures = 0
    while True:
        try:
            return await read()
        except DatabaseUnavailable:
            failures += 1
            await asyncio.sleep(min(5.0, backoff_seconds(failures) / 4))
