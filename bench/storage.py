"""What a step writes: bytes of WAL, of tables and of indexes, with and without broadcast, and how many updates are HOT.

All runs stand between two steps when the counting begins and when it ends, so that nothing but steps is counted: no
claim, no first step, no end.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import TypedDict

from psycopg import AsyncConnection
from rich.console import Console
from rich.table import Table

from bench.machine import described, machine
from bench.options import positive
from bench.progress import say
from bench.server import runbase_database
from bench.spread import Limit, sentences
from bench.tables import Size, Wal, sizes, updates, wal_position, wal_since
from bench.work import LEASE_SECONDS, queue_runs
from bench.worker import Counter, NoOpEngine
from shared.direct_database import DirectDatabase
from shared.runs.engine import Outcome, StepContext
from shared.runs.models import Step
from shared.runs.store import RunStore
from shared.runs.worker import Worker, WorkerOptions

QUICK = ("--runs", "10", "--steps", "50")
FIRST = 3  # steps of each run before the counting
SILENT, TOLD = "without broadcast", "each step broadcast"
WAL_BYTES = {SILENT: 1536, TOLD: 2150}
PACE_SECONDS = {SILENT: 0.0, "with broadcast": 0.0, TOLD: 0.11}  # a run's lines are broadcast every 100 ms at most
PACED_SHARE = 5  # so many times fewer steps where they take their time
HOT = {"agent_runs": 0.95}

# In the bench's own database: lines are written and nobody is told.
_NO_BROADCAST = """
    create or replace function private.broadcast_logs(p_run_ids uuid[], p_from_seqs bigint[])
      returns void language plpgsql as $$ begin end $$
"""
# A session passes its counts on when it likes, so the worker's is told to.
_PASS_ON = """
    create function public.bench_pass_on() returns jsonb language sql security definer
      as $$ select to_jsonb(true) from (select pg_stat_force_next_flush()) x $$;
    grant execute on function public.bench_pass_on() to service_role
"""


class Row(TypedDict):
    """Bytes a step; HOT updates by table, as a share of the table's updates."""

    title: str
    wal: Wal
    tables: dict[str, Size]
    hot: dict[str, float]


class Figures(TypedDict):
    """What a measurement found."""

    machine: dict[str, str]
    runs: int
    steps: int
    rows: list[Row]


class Gate:
    """Lets nobody through until all are there and what is to be done meanwhile is done."""

    def __init__(self, count: int) -> None:
        self._left = count
        self.full = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.full.set()
        await self.open.wait()


class GatedEngine(NoOpEngine):
    """The no-op engine, with gates in the steps of some numbers, and steps that take a while."""

    def __init__(self, steps: int, gates: dict[int, Gate], *, seconds: float) -> None:
        super().__init__(steps)
        self._gates = gates
        self._seconds = seconds

    async def perform(self, state: Counter, step: Step, ctx: StepContext) -> Outcome:
        if self._seconds > 0:
            await asyncio.sleep(self._seconds)
        if (gate := self._gates.get(step.step_no)) is not None:
            await gate()
        return await super().perform(state, step, ctx)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=positive, default=10, help="runs at a time (default 10)")
    parser.add_argument("--steps", type=positive, default=500, help="steps a run that are counted (default 500)")


