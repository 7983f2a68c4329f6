"""What runs cost while nothing happens: a worker's memory and the database's bytes for a thousand that wait.

A waiting run has no lease and nothing in any process; one whose step goes on for long is held by its worker. The worker
has had as many runs before, so that what Python keeps for the next ones is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import TypedDict

import psutil
from psycopg import AsyncConnection
from rich.console import Console
from rich.table import Table

from bench.live_worker import live_worker
from bench.machine import described, machine
from bench.options import positive
from bench.polling import row_of
from bench.progress import say
from bench.server import runbase_database
from bench.spread import Limit, sentences
from bench.tables import BROADCAST, Size, sizes
from bench.work import queue_runs
from shared.runs.models import JsonObject

QUICK = ("--runs", "100")
SETTLING_SECONDS = 1.0
LONG_SECONDS = 900.0
KILOBYTE = 1024
WAITING_KB = 1.0  # of a worker's memory for each waiting run; what is measured is noise

HUMAN, TIMER, PERFORMING = "waiting for a person", "waiting for a timer", "performing a long step"
INPUTS: dict[str, JsonObject] = {
    HUMAN: {"steps": 1, "waits": "human"},
    TIMER: {"steps": 1, "waits": "timer"},
    PERFORMING: {"steps": 1, "seconds": LONG_SECONDS},
}
# All of them have come there.
_THERE = {
    HUMAN: "select 1 from agent_runs where status = 'awaiting_input' having count(*) = %s",
    TIMER: "select 1 from agent_steps where status = 'running' and waits_for = 'timer' having count(*) = %s",
    PERFORMING: "select 1 from agent_steps where status = 'running' and waits_for is null having count(*) = %s",
}


class Row(TypedDict):
    """For each run: kilobytes of the worker's memory, of the database, of what Realtime keeps besides; and leases."""

    title: str
    worker_kb: float
    database_kb: float
    broadcast_kb: float
    leases: float


class Figures(TypedDict):
    """`worker_mb` is the worker by itself, after as many runs have gone through it."""

    machine: dict[str, str]
    runs: int
    worker_mb: float
    rows: list[Row]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=positive, default=1000, help="runs of each kind, up to 1,000 (default 1000)")


def measure(server_url: str, options: argparse.Namespace) -> Figures:
    about = machine(server_url)
    with runbase_database(server_url) as url:
        worker_mb, rows = asyncio.run(_rows(url, options.runs))
    return {"machine": about, "runs": options.runs, "worker_mb": worker_mb, "rows": rows}


def missed(figures: Figures) -> list[str]:
    """A sentence for every budget that was not kept: who waits has no lease and nothing in a worker."""
    limits: list[Limit] = []
    for row in figures["rows"]:
        if row["title"] != PERFORMING:
            limits.append(Limit(f"leases of a run {row['title']}", row["leases"], 0))
            limits.append(Limit(f"the worker's memory for a run {row['title']}", row["worker_kb"], WAITING_KB, "KB"))
    return sentences(limits)


def show(figures: Figures, console: Console) -> None:
    table = Table(title=f"What {figures['runs']:,} runs cost while nothing happens")
    for column in ("runs", "worker, MB", "database, MB", "what Realtime keeps, MB", "leases"):
        table.add_column(column, justify="left" if column == "runs" else "right")
    for row in figures["rows"]:
        megabytes = (row[kind] * figures["runs"] / KILOBYTE for kind in ("worker_kb", "database_kb", "broadcast_kb"))
        leases = f"{row['leases'] * figures['runs']:,.0f}"
        table.add_row(row["title"], *(f"{value:.1f}" for value in megabytes), leases)
    console.print(table)
    console.print(f"The worker by itself: {figures['worker_mb']:.0f} MB.", markup=False)
    console.print(described(figures["machine"]), markup=False)


async def _rows(url: str, runs: int) -> tuple[float, list[Row]]:
    async with (
        await AsyncConnection.connect(url, autocommit=True) as admin,
        live_worker(url, concurrency=runs) as process,
    ):
        worker = psutil.Process(process.pid)
        await queue_runs(url, runs, {"steps": 2, "seconds": 1.0})  # all of them at a time
        await row_of(admin, "select 1 from agent_runs where status = 'completed' having count(*) = %s", runs)
        await asyncio.sleep(SETTLING_SECONDS)
        worker_mb = worker.memory_info().rss / KILOBYTE**2
        rows: list[Row] = []
        for title in INPUTS:
            rows.append(await _row(url, admin, worker, title, runs))
            say(f"{title}: {rows[-1]['worker_kb']:.2f} KB of the worker, {rows[-1]['database_kb']:.2f} KB stored")
    return worker_mb, rows


async def _row(url: str, admin: AsyncConnection, worker: psutil.Process, title: str, runs: int) -> Row:
    held, stored = worker.memory_info().rss, await sizes(admin)
    await queue_runs(url, runs, INPUTS[title])
    await row_of(admin, _THERE[title], runs)
    await asyncio.sleep(SETTLING_SECONDS)
    held, grown = worker.memory_info().rss - held, _grown(stored, await sizes(admin))
    (leases,) = await row_of(admin, "select count(*) from agent_runs where lease_id is not null")
    told = grown.pop(BROADCAST, 0)
    return {
        "title": title,
        "worker_kb": held / runs / KILOBYTE,
        "database_kb": sum(grown.values()) / runs / KILOBYTE,
        "broadcast_kb": told / runs / KILOBYTE,
        "leases": leases / runs,
    }


def _grown(before: dict[str, Size], after: dict[str, Size]) -> dict[str, int]:
    return {name: sum(size) - sum(before.get(name, (0, 0))) for name, size in after.items()}
