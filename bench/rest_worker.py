"""Runbase over PostgREST: the same worker with the service key, through the embedded gateway in its own process."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from bench.contender import Taken, contend
from bench.worker import drained
from local.keys import Keys
from shared.rest_database import RestDatabase


async def rest_worker(url: str, *, runs: int, steps: int, at_a_time: int) -> Taken:
    async with _gateway(url) as api_url:
        database = RestDatabase(f"{api_url}/rest/v1", apikey=Keys().secret_key)
        return await drained(database, url, runs=runs, steps=steps, at_a_time=at_a_time)


@asynccontextmanager
async def _gateway(database_url: str) -> AsyncGenerator[str]:
    """Hold a gateway while the block runs; it ends when its input closes, also if we are killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.rest_gateway", database_url, stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        api_url = (await process.stdout.readline()).decode().strip()
        if not api_url:
            raise RuntimeError("the gateway did not start")
        yield api_url
    finally:
        process.stdin.close()
        await process.wait()


if __name__ == "__main__":
    contend(rest_worker)