def measure(server_url: str, options: argparse.Namespace) -> Figures:
    about = machine(server_url)
    rows: list[Row] = []
    for title, seconds in PACE_SECONDS.items():
        steps = max(1, options.steps // PACED_SHARE) if seconds else options.steps
        with runbase_database(server_url) as url:
            rows.append(asyncio.run(_row(url, title, runs=options.runs, steps=steps, seconds=seconds)))
        say(f"{title}: {sum(rows[-1]['wal'].values()):,.0f} bytes of WAL a step")
    return {"machine": about, "runs": options.runs, "steps": options.steps, "rows": rows}


def missed(figures: Figures) -> list[str]:
    """A sentence for every budget that was not kept, or not shown to be."""
    by_title = {row["title"]: row for row in figures["rows"]}
    limits = [
        Limit(f"WAL a step {title}", sum(by_title[title]["wal"].values()), most, "bytes")
        for title, most in WAL_BYTES.items()
    ]
    for row in figures["rows"]:
        limits += [
            Limit(f"HOT updates of {table} {row['title']}", row["hot"].get(table), share, least=True)
            for table, share in HOT.items()
        ]
    return sentences(limits)


def show(figures: Figures, console: Console) -> None:
    work = f"{figures['runs']} runs at a time, {figures['steps']} steps each"
    table = Table("bytes a step", title=f"What a no-op step writes: {work}")
    for row in figures["rows"]:
        table.add_column(row["title"], justify="right")
    for kind, title in (("records", "WAL: records"), ("page_images", "WAL: page images after a checkpoint")):
        table.add_row(title, *(f"{row['wal'][kind]:,.0f}" for row in figures["rows"]))
    table.add_section()
    names = sorted({name for row in figures["rows"] for name in row["tables"]})
    for name in names:
        found = [Size(*row["tables"].get(name, (0, 0))) for row in figures["rows"]]
        table.add_row(f"{name}, table + indexes", *(f"{size.table:,.0f} + {size.indexes:,.0f}" for size in found))
    table.add_section()
    for name in sorted({name for row in figures["rows"] for name in row["hot"]}):
        table.add_row(f"HOT updates of {name}", *(f"{row['hot'][name]:.1%}" for row in figures["rows"]))
    console.print(table)
    console.print(
        "A run's lines are broadcast at most every 100 ms, together: a run of fast steps tells several in one message,"
        f" one whose steps take {PACE_SECONDS[TOLD]:g} s tells each by itself.",
        markup=False,
    )
    console.print(described(figures["machine"]), markup=False)


async def _row(url: str, title: str, *, runs: int, steps: int, seconds: float) -> Row:
    first, last = Gate(runs), Gate(runs)
    engine = GatedEngine(FIRST + steps + 1, {FIRST: first, FIRST + steps: last}, seconds=seconds)
    async with (
        await AsyncConnection.connect(url, autocommit=True) as admin,
        DirectDatabase(url, connections=1) as database,
    ):
        await admin.execute("create extension pg_walinspect")
        await admin.execute(_PASS_ON)
        if title == SILENT:
            await admin.execute(_NO_BROADCAST)
        await queue_runs(url, runs)
        options = WorkerOptions(concurrency=runs, lease_seconds=LEASE_SECONDS)
        working = asyncio.create_task(
            Worker(RunStore(database), {"bench": engine}, options=options).run(until_idle=True)
        )
        await _reached(first, working)
        await database.call("bench_pass_on", {})
        await admin.execute("checkpoint")
        before, updates_before = await sizes(admin), await updates(admin)
        position = await wal_position(admin)
        first.open.set()
        await _reached(last, working)
        wal = await wal_since(admin, position)
        await database.call("bench_pass_on", {})
        after, updates_after = await sizes(admin), await updates(admin)
        last.open.set()
        await working
    counted = runs * steps
    return {
        "title": title,
        "wal": {"records": wal["records"] / counted, "page_images": wal["page_images"] / counted},
        "tables": _grown(before, after, counted),
        "hot": {name: _hot(updates_before[name], updates_after[name]) for name in updates_after},
    }


async def _reached(gate: Gate, working: asyncio.Task[None]) -> None:
    """Wait for everybody at the gate; a worker that ends before has failed."""
    waiting = asyncio.create_task(gate.full.wait())
    await asyncio.wait({waiting, working}, return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        waiting.cancel()
        raise RuntimeError("the worker ended before its steps") from working.exception()


def _grown(before: dict[str, Size], after: dict[str, Size], count: int) -> dict[str, Size]:
    """What each table grew by for each of `count`; those that did not are left out."""
    none = Size(0, 0)
    grown = {
        name: Size(*((now - then) / count for now, then in zip(size, before.get(name, none), strict=True)))
        for name, size in after.items()
    }
    return {name: size for name, size in grown.items() if any(size)}


def _hot(before: tuple[int, int], after: tuple[int, int]) -> float:
    """The share of HOT updates among those since."""
    rows, hot = (now - then for now, then in zip(after, before, strict=True))
    if rows == 0:
        raise RuntimeError("no updates were counted")
    return hot / rows
