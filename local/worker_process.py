"""A worker in a process of its own, beside a stack.

It ends with the process that started it, however that ends: the worker stops when its standard input closes.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import IO

from local.development import worker_variables

STOP_SECONDS = 10.0


class WorkerProcess:
    """Start, stop and restart `runbase worker`. `log` gets what it prints; None is our own standard error."""

    def __init__(
        self, database_url: str, *, env: Mapping[str, str] | None = None, log: IO[bytes] | None = None
    ) -> None:
        self._env = {**os.environ, **worker_variables(), **(env or {}), "SUPABASE_DB_URL": database_url}
        self._log = log if log is not None else sys.stderr.buffer
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "local.cli", "worker", "--until-stdin-closes",
            stdin=asyncio.subprocess.PIPE, stdout=self._log, stderr=self._log, env=self._env,
            start_new_session=True,  # Ctrl-C is for us; we stop the worker in order
        )  # fmt: skip

    async def ended(self) -> int:
        """Wait until the worker ends and return its exit code. It does not by itself, unless something is wrong."""
        process = self._running()
        return await process.wait()

    async def stop(self) -> None:
        """Stop the worker, giving it time to give back its runs."""
        process = self._running()
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise AssertionError("the worker was never started")
        return self._process


@asynccontextmanager
async def running_worker(
    database_url: str, *, env: Mapping[str, str] | None = None, log: IO[bytes] | None = None
) -> AsyncGenerator[WorkerProcess]:
    """Hold a worker while the block runs."""
    worker = WorkerProcess(database_url, env=env, log=log)
    await worker.start()
    try:
        yield worker
    finally:
        await asyncio.shield(worker.stop())
