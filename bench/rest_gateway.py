"""The embedded gateway over a database, in a process of its own: prints its URL, serves until its input closes."""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import urlsplit

from local.config import StackConfig
from local.gateway import build_gateway
from local.server import listening, serving


async def main(database_url: str) -> None:
    with listening("127.0.0.1", 0) as listener:
        database_port = urlsplit(database_url).port
        assert database_port is not None
        config = StackConfig(port=listener.getsockname()[1], db_port=database_port)
        async with serving(build_gateway(config, database_url, functions_apps={}), listener):
            print(config.api_url, flush=True)
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
