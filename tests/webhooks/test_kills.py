"""A worker that is killed around a call out, its callback and the record of the wait: the step has its event, once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest

from local.config import PROJECT_DIR
from tests.support.clock import shift_clock
from tests.support.runs import Person, assert_books_balance, connect, log_lines, run_row, step_rows, until_status
from tests.webhooks.waits import deliver, until_waiting


@asynccontextmanager
async def worker_process(url: str, calls: Path, **environment: str) -> AsyncGenerator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.webhooks.worker_process",
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


@pytest.mark.parametrize(
    ("point", "skip"),
    [
        ("after_perform", 0),  # the callback is there, the wait is not
        ("before_advance", 1),  # with the wait in hand
        ("after_advance", 1),  # the wait is committed, its early event taken
        ("after_claim", 1),  # the run goes on behind the event
        ("after_perform", 1),  # called out for the second step, whose callback comes while nobody is there
        ("before_advance", 3),
        ("after_advance", 3),
    ],
)
async def test_a_worker_killed_around_a_wait_loses_no_event(
    person: Person, database_url: str, tmp_path: Path, point: str, skip: int
) -> None:
    run_id, calls = await person.queue(), tmp_path / "calls"
    armed = {"RUNBASE_CRASH_POINT": point, "RUNBASE_CRASH_SKIP": str(skip)}
    async with worker_process(database_url, calls, **armed) as process:
        assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
    if len(await step_rows(database_url, run_id)) == 2:
        await deliver(person, run_id, 2, payload={"of": "s2"})
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=16)
    async with worker_process(database_url, calls):
        if (await run_row(database_url, run_id))["status"] != "completed":
            await until_done(person, database_url, run_id)

    recorded = await step_rows(database_url, run_id)
    assert [(step["status"], step["output"]) for step in recorded] == [
        ("completed", {"of": "s1"}),
        ("completed", {"of": "s2"}),
    ]
    lines = await log_lines(database_url, run_id)
    assert [seq for seq, _, _ in lines] == list(range(1, len(lines) + 1))
    assert [line[2] for line in lines].count("The awaited event came") == 2
    # Each step called out under one key, whoever did it and however often.
    assert len(set(calls.read_text().splitlines())) == 2
    await assert_books_balance(database_url, person.id)


async def until_done(person: Person, url: str, run_id: UUID) -> None:
    """Let the other worker go on; the second callback comes when its step waits, unless it has come."""
    second = [step for step in await step_rows(url, run_id) if step["step_no"] == 2]
    if not second:
        await until_waiting(url, run_id, 2)
        await deliver(person, run_id, 2, payload={"of": "s2"})
    await until_status(url, run_id, "completed")
