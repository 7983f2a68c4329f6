"""A worker of the soak, in a process of its own that may be killed. Arguments: database url, url of the outside.

It stops in order on SIGTERM, and when its standard input closes, so that none outlives the soak.
"""

from __future__ import annotations

import asyncio
import sys

import httpx

from bench.soak.engine import SoakEngine
from local.cli.signals import stop_event
from shared import logs
from shared.direct_database import DirectDatabase
from shared.runs.store import RunStore
from shared.runs.wake import ListenWake
from shared.runs.worker import Worker, WorkerOptions

LEASE_SECONDS = 5.0  # shorter than the product's 15, so that what the dead held moves on within the soak
CALL_SECONDS = 10.0
SNAPSHOT_STEPS = 2  # runs here are short; the product's 50 would never come


async def main(url: str, outside_url: str) -> None:
    logs.configure(level="WARNING", form="text")
    options = WorkerOptions(
        concurrency=50,
        lease_seconds=LEASE_SECONDS,
        heartbeat_seconds=1.0,
        poll_seconds=1.0,
        snapshot_steps=SNAPSHOT_STEPS,
    )
    with stop_event() as stop:
        asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
        async with (
            httpx.AsyncClient(base_url=outside_url, timeout=CALL_SECONDS) as outside,
            DirectDatabase(url) as database,
        ):
            worker = Worker(
                RunStore(database), {SoakEngine.name: SoakEngine(outside)}, options=options, wake=ListenWake(url)
            )
            stopping = asyncio.create_task(_stop_when(stop, worker))
            try:
                await worker.run()
            finally:
                stopping.cancel()
                await asyncio.gather(stopping, return_exceptions=True)


async def _stop_when(stop: asyncio.Event, worker: Worker) -> None:
    await stop.wait()
    worker.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
