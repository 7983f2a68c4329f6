"""What a killed worker and a restarted Postgres leave behind: nothing lost, nothing booked twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import get_args
from uuid import UUID

import pytest

from local.config import PROJECT_DIR
from local.migrate import migrate
from local.platform import apply_platform
from local.postgres import EPHEMERAL_SETTINGS, PostgresServer
from shared.crash_points import CrashPoint
from shared.direct_database import DirectDatabase
from shared.runs.engine import Done, Outcome, StepContext
from shared.runs.models import Step
from shared.runs.store import RunStore
from shared.runs.wake import ListenWake
from shared.runs.worker import Worker, WorkerOptions
from tests.runs.engines import ListEngine, steps
from tests.support.clock import shift_clock
from tests.support.runs import (
    Person,
    assert_books_balance,
    connect,
    log_lines,
    new_person,
    run_row,
    step_rows,
    until,
    until_status,
)

STEPS = 3


@asynccontextmanager
async def worker_process(url: str, calls: Path, **environment: str) -> AsyncGenerator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.runs.worker_process",
        url,
        str(calls),
        cwd=PROJECT_DIR,
        env={**os.environ, "PYTHONPATH": str(PROJECT_DIR), **environment},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def finish_with_another_worker(url: str, run_id: UUID, calls: Path) -> None:
    async with connect(url) as connection:
        await shift_clock(connection, seconds=16)
    async with worker_process(url, calls):
        await until_status(url, run_id, "completed")


async def assert_as_if_nothing_had_happened(url: str, person: Person, run_id: UUID) -> None:
    row = await run_row(url, run_id)
    recorded = await step_rows(url, run_id)
    assert row["output"] == {"keys": ["s1", "s2", "s3"]}
    assert [(step["status"], step["output"]) for step in recorded] == [
        ("completed", {"key": key}) for key in ("s1", "s2", "s3")
    ]
    assert row["credits_spent"] == STEPS * 10
    lines = await log_lines(url, run_id)
    assert [seq for seq, _, _ in lines] == list(range(1, len(lines) + 1))
    assert Counter(message for _, kind, message in lines if kind == "info") == {"s1": 1, "s2": 1, "s3": 1}
    await assert_books_balance(url, person.id)


async def test_a_worker_killed_during_a_step_loses_nothing(person: Person, database_url: str, tmp_path: Path) -> None:
    run_id, calls = await person.queue(), tmp_path / "calls"
    async with worker_process(database_url, calls, HANG_AT="s2") as process:

        async def hangs() -> bool:
            return calls.exists() and "s2" in calls.read_text()

        await until(hangs)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    await finish_with_another_worker(database_url, run_id, calls)

    performed = [line.split() for line in calls.read_text().splitlines()]
    assert Counter(key for key, _ in performed) == {"s1": 1, "s2": 2, "s3": 1}
    assert len(set(map(tuple, performed))) == STEPS  # the repeat carried the same effect_key
    await assert_as_if_nothing_had_happened(database_url, person, run_id)


ONCE_A_RUN = {"after_claim", "before_finish", "after_finish"}
OUTSIDE = {"before_model_call", "after_model_call", "before_tool_call", "after_tool_call"}  # see test_kills_outside.py
PASSES = [
    (point, skip)
    for point in get_args(CrashPoint)
    for skip in ("0", "1", "2")
    if point not in OUTSIDE and (skip == "0" or point not in ONCE_A_RUN)
]


@pytest.mark.parametrize(("point", "skip"), PASSES)
async def test_a_worker_killed_at_any_crash_point_loses_nothing(
    person: Person, database_url: str, tmp_path: Path, point: str, skip: str
) -> None:
    """`skip` lets the point pass a few times, so that each is tried at the run's start, middle and end."""
    run_id, calls = await person.queue(), tmp_path / "calls"
    async with worker_process(database_url, calls, RUNBASE_CRASH_POINT=point, RUNBASE_CRASH_SKIP=skip) as process:
        assert await process.wait() == -signal.SIGKILL

    if (await run_row(database_url, run_id))["status"] != "completed":
        await finish_with_another_worker(database_url, run_id, calls)

    performed = Counter(calls.read_text().splitlines())
    assert set(performed.values()) <= {1, 2}
    assert len(performed) == STEPS
    await assert_as_if_nothing_had_happened(database_url, person, run_id)


async def test_postgres_restarted_in_mid_run_costs_nothing(data_dir: Path) -> None:
    """An immediate stop, as a crash; the worker reconnects and its advance wins late."""
    server = PostgresServer(data_dir, settings={**EPHEMERAL_SETTINGS, "fsync": "on"})
    await asyncio.to_thread(server.start)
    try:
        await apply_platform(server.url)
        await migrate(server.url, PROJECT_DIR / "supabase" / "migrations")
        person = await new_person(server.url)
        run_id = await person.queue()
        in_second, restarted = asyncio.Event(), asyncio.Event()

        async def through_a_restart(step: Step, ctx: StepContext) -> Outcome:
            del ctx
            if step.key == "s2":
                in_second.set()
                await restarted.wait()
            return Done({"key": step.key}, credits=10)

        engine = ListEngine(steps(3, credits_bound=50), through_a_restart)
        async with DirectDatabase(server.url) as database:
            options = WorkerOptions(heartbeat_seconds=0.1, poll_seconds=0.2)
            worker = Worker(RunStore(database), {"list": engine}, options=options, wake=ListenWake(server.url))
            task = asyncio.create_task(worker.run())
            await in_second.wait()
            await asyncio.to_thread(server.stop, immediate=True)
            restarted.set()
            await asyncio.to_thread(server.start)
            row = await until_status(server.url, run_id, "completed", "failed")
            worker.stop()
            await task

        assert (row["status"], row["credits_spent"]) == ("completed", 30)
        assert [key for key, _, _ in engine.performed] == ["s1", "s2", "s3"]
        await assert_books_balance(server.url, person.id)
    finally:
        await asyncio.to_thread(server.stop, immediate=True)
