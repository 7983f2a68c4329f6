"""What a database that is far away costs: round trips and time a step at simulated distances.

The worker is connected through a proxy that delays what passes. A run's own steps wait for each other, so one alone
pays a round trip a step; many at a time share theirs.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from typing import TypedDict

from psycopg import AsyncConnection
from rich.console import Console
from rich.table import Table

from bench.counted import CountedDatabase
from bench.far import far
from bench.machine import described, machine
from bench.options import positive
from bench.progress import say
from bench.server import runbase_database
from bench.spread import Limit, sentences
from bench.work import LEASE_SECONDS, queue_runs
from bench.worker import NoOpEngine
from shared.direct_database import DirectDatabase
from shared.runs.store import RunStore
from shared.runs.worker import Worker, WorkerOptions

QUICK = ("--steps", "10", "--at-a-time", "1", "10")
MILLISECONDS = (0.0, 2.0, 10.0)
AT_A_TIME = (1, 10, 100)
ADVANCE = "advance_runs"
PINGS = 21
CONNECTIONS = 4  # calls that a worker makes at a time, and some
TRIES = 50


class Row(TypedDict):
    """One distance and concurrency.

    `ping_ms` is what a `select 1` takes; `step_ms` what a run waits for each of its steps. `advances` and `calls`
    (of any kind: claims and ticks too) are for each step of any run, `round_trips` for each call.
    """

    distance_ms: float
    at_a_time: int
    ping_ms: float
    step_ms: float
    steps_a_second: float
    advances: float
    calls: float
    round_trips: float


class Figures(TypedDict):
    """What a measurement found."""

    machine: dict[str, str]
    steps: int
    rows: list[Row]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=positive, default=50, help="steps a run (default 50)")
    parser.add_argument(
        "--at-a-time",
        type=positive,
        nargs="+",
        default=AT_A_TIME,
        metavar="N",
        help="runs at a time (default 1 10 100)",
    )


def measure(server_url: str, options: argparse.Namespace) -> Figures:
    about = machine(server_url)
    rows: list[Row] = []
    for milliseconds in MILLISECONDS:
        for at_a_time in options.at_a_time:
            with runbase_database(server_url) as url:
                rows.append(asyncio.run(_row(url, milliseconds, at_a_time=at_a_time, steps=options.steps)))
            say(f"{milliseconds:g} ms away, {at_a_time} at a time: {rows[-1]['step_ms']:.2f} ms a step")
    return {"machine": about, "steps": options.steps, "rows": rows}


def missed(figures: Figures) -> list[str]:
    """A sentence for every budget that was not kept: one call a step, one for the first, one round trip a call."""
    steps = figures["steps"]
    limits = [
        Limit(
            f"calls to advance a step, {row['distance_ms']:g} ms away, {row['at_a_time']} at a time",
            row["advances"],
            (steps + 1) / steps,
        )
        for row in figures["rows"]
    ]
    limits += [
        Limit(
            f"round trips a call, {row['distance_ms']:g} ms away, {row['at_a_time']} at a time", row["round_trips"], 1
        )
        for row in figures["rows"]
    ]
    return sentences(limits)


def show(figures: Figures, console: Console) -> None:
    table = Table(title=f"A database far away: runs of {figures['steps']} no-op steps")
    for column in (
        "distance ms", "select 1 ms", "at a time", "ms a step of a run", "steps/s", "advances a step", "calls a step",
        "round trips a call",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for row in figures["rows"]:
        parts = (row["step_ms"], row["steps_a_second"], row["advances"], row["calls"], row["round_trips"])
        table.add_row(
            f"{row['distance_ms']:g}",
            f"{row['ping_ms']:.2f}",
            str(row["at_a_time"]),
            *(f"{part:,.0f}" if part > 1000 else f"{part:.2f}" for part in parts),
        )
    console.print(table)
    console.print(described(figures["machine"]), markup=False)


async def _row(url: str, milliseconds: float, *, at_a_time: int, steps: int) -> Row:
    with far(url, milliseconds=milliseconds) as (far_url, trips):
        ping = await _ping(far_url)
        async with DirectDatabase(far_url, connections=CONNECTIONS) as direct:
            await queue_runs(url, at_a_time)
            await _drain(CountedDatabase(direct), at_a_time=at_a_time, steps=1)
            await _open_all(direct, trips)
            await queue_runs(url, at_a_time)
            database = CountedDatabase(direct)
            trips_before, start = trips(), time.perf_counter()
            await _drain(database, at_a_time=at_a_time, steps=steps)
            seconds, made = time.perf_counter() - start, trips() - trips_before
    calls = database.calls.total()
    return {
        "distance_ms": milliseconds,
        "at_a_time": at_a_time,
        "ping_ms": ping,
        "step_ms": seconds / steps * 1000,
        "steps_a_second": at_a_time * steps / seconds,
        "advances": database.calls[ADVANCE] / (at_a_time * steps),
        "calls": calls / (at_a_time * steps),
        "round_trips": made / calls,
    }


async def _open_all(database: DirectDatabase, trips: Callable[[], int]) -> None:
    """Have the pool open what connections it may, so that none is opened while trips are counted."""
    store = RunStore(database)
    for _ in range(TRIES):
        before = trips()
        await asyncio.gather(*(store.advance([], lease_seconds=LEASE_SECONDS) for _ in range(CONNECTIONS)))
        if trips() - before == CONNECTIONS:
            return
    raise RuntimeError("the pool went on opening connections")


async def _drain(database: CountedDatabase, *, at_a_time: int, steps: int) -> None:
    options = WorkerOptions(concurrency=at_a_time, lease_seconds=LEASE_SECONDS)
    worker = Worker(RunStore(database), {"bench": NoOpEngine(steps)}, options=options)
    await worker.run(until_idle=True)
    assert worker.left == {"completed": at_a_time}, worker.left


async def _ping(url: str) -> float:
    taken: list[float] = []
    async with await AsyncConnection.connect(url, autocommit=True, prepare_threshold=None) as connection:
        for _ in range(PINGS):
            start = time.perf_counter()
            await connection.execute("select 1")
            taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)
