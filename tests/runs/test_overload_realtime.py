"""Realtime shows runs and never holds them: whatever is wrong with it, every advance commits."""

from __future__ import annotations

import pytest

from shared.direct_database import DirectDatabase
from shared.runs.engine import Done, Outcome, StepContext
from shared.runs.models import NewLog, Records, Step
from tests.runs.engines import ListEngine, steps
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
