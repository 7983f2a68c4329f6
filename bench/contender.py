"""How a contender is measured: the same work, in a process of its own, against a database of its own.

A contender's module has one `async def measure(url, *, runs, steps, at_a_time) -> float`. It prepares all it needs,
warms up with `at_a_time` runs of one step over the very connections it will use, calls `settle`, and takes the seconds
from the first claim to the last end. It raises unless the database shows the work done.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
from typing import LiteralString, Protocol

from psycopg import AsyncConnection

SETTLING_SECONDS = 0.2  # a consumer of publications reads what the preparation wrote


class Measure(Protocol):
    """Seconds that `runs` runs of `steps` no-op steps take, `at_a_time` of them at a time, at a superuser's `url`."""

    async def __call__(self, url: str, *, runs: int, steps: int, at_a_time: int) -> float: ...


def contend(measure: Measure) -> None:
    """Be the main program of a contender: the last line printed is `{"seconds": ...}`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    for option in ("--runs", "--steps", "--at-a-time"):
        parser.add_argument(option, type=int, required=True)
    work = vars(parser.parse_args())
    logging.disable(logging.ERROR)  # nobody pays for what is written down meanwhile
    seconds = asyncio.run(measure(work.pop("url"), **work))
    print(json.dumps({"seconds": seconds}))


async def settle(url: str) -> None:
    """Let the server finish what the preparation left it to do, so that the measured part does not pay for it."""
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("checkpoint")
    await asyncio.sleep(SETTLING_SECONDS)


async def check(url: str, query: LiteralString, *expected: int) -> None:
    """Raise unless the query's one row is as expected."""
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        row = await (await connection.execute(query)).fetchone()
    if row != expected:
        raise AssertionError(f"the work was not done: {row}, expected {expected}")
