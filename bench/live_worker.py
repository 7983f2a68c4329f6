"""A live worker with LISTEN in a process of its own, as `runbase worker` is one. It ends when its input closes."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from bench.paced import PacedEngine
from local.config import PROJECT_DIR
from shared import logs
from shared.direct_database import DirectDatabase
from shared.runs.store import RunStore
from shared.runs.wake import ListenWake
from shared.runs.worker import Worker, WorkerOptions


@asynccontextmanager
async def live_worker(url: str, *, concurrency: int = 20) -> AsyncGenerator[Process]:
    """Hold a worker while the block runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.live_worker", url, str(concurrency), stdin=PIPE, cwd=PROJECT_DIR
    )
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()
        await process.wait()


async def main(url: str, concurrency: int) -> None:
    logs.configure(level="WARNING", form="text")
    async with DirectDatabase(url) as database:
        worker = Worker(
            RunStore(database),
            {PacedEngine.name: PacedEngine()},
            options=WorkerOptions(concurrency=concurrency),
            wake=ListenWake(url),
        )
        asyncio.get_running_loop().add_reader(sys.stdin, worker.stop)
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
