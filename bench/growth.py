"""Whether a step costs the same however long its run is: time, WAL, decisions, and what a new slice reads.

Runs of every length are driven 10 at a time, with an engine that keeps a snapshot. Another run of that length is given
back behind its middle and claimed anew, as after a crash or by a drain that has run out of time.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import TypedDict

from psycopg import AsyncConnection
from rich.console import Console
from rich.table import Table

from bench.counted import CountedDatabase
from bench.machine import described, machine
from bench.options import positive
from bench.progress import say
from bench.server import runbase_database
from bench.spread import Limit, sentences
from bench.tables import wal_position, wal_since
from bench.work import LEASE_SECONDS, MAX_STEPS, queue_runs
from bench.worker import Counter, NoOpEngine
from shared.direct_database import DirectDatabase
from shared.runs.engine import Decision, Outcome, Snapshot, StepContext
from shared.runs.models import RunView, Step
from shared.runs.snapshots import SNAPSHOT_STEPS
from shared.runs.store import RunStore
from shared.runs.worker import Worker, WorkerOptions

QUICK = ("--steps", "10", "100", "1000", "--work", "1000")
STEPS = (10, 100, 1_000, 10_000)
WORK = 10_000  # steps in all at each length, if ten runs have no more
AT_A_TIME = 10
BASE = 100  # the length that longer ones are compared with
FLAT = 1.5
CLAIM = "claim_runs"


class Row(TypedDict):
    """Runs of one length. All are for each step but the bytes of claims, with snapshots and as if there were none."""

    steps: int
    runs: int
    microseconds: float
    wal: float
    decisions: float
    claim_bytes: int
    whole_bytes: int


class Figures(TypedDict):
    """What a measurement found."""

    machine: dict[str, str]
    rows: list[Row]


class LongEngine(NoOpEngine):
    """The no-op engine with snapshots. It counts its decisions, and stops a worker in a step if it is told to."""

    snapshot_version = 1

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.decisions = 0
        self.interrupts_at = 0
        self.interrupt = asyncio.Event()

    def open(self, view: RunView) -> Counter:
        state = Counter()
        if view.snapshot is not None:
            state.known = state.ended = int(view.snapshot["ended"])  # type: ignore[arg-type]
        for result in view.results:
            self.apply(state, result)
        return state

    def snapshot(self, state: Counter) -> Snapshot:
        return Snapshot({"ended": state.ended})

    def decide(self, state: Counter) -> Decision:
        self.decisions += 1
        return super().decide(state)

    async def perform(self, state: Counter, step: Step, ctx: StepContext) -> Outcome:
        if step.step_no == self.interrupts_at:
            self.interrupt.set()
        return await super().perform(state, step, ctx)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--steps", type=positive, nargs="+", default=STEPS, metavar="N", help=f"steps a run (default {STEPS})"
    )
    parser.add_argument("--work", type=positive, default=WORK, help=f"steps at each length (default {WORK})")


def measure(server_url: str, options: argparse.Namespace) -> Figures:
    about = machine(server_url)
    rows: list[Row] = []
    for steps in sorted(options.steps):
        if steps > MAX_STEPS:
            raise ValueError(f"a run has at most {MAX_STEPS} steps")
        with runbase_database(server_url) as url:
            rows.append(asyncio.run(_row(url, steps, runs=max(AT_A_TIME, options.work // steps))))
        say(f"{steps:,} steps a run: {rows[-1]['microseconds']:,.0f} µs a step")
    return {"machine": about, "rows": rows}


def missed(figures: Figures) -> list[str]:
    """A sentence for every budget that was not kept: the longest run's against those of 100 steps."""
    by_steps = {row["steps"]: row for row in figures["rows"]}
    longest = by_steps[max(by_steps)]
    base = by_steps.get(BASE)
    what = f"at {longest['steps']:,} steps a run, times that at {BASE}"
    return sentences(
        Limit(f"{title} {what}", None if base is None else longest[kind] / base[kind], FLAT)
        for kind, title in (
            ("microseconds", "time a step"),
            ("wal", "WAL a step"),
            ("decisions", "decisions a step"),
            ("claim_bytes", "bytes of a claim in the middle"),
        )
    )


def show(figures: Figures, console: Console) -> None:
    table = Table(title=f"The length of a run: no-op steps, {AT_A_TIME} runs at a time")
    for column in (
        "steps a run",
        "runs",
        "µs a step",
        "WAL bytes a step",
        "decisions a step",
        "claim KB",
        "no snapshot KB",
    ):
        table.add_column(column, justify="right")
    for row in figures["rows"]:
        table.add_row(
            f"{row['steps']:,}",
            f"{row['runs']:,}",
            f"{row['microseconds']:,.0f}",
            f"{row['wal']:,.0f}",
            f"{row['decisions']:.2f}",
            f"{row['claim_bytes'] / 1024:,.1f}",
            f"{row['whole_bytes'] / 1024:,.1f}",
        )
    console.print(table)
    console.print(described(figures["machine"]), markup=False)


async def _row(url: str, steps: int, *, runs: int) -> Row:
    async with (
        await AsyncConnection.connect(url, autocommit=True) as admin,
        DirectDatabase(url) as database,
    ):
        await admin.execute("create extension pg_walinspect")
        store = RunStore(database)
        await queue_runs(url, AT_A_TIME)
        await _drain(store, LongEngine(1))
        await queue_runs(url, runs)
        await admin.execute("checkpoint")

        engine = LongEngine(steps)
        position, start = await wal_position(admin), time.perf_counter()
        await _drain(store, engine)
        seconds, wal = time.perf_counter() - start, await wal_since(admin, position)
        claim_bytes, whole_bytes = await _claimed_again(url, database, steps)
    done = runs * steps
    return {
        "steps": steps,
        "runs": runs,
        "microseconds": seconds / done * 1e6,
        "wal": wal["records"] / done,
        "decisions": engine.decisions / done,
        "claim_bytes": claim_bytes,
        "whole_bytes": whole_bytes,
    }


async def _claimed_again(url: str, database: DirectDatabase, steps: int) -> tuple[int, int]:
    """Bytes that a claim in the middle of a run brings, and that it would bring without a snapshot."""
    (run_id,) = await queue_runs(url, 1)
    engine = LongEngine(steps)
    # As far behind the last snapshot at every length that has one.
    engine.interrupts_at = steps // 2 if steps < 2 * SNAPSHOT_STEPS else steps // 2 + SNAPSHOT_STEPS // 2
    worker = _worker(RunStore(database), engine)
    working = asyncio.create_task(worker.run(until_idle=True))
    await engine.interrupt.wait()
    worker.stop()
    await working
    weighed = CountedDatabase(database, weighed=(CLAIM, "load_run"))
    store = RunStore(weighed)
    claim = await store.claim(owner="bench", limit=1, lease_seconds=LEASE_SECONDS, engines=("bench",))
    assert [view.run.id for view in claim.views] == [run_id]
    await store.load(claim.views[0].run.id, whole=True)
    return weighed.bytes[CLAIM], weighed.bytes["load_run"]


async def _drain(store: RunStore, engine: LongEngine) -> None:
    worker = _worker(store, engine)
    await worker.run(until_idle=True)
    assert set(worker.left) == {"completed"}, worker.left


def _worker(store: RunStore, engine: LongEngine) -> Worker:
    options = WorkerOptions(concurrency=AT_A_TIME, lease_seconds=LEASE_SECONDS)
    return Worker(store, {"bench": engine}, options=options)
