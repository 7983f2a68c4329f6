"""The embedded gateway over a database, in a process of its own: prints its URL, serves until its input closes.

With `--functions` it serves the project's functions too, as `runbase stack` does.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from local.config import PROJECT_DIR, StackConfig
from local.gateway import build_gateway
from local.ports import listening
from local.serving import serving

FUNCTIONS = "--functions"


@asynccontextmanager
async def gateway(database_url: str, *, functions: bool = False) -> AsyncGenerator[str]:
    """Hold a gateway while the block runs, and give its URL."""
    async with gateway_process(database_url, functions=functions) as (api_url, _):
        yield api_url


@asynccontextmanager
async def gateway_process(database_url: str, *, functions: bool) -> AsyncGenerator[tuple[str, int]]:
    """Hold a gateway: its URL and its process. It ends when its input closes, also if we are killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.rest_gateway",
        database_url,
        *([FUNCTIONS] if functions else []),
        stdin=PIPE,
        stdout=PIPE,
        cwd=PROJECT_DIR,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        api_url = (await process.stdout.readline()).decode().strip()
        if not api_url:
            raise RuntimeError("the gateway did not start")
        yield api_url, process.pid
    finally:
        process.stdin.close()
        await process.wait()


async def main(database_url: str, *, functions: bool) -> None:
    with listening("127.0.0.1", 0) as listener:
        database_port = urlsplit(database_url).port
        assert database_port is not None
        config = StackConfig(port=listener.getsockname()[1], db_port=database_port)
        app = build_gateway(config, database_url, functions_apps=None if functions else {})
        async with serving(app, listener):
            print(config.api_url, flush=True)
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], functions=FUNCTIONS in sys.argv[2:]))
