"""Realtime shows runs and never holds them: whatever is wrong with it, every advance commits."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from shared.direct_database import DirectDatabase
from shared.runs.engine import Done, Outcome, StepContext
from shared.runs.models import NewLog, Records, Step
from shared.runs.status import RunStatus, StepStatus
from shared.runs.store import RunStore
from shared.runs.transitions import Delta, FinishStep, StartStep
from tests.runs.engines import ListEngine, steps
from tests.runs.queueing import Held, fetch, take
from tests.runs.working import working
from tests.support.runs import Person, assert_books_balance, connect, log_lines, run_row, step_rows, until_status

BROKEN = """
create or replace function realtime.send(payload jsonb, event text, topic text, private boolean default true)
  returns void language plpgsql as $$ begin raise exception 'broken' using errcode = '42501'; end $$"""


async def talks(step: Step, ctx: StepContext) -> Outcome:
    await ctx.delta(f"writing {step.key}")
    return Done(records=Records(logs=(NewLog("info", step.key),)), credits=7)


@pytest.mark.parametrize(
    "trouble",
    [
        "select pg_create_logical_replication_slot('stuck_' || current_database(), 'pgoutput')",
        "drop table realtime.messages_all",
        "drop function realtime.send",
        "drop schema realtime cascade",
        BROKEN,
        "lock table realtime.messages in access exclusive mode",
        "lock table realtime.messages_all in access exclusive mode",
        "lock table realtime.messages in share mode",
    ],
    ids=["nobody reads", "no partition", "no function", "no schema", "broken", "locked", "partition locked", "backup"],
)
async def test_a_run_goes_on_and_keeps_its_lines_whatever_is_wrong_with_realtime(
    database: DirectDatabase, person: Person, database_url: str, trouble: str
) -> None:
    run_ids = [await person.queue() for _ in range(3)]
    engine = ListEngine(steps(2, effect="effectful", credits_bound=10), talks)
    async with connect(database_url) as connection, connection.transaction(force_rollback=True):
        if trouble.startswith("lock"):
            await connection.execute(trouble)
        else:
            async with connect(database_url) as other:
                await other.execute(trouble)
        async with working(database, engine):
            for run_id in run_ids:  # while the lock is held
                await until_status(database_url, run_id, "completed", "failed")

    assert [(await run_row(database_url, run_id))["status"] for run_id in run_ids] == ["completed"] * 3
    for run_id in run_ids:
        assert [step["attempt"] for step in await step_rows(database_url, run_id)] == [1, 1]
        lines = await log_lines(database_url, run_id)
        assert [seq for seq, _, _ in lines] == list(range(1, len(lines) + 1))
        assert [text for _, kind, text in lines if kind == "info"] == ["s1", "s2"]
    assert len(engine.performed) == 6
    await assert_books_balance(database_url, person.id)


async def test_lines_are_broadcast_again_when_realtime_takes_them(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_ids = [await person.queue() for _ in range(2)]
    async with connect(database_url) as connection:
        async with connection.transaction():
            await connection.execute("lock table realtime.messages in access exclusive mode")
            async with working(database, ListEngine(steps(1), talks)):
                await until_status(database_url, run_ids[0], "completed")
        later = await person.queue()
        async with working(database, ListEngine(steps(1), talks)):
            await until_status(database_url, later, "completed")
        sent = await (
            await connection.execute(
                "select count(*) from realtime.messages where topic = %s and event = 'log'", [f"run:{later}"]
            )
        ).fetchone()

    assert sent is not None
    assert sent[0] > 0


@asynccontextmanager
async def _a_locked_partition(url: str) -> AsyncGenerator[None]:
    """Realtime's table takes locks, and its rows cannot be written."""
    async with connect(url) as rival, rival.transaction():
        await rival.execute("lock table only realtime.messages_all in access exclusive mode")
        yield


async def _count_sends(url: str) -> None:
    """Let realtime.send count its calls where no failed transaction takes the count back."""
    async with connect(url) as connection:
        await connection.execute("create sequence public.sends minvalue 0 start 0")
        await connection.execute("select nextval('public.sends')")
        await connection.execute("""
            create or replace function realtime.send(payload jsonb, event text, topic text, private boolean default true
              )
              returns void language plpgsql security definer as $$ begin perform nextval('public.sends'); end $$""")


async def _sends(url: str) -> int:
    return (await fetch(url, "select last_value from public.sends"))[0][0]


async def _started(store: RunStore, person: Person, count: int) -> list[Held]:
    for _ in range(count):
        await person.queue()
    held = list((await take(store, count)).values())
    for one in held:
        await one.advance(start=(StartStep(1, uuid4(), steps(1)[0]),), status=RunStatus.EXECUTING)
    return held


async def test_lines_wait_for_a_locked_partition_once_and_not_message_by_message(
    store: RunStore, person: Person, database_url: str
) -> None:
    held = await _started(store, person, 1)
    await _count_sends(database_url)
    lines = Records(logs=(NewLog("info", "x"),))

    async with _a_locked_partition(database_url):
        finish = FinishStep(1, 1, StepStatus.COMPLETED, output={}, records=lines)
        advanced = await held[0].advance(finish=(finish,), status=RunStatus.COMPLETED)

    assert advanced.won
    assert await _sends(database_url) == 0
    assert [text for _, kind, text in await log_lines(database_url, held[0].run_id) if kind == "info"] == ["x"]


async def test_model_output_behind_a_locked_partition_is_kept_and_not_broadcast(
    store: RunStore, person: Person, database_url: str
) -> None:
    """The call ends while the partition is locked: its runs can go on."""
    held = await _started(store, person, 3)
    await _count_sends(database_url)

    async with _a_locked_partition(database_url):
        await store.publish([Delta(one.run_id, one.lease_id, 1, 1, 0, "hello") for one in held])
        finish = FinishStep(1, 1, StepStatus.COMPLETED, output={})
        kept = await fetch(database_url, "select text from private.step_deltas")
        assert (await held[0].advance(finish=(finish,), start=(StartStep(2, uuid4(), steps(2)[1]),))).won

    assert kept == [("hello",)] * 3
    assert await _sends(database_url) == 0


async def test_messages_go_by_the_function_when_the_table_looks_otherwise(
    store: RunStore, person: Person, database_url: str
) -> None:
    held = await _started(store, person, 1)
    await _count_sends(database_url)
    async with connect(database_url) as connection:
        await connection.execute("alter table realtime.messages rename column extension to kind")

    await store.publish([Delta(held[0].run_id, held[0].lease_id, 1, 1, 0, "hello")])

    assert await _sends(database_url) == 1
