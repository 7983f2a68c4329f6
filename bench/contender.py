"""How a contender is measured: the same work, in a process of its own, against a database of its own.

A contender's module has one `async def measure(url, *, runs, steps, at_a_time) -> Taken`. It prepares all it needs,
warms up with `at_a_time` runs of one step over the very connections it will use, starts a stopwatch before the first
claim and stops it after the last end. It raises unless the database shows the work done.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import LiteralString, Protocol

import psutil
from psycopg import AsyncConnection

SETTLING_SECONDS = 0.2  # a consumer of publications reads what the preparation wrote


@dataclass(frozen=True, slots=True)
class Taken:
    """What the work took, in seconds: by the clock, and of processors by the contender's process and by PostgreSQL."""

    seconds: float
    process_seconds: float
    server_seconds: float


class Measure(Protocol):
    """What `runs` runs of `steps` no-op steps take, `at_a_time` of them at a time, at a superuser's `url`."""

    async def __call__(self, url: str, *, runs: int, steps: int, at_a_time: int) -> Taken: ...


class Stopwatch:
    """Runs from `started` to `stop`."""

    def __init__(self, postmaster: psutil.Process) -> None:
        self._postmaster = postmaster
        self._server = _processor_seconds(postmaster)
        self._process = time.process_time()
        self._start = time.perf_counter()

    @classmethod
    async def started(cls, url: str) -> Stopwatch:
        """Let the server finish what the preparation left it to do, so that the work does not pay; then start."""
        async with await AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute("checkpoint")
            postmaster = psutil.Process(connection.info.backend_pid).parent()
        assert postmaster is not None
        await asyncio.sleep(SETTLING_SECONDS)
        return cls(postmaster)

    def stop(self) -> Taken:
        seconds = time.perf_counter() - self._start
        process = time.process_time() - self._process
        server = _processor_seconds(self._postmaster)
        return Taken(seconds, process, sum(now - self._server.get(pid, 0.0) for pid, now in server.items()))


def contend(measure: Measure) -> None:
    """Be the main program of a contender: the last line printed is what it took, as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    for option in ("--runs", "--steps", "--at-a-time"):
        parser.add_argument(option, type=int, required=True)
    work = vars(parser.parse_args())
    logging.disable(logging.ERROR)  # nobody pays for what is written down meanwhile
    taken = asyncio.run(measure(work.pop("url"), **work))
    print(json.dumps(asdict(taken)))


async def check(url: str, query: LiteralString, *expected: int) -> None:
    """Raise unless the query's one row is as expected."""
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        row = await (await connection.execute(query)).fetchone()
    if row != expected:
        raise AssertionError(f"the work was not done: {row}, expected {expected}")


def _processor_seconds(postmaster: psutil.Process) -> dict[int, float]:
    """Of each of its processes, by process id."""
    found: dict[int, float] = {}
    for process in postmaster.children():
        try:
            found[process.pid] = _processor_seconds_of(process)
        except psutil.NoSuchProcess:
            continue  # a connection that was just closed
    return found


def _processor_seconds_of(process: psutil.Process) -> float:
    try:
        # Nanoseconds. What Linux tells elsewhere are whole hundredths of a second, and one of a hundred takes less.
        return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0]) / 1e9
    except FileNotFoundError:
        times = process.cpu_times()
        return times.user + times.system
