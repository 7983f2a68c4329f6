"""A durable server of its own for a measurement, with a consumer of both publications as Realtime would be."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local.config import PROJECT_DIR
from local.migrate import migrate
from local.platform import apply_platform
from local.postgres import PostgresServer


@contextmanager
def benched(directory: Path) -> Iterator[str]:
    """Superuser's URL of a fresh migrated database with everything on."""
    directory.chmod(0o755)  # PostgreSQL runs as another user where we are root
    server = PostgresServer(directory / "data")
    server.start()
    try:
        asyncio.run(_furnish(server.url))
        consumer = subprocess.Popen([sys.executable, "-m", "bench.consumer", server.url], cwd=PROJECT_DIR)
        try:
            yield server.url
        finally:
            consumer.kill()
            consumer.wait()
    finally:
        server.stop(immediate=True)


async def _furnish(url: str) -> None:
    await apply_platform(url)
    await migrate(url, PROJECT_DIR / "supabase" / "migrations")
