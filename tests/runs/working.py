"""A worker beside a test, and what a test may wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from shared.database import Database
from shared.runs.engine import Done, Outcome, StepContext
from shared.runs.models import Step
from shared.runs.store import RunStore
from shared.runs.wake import ListenWake
from shared.runs.worker import Worker, WorkerOptions
from tests.runs.engines import ListEngine
from tests.support.runs import (
    connect,
    step_rows,
)
from tests.support.wires import CountingDatabase

QUICK = WorkerOptions(heartbeat_seconds=0.05, poll_seconds=0.1)


@asynccontextmanager
async def working(
    database: Database, engine: ListEngine, *, options: WorkerOptions = QUICK, url: str | None = None
) -> AsyncGenerator[Worker]:
    """A worker beside the test; it gives back what it holds at the end."""
    wake = None if url is None else ListenWake(url)
    worker = Worker(RunStore(database), {"list": engine}, options=options, wake=wake)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await task


async def work_off(database: Database, engine: ListEngine) -> Worker:
    """Work until nothing is due."""
    worker = Worker(RunStore(database), {"list": engine}, options=QUICK)
    await worker.run(until_idle=True)
    return worker


def costs(credits_: int) -> Any:
    async def perform(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        return Done(credits=credits_)

    return perform


async def called(counting: CountingDatabase, function: str) -> bool:
    return counting.calls[function] > 0


async def told(worker: Worker, request: str) -> bool:
    return any(getattr(execution.signals, request) for execution in worker._executions.values())


async def step_stands(url: str, run_id: Any, step_no: int, status: str) -> bool:
    rows = await step_rows(url, run_id)
    return any(step["step_no"] == step_no and step["status"] == status for step in rows)


async def has_open_question(url: str, run_id: Any) -> bool:
    async with connect(url) as connection:
        cursor = await connection.execute(
            "select 1 from public.human_requests where run_id = %s and status = 'open'", [run_id]
        )
        return await cursor.fetchone() is not None


async def listens(url: str) -> bool:
    async with connect(url) as connection:
        cursor = await connection.execute(
            "select 1 from pg_stat_activity where application_name = 'runbase wake' and query like 'listen%'"
            " and datname = current_database()"
        )
        return await cursor.fetchone() is not None


async def has_failed(worker: Worker, times: int) -> bool:
    return worker._failures >= times


async def attempt_is(url: str, run_id: Any, attempt: int) -> bool:
    rows = await step_rows(url, run_id)
    return bool(rows) and rows[0]["attempt"] == attempt
