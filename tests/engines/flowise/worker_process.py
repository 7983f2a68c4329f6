"""A worker in a process of its own that runs flows, for tests that kill it. Argument: database url."""

from __future__ import annotations

import asyncio
import sys

from shared.direct_database import DirectDatabase
from shared.runs.store import RunStore
from shared.runs.worker import Worker, WorkerOptions
from shared.vault.opening import Vault
from tests.engines.flowise.people import flows_engine
from tests.vault.people import ring


async def main(url: str) -> None:
    async with DirectDatabase(url) as database:
        options = WorkerOptions(poll_seconds=0.1, heartbeat_seconds=0.5)
        await Worker(RunStore(database), flows_engine(), options=options, vault=Vault(database, ring(1))).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
