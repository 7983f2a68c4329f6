"""Races between an advance that reads without a lock and somebody who writes meanwhile: made, not hoped for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID, uuid4

from shared.runs.models import NewLog, Records, RunId, RunView
from shared.runs.status import RunStatus, StepStatus
from shared.runs.store import RunStore
from shared.runs.transitions import Advance, FinishStep, StartStep
from tests.runs.engines import steps
from tests.support.clock import shift_clock
from tests.support.runs import Person, claim, connect, log_lines, new_person, run_row, step_rows, until_lock_wait


def started(view: RunView) -> Advance:
    assert view.run.lease_id is not None
    start = StartStep(1, uuid4(), steps(1)[0])
    return Advance(view.run.id, view.run.lease_id, view.run.revision, start=(start,), status=RunStatus.EXECUTING)


def further(view: RunView, revision: int) -> Advance:
    """Step 1 is done and step 2 begins: the run stays as it is, so nothing is locked before the update."""
    assert view.run.lease_id is not None
    done = FinishStep(1, 1, StepStatus.COMPLETED, output={}, records=Records(logs=(NewLog("info", "done"),)))
    start = StartStep(2, uuid4(), steps(2)[1])
    return Advance(view.run.id, view.run.lease_id, revision, finish=(done,), start=(start,))


async def test_a_run_that_was_written_between_reading_and_updating_has_lost_and_the_others_win(
    store: RunStore, person: Person, database_url: str
) -> None:
    for _ in range(3):
        await person.queue()
    views = (await claim(store)).views
    answers = await store.advance([started(view) for view in views], lease_seconds=15)
    items = [further(view, answers[view.run.id].revision) for view in views]
    overtaken = views[1].run.id

    async with connect(database_url) as rival:
        async with rival.transaction():
            await rival.execute("update public.agent_runs set revision = revision + 1 where id = %s", [overtaken])
            advancing = asyncio.create_task(store.advance(items, lease_seconds=15))
            await until_lock_wait(database_url, "runbase")
        committed = await advancing

    assert {run_id: answer.won for run_id, answer in committed.items()} == {
        view.run.id: view.run.id != overtaken for view in views
    }
    assert [step["status"] for step in await step_rows(database_url, overtaken)] == ["running"]
    assert "done" not in [message for _, _, message in await log_lines(database_url, overtaken)]
    for view in views:
        if view.run.id != overtaken:
            assert [step["status"] for step in await step_rows(database_url, view.run.id)] == ["completed", "running"]
            row = await run_row(database_url, view.run.id)
            seqs = [seq for seq, _, _ in await log_lines(database_url, view.run.id)]
            assert seqs == list(range(1, row["log_seq"] + 1))


async def test_a_batch_of_which_every_run_was_overtaken_writes_nothing(
    store: RunStore, person: Person, database_url: str
) -> None:
    await person.queue()
    view = (await claim(store)).views[0]
    revision = (await store.advance([started(view)], lease_seconds=15))[view.run.id].revision

    async with connect(database_url) as rival:
        async with rival.transaction():
            await rival.execute("update public.agent_runs set revision = revision + 1 where id = %s", [view.run.id])
            advancing = asyncio.create_task(store.advance([further(view, revision)], lease_seconds=15))
            await until_lock_wait(database_url, "runbase")
        answer = (await advancing)[view.run.id]

    assert not answer.won
    assert answer.lease_id == view.run.lease_id
    assert [step["status"] for step in await step_rows(database_url, view.run.id)] == ["running"]


async def test_a_tick_that_is_faster_than_an_advance_makes_no_line_go_out_twice(
    store: RunStore, person: Person, database_url: str
) -> None:
    await person.queue()
    view = (await claim(store)).views[0]
    revision = (await store.advance([started(view)], lease_seconds=15))[view.run.id].revision
    first = (await store.advance([further(view, revision)], lease_seconds=15))[view.run.id]
    assert first.unsent
    done = FinishStep(2, 1, StepStatus.COMPLETED, output={}, records=Records(logs=(NewLog("info", "done too"),)))
    second = Advance(
        view.run.id,
        first.lease_id or uuid4(),
        first.revision,
        finish=(done,),
        start=(StartStep(3, uuid4(), steps(3)[2]),),
    )

    async with connect(database_url) as tick:
        await shift_clock(tick, seconds=1)
        async with tick.transaction():
            await tick.execute("select public.flush_logs(array[%s]::uuid[])", [view.run.id])
            advancing = asyncio.create_task(store.advance([second], lease_seconds=15))
            await until_lock_wait(database_url, "runbase")
        answer = (await advancing)[view.run.id]
        await tick.execute("select public.flush_logs(array[%s]::uuid[])", [view.run.id])
        rows = await tick.execute(
            "select (l ->> 'seq')::integer from realtime.messages m, jsonb_array_elements(m.payload -> 'lines') l"
            " where m.event = 'log' order by 1"
        )
        seqs = [row[0] for row in await rows.fetchall()]

    assert answer.won
    assert answer.unsent
    assert seqs == list(range(1, (await run_row(database_url, view.run.id))["log_seq"] + 1))


async def test_of_a_batch_each_run_gets_what_is_its_own_however_the_others_fare(
    store: RunStore, person: Person, database_url: str
) -> None:
    """One goes on, one is to stop, one has no credits for its next step, and one lost its race.

    Each belongs to somebody else and has said another number of lines; one has had another revision.
    """
    people = [person, *[await new_person(database_url) for _ in range(3)]]
    owners = {await one.queue(): one for one in people}
    views = sorted((await claim(store)).views, key=lambda view: view.run.id)
    answers = await store.advance(
        [replace(started(view), logs=(NewLog("info", "begins"),) * count) for count, view in enumerate(views)],
        lease_seconds=15,
    )
    lost, goes_on, stops, broke = views
    assert stops.run.lease_id is not None
    said = Advance(stops.run.id, stops.run.lease_id, answers[stops.run.id].revision, logs=(NewLog("info", "more"),))
    answers |= await store.advance([said], lease_seconds=15)
    items = {view.run.id: named(view, answers[view.run.id].revision) for view in views}
    items[lost.run.id] = replace(items[lost.run.id], revision=1)
    dear = StartStep(2, uuid4(), steps(2, credits_bound=10**15)[1])
    items[broke.run.id] = replace(items[broke.run.id], start=(dear,))
    await owners[stops.run.id].call("control_run", stops.run.id, "stop")

    committed = await store.advance(list(items.values()), lease_seconds=15)

    assert {run_id: answer.won for run_id, answer in committed.items()} == {
        view.run.id: view is not lost for view in views
    }
    assert committed[stops.run.id].stop
    assert committed[broke.run.id].status is RunStatus.PAUSED
    for view in views:
        done = [step["output"] for step in await step_rows(database_url, view.run.id) if step["output"] is not None]
        said = [message for _, _, message in await log_lines(database_url, view.run.id) if message.startswith("done")]
        of_run = [] if view is lost else [str(view.run.id)]
        assert done == [{"of": run_id} for run_id in of_run]
        assert said == [f"done {run_id}" for run_id in of_run]
        seqs = [seq for seq, _, _ in await log_lines(database_url, view.run.id)]
        assert seqs == list(range(1, (await run_row(database_url, view.run.id))["log_seq"] + 1))
        for table in ("agent_steps", "agent_task_logs", "credit_ledger"):
            assert await accounts_in(database_url, table, view.run.id) == {owners[view.run.id].id}
        for step in await step_rows(database_url, view.run.id):
            assert step["finished_revision"] in {None, committed[view.run.id].revision}
    assert [step["step_no"] for step in await step_rows(database_url, goes_on.run.id)] == [1, 2]
    assert [step["step_no"] for step in await step_rows(database_url, broke.run.id)] == [1]


async def test_who_has_rows_locked_waits_for_no_other_and_comes_again(
    store: RunStore, person: Person, database_url: str
) -> None:
    """A run that is to stop is moved behind the others. Somebody has it locked and waits for one of those."""
    for _ in range(2):
        await person.queue()
    plain, stops = sorted((await claim(store)).views, key=lambda view: view.run.id, reverse=True)
    answers = await store.advance([started(plain), started(stops)], lease_seconds=15)
    items = [named(view, answers[view.run.id].revision) for view in (plain, stops)]
    lock = "select from public.agent_runs where id = %s for share"

    async with connect(database_url) as rival, rival.transaction():
        await person.call("control_run", stops.run.id, "stop")
        await rival.execute(lock, [stops.run.id])
        committed = await store.advance(items, lease_seconds=15)
        await rival.execute(lock, [plain.run.id])

    assert [committed[view.run.id].won for view in (plain, stops)] == [True, False]
    assert committed[stops.run.id].lease_id == stops.run.lease_id
    again = (await store.advance([items[1]], lease_seconds=15))[stops.run.id]
    assert (again.won, again.stop) == (True, True)


async def test_who_only_may_have_rows_locked_waits_for_no_other_either(
    store: RunStore, person: Person, database_url: str
) -> None:
    """Both are to stop, one of them only since the advance waits for its row; somebody has the other one locked."""
    for _ in range(2):
        await person.queue()
    first, second = sorted((await claim(store)).views, key=lambda view: view.run.id)
    answers = await store.advance([started(first), started(second)], lease_seconds=15)
    items = [named(view, answers[view.run.id].revision) for view in (first, second)]
    await person.call("control_run", first.run.id, "stop")
    lock = "select from public.agent_runs where id = %s for share"
    stop = "update public.agent_runs set stop_requested_at = now() where id = %s"

    async with connect(database_url) as rival, connect(database_url) as stopper, rival.transaction():
        await rival.execute(lock, [first.run.id])
        async with stopper.transaction():
            await stopper.execute(stop, [second.run.id])
            advancing = asyncio.create_task(store.advance(items, lease_seconds=15))
            await until_lock_wait(database_url, "runbase")
        committed = await advancing
        await rival.execute(lock, [second.run.id])

    assert [committed[view.run.id].won for view in (first, second)] == [False, True]
    assert committed[second.run.id].stop
    assert committed[first.run.id].lease_id == first.run.lease_id


async def accounts_in(url: str, table: str, run_id: RunId) -> set[UUID]:
    async with connect(url) as connection:
        query = f"select account_id from public.{table} where run_id = %s".encode()
        return {account_id async for (account_id,) in await connection.execute(query, [run_id])}


def named(view: RunView, revision: int) -> Advance:
    """As `further`, with the run's id in all that it leaves behind."""
    item = further(view, revision)
    logs = (NewLog("info", f"done {view.run.id}"),)
    done = replace(item.finish[0], output={"of": str(view.run.id)}, records=Records(logs=logs))
    return replace(item, finish=(done,))


async def test_lines_are_written_in_the_order_they_are_counted(
    store: RunStore, person: Person, database_url: str
) -> None:
    """Who follows the changes of the table hears them in the order in which they are written."""
    await person.queue()
    view = (await claim(store)).views[0]
    revision = (await store.advance([started(view)], lease_seconds=15))[view.run.id].revision

    ends = replace(named(view, revision), start=(), status=RunStatus.COMPLETED, output={})
    await store.advance([ends], lease_seconds=15)

    async with connect(database_url) as connection:
        query = "select seq from public.agent_task_logs where run_id = %s order by ctid"
        seqs = [seq async for (seq,) in await connection.execute(query, [view.run.id])]
    assert seqs == [1, 2, 3, 4, 5]
