"""The floor of whoever commits each step by itself: a connection a run, one small transaction a step, and no engine.

A step's result is written and its run moved on, unless somebody else has moved it, by one prepared statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from psycopg import AsyncConnection

from bench.contender import Stopwatch, Taken, check, contend

TABLES = (
    """
    create table runs (id integer primary key, step integer not null, updated_at timestamptz not null)
      with (fillfactor = 50)
    """,
    "create table steps (run_id integer, step integer, output jsonb not null, primary key (run_id, step))",
)
STEP = """
    with moved as (
      update runs set step = step + 1, updated_at = now() where id = %(run)s and step = %(step)s returning id
    )
    insert into steps (run_id, step, output) select id, %(step)s, '{"ok": true}' from moved
"""


async def transactions(url: str, *, runs: int, steps: int, at_a_time: int) -> Taken:
    connections = [await AsyncConnection.connect(url, autocommit=True, prepare_threshold=0) for _ in range(at_a_time)]
    for table in TABLES:
        await connections[0].execute(table)
    await connections[0].execute(
        "insert into runs (id, step, updated_at) select id, 0, now() from generate_series(1, %s) id", [runs + at_a_time]
    )
    warming = iter(range(runs + 1, runs + at_a_time + 1))
    await asyncio.gather(*(_drain(connection, warming, steps=1) for connection in connections))

    todo = iter(range(1, runs + 1))
    watch = await Stopwatch.started(url)
    await asyncio.gather(*(_drain(connection, todo, steps=steps) for connection in connections))
    taken = watch.stop()

    await asyncio.gather(*(connection.close() for connection in connections))
    await check(url, "select count(*) from steps", runs * steps + at_a_time)
    return taken


async def _drain(connection: AsyncConnection, todo: Iterator[int], *, steps: int) -> None:
    for run in todo:
        for step in range(steps):
            await connection.execute(STEP, {"run": run, "step": step})


if __name__ == "__main__":
    contend(transactions)
