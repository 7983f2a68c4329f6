"""What people ask of a run that a worker holds, and what a run waits for."""

from __future__ import annotations

import asyncio
import json

from shared.direct_database import DirectDatabase
from shared.runs.engine import Done, HumanRequest, Outcome, StepContext, Waiting
from shared.runs.models import Step
from tests.runs.engines import ListEngine, forever, steps
from tests.runs.working import (
    has_open_question,
    step_stands,
    told,
    work_off,
    working,
)
from tests.support.clock import shift_clock
from tests.support.runs import (
    Person,
    assert_books_balance,
    connect,
    credit_account,
    run_row,
    step_rows,
    until,
    until_status,
)


async def test_stop_interrupts_a_running_step(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await person.queue()
    interrupted = asyncio.Event()

    async def endless(step: Step, ctx: StepContext) -> Outcome:
        try:
            return await forever(step, ctx)
        except asyncio.CancelledError:
            interrupted.set()
            raise

    async with working(database, ListEngine(steps(1), endless)):
        await until_status(database_url, run_id, "executing")
        answer = await person.call("control_run", run_id, "stop")
        await until_status(database_url, run_id, "cancelled")

    assert answer["stopping"] is True
    assert interrupted.is_set()
    assert (await step_rows(database_url, run_id))[0]["status"] == "cancelled"
    assert (await credit_account(database_url, person.id))["held"] == 0
    await assert_books_balance(database_url, person.id)


async def test_pause_gives_back_what_can_be_repeated_and_resume_goes_on(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    released = asyncio.Event()

    async def until_released(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        await released.wait()
        return Done()

    engine = ListEngine(steps(2), until_released)
    async with working(database, engine, url=database_url):
        await until_status(database_url, run_id, "executing")
        await person.call("control_run", run_id, "pause")
        await until_status(database_url, run_id, "paused")
        assert (await step_rows(database_url, run_id))[0]["status"] == "pending"
        released.set()
        await person.call("control_run", run_id, "resume")
        await until_status(database_url, run_id, "completed")

    assert [key for key, _, _ in engine.performed] == ["s1", "s1", "s2"]


async def test_pause_awaits_an_effectful_step(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await person.queue()
    released = asyncio.Event()

    async def until_released(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        await released.wait()
        return Done({"done": True})

    async with working(database, ListEngine(steps(2, effect="effectful"), until_released)) as worker:
        await until_status(database_url, run_id, "executing")
        await person.call("control_run", run_id, "pause")
        await until(lambda: told(worker, "pause"))
        released.set()
        await until_status(database_url, run_id, "paused")

    assert (await step_rows(database_url, run_id))[0]["output"] == {"done": True}


async def test_a_run_over_its_deadline_is_interrupted(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue(timeout_seconds=1)

    async with working(database, ListEngine(steps(1), forever)):
        row = await until_status(database_url, run_id, "timeout")

    assert row["error"]["code"] == "deadline"


async def test_waiting_for_a_person_holds_no_lease_and_the_answer_is_the_result(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()

    async def asks(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        return Waiting(HumanRequest("Which tea?")) if step.key == "s1" else Done()

    engine = ListEngine(steps(2), asks)
    async with working(database, engine, url=database_url):
        waiting = await until_status(database_url, run_id, "awaiting_input")
        await person.call("respond_run", run_id, json.dumps("green"))
        await until_status(database_url, run_id, "completed")

    assert waiting["lease_id"] is None
    assert (await step_rows(database_url, run_id))[0]["output"] == {"response": "green"}
    assert [key for key, _, _ in engine.performed] == ["s1", "s2"]


async def test_an_answer_while_other_steps_run_is_taken_in_at_the_next_heartbeat(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    released = asyncio.Event()

    async def asks(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        if step.key == "s1":
            return Waiting(HumanRequest("Which tea?"))
        if step.key == "s2":
            await released.wait()
        return Done()

    engine = ListEngine(steps(3), asks, width=2)
    async with working(database, engine):
        await until(lambda: has_open_question(database_url, run_id))
        await person.call("respond_run", run_id, json.dumps("green"))
        # Only the answer frees the place for s3 while s2 still runs.
        await until(lambda: step_stands(database_url, run_id, 3, "completed"))
        released.set()
        await until_status(database_url, run_id, "completed")

    assert sorted(key for key, _, _ in engine.performed) == ["s1", "s2", "s3"]


async def test_a_timer_holds_no_lease_and_the_run_goes_on_when_it_is_due(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue(timeout_seconds=7200)

    async def rests(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        return Waiting(3600.0) if step.key == "s1" else Done()

    engine = ListEngine(steps(2), rests)
    await work_off(database, engine)
    resting = await run_row(database_url, run_id)
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=3601)
    await work_off(database, engine)

    assert (resting["status"], resting["lease_id"]) == ("queued", None)
    assert (await run_row(database_url, run_id))["status"] == "completed"
    assert [key for key, _, _ in engine.performed] == ["s1", "s2"]
