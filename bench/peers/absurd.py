"""Absurd: a task a run, a checkpoint a step.

Its SQL comes with its command line tool, `absurdctl`. Its asynchronous client speaks over one connection, so tasks
spread over several clients, which is faster; at 100 runs at a time, fifty connections
and more were slower than twenty.
"""

from __future__ import annotations

import asyncio

from absurd_sdk import AsyncAbsurd, AsyncTaskContext
from absurdctl import BUNDLED_SCHEMA_SQL
from psycopg import AsyncConnection

from bench.contender import Stopwatch, Taken, check, contend

MAX_CONNECTIONS = 20
POLL_SECONDS = 0.005


class Workers:
    """Clients that share the work, each with a connection of its own; the last run stops them."""

    def __init__(self, url: str, *, at_a_time: int, connections: int) -> None:
        count = min(at_a_time, connections)
        self._share = -(-at_a_time // count)
        self._left = 0
        self.clients = [AsyncAbsurd(url, queue_name="bench") for _ in range(count)]
        for client in self.clients:
            client.register_task("run")(self._run)

    async def spawn(self, runs: int, *, steps: int) -> None:
        for _ in range(runs):
            await self.clients[0].spawn("run", {"steps": steps})
        self._left += runs

    async def work(self) -> None:
        """Until all that was spawned has ended."""
        await asyncio.gather(
            *(client.start_worker(concurrency=self._share, poll_interval=POLL_SECONDS) for client in self.clients)
        )

    async def close(self) -> None:
        await asyncio.gather(*(client.close() for client in self.clients))

    async def _run(self, params: dict[str, int], ctx: AsyncTaskContext) -> dict[str, int]:
        for number in range(params["steps"]):
            await ctx.step(f"s{number}", _noop)
        self._left -= 1
        if self._left == 0:
            for client in self.clients:
                client.stop_worker()
        return params


async def _noop() -> dict[str, bool]:
    return {"ok": True}


async def absurd(url: str, *, runs: int, steps: int, at_a_time: int, connections: int = MAX_CONNECTIONS) -> Taken:
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(BUNDLED_SCHEMA_SQL)
    workers = Workers(url, at_a_time=at_a_time, connections=connections)
    await workers.clients[0].create_queue()
    await workers.spawn(at_a_time, steps=1)
    await workers.work()
    await workers.spawn(runs, steps=steps)

    watch = await Stopwatch.started(url)
    await workers.work()
    taken = watch.stop()

    await workers.close()
    await check(
        url,
        "select (select count(*) from absurd.c_bench), (select count(*) from absurd.t_bench where state = 'completed')",
        runs * steps + at_a_time,
        runs + at_a_time,
    )
    return taken


if __name__ == "__main__":
    contend(absurd)
