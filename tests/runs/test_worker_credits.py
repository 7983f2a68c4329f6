"""What steps reserve and cost while a worker performs them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from shared.direct_database import DirectDatabase
from shared.runs.engine import Done, Failed, Outcome, StepContext
from shared.runs.models import Json, NewStep, Step, StepError
from tests.runs.engines import ListEngine, Progress, forever, steps
from tests.runs.working import (
    costs,
    step_stands,
    work_off,
    working,
)
from tests.support.runs import (
    Person,
    assert_books_balance,
    connect,
    log_lines,
    run_row,
    set_available,
    step_rows,
    until,
    until_status,
)
from tests.support.wires import CountingDatabase


async def test_out_of_credits_pauses_with_a_line_and_goes_on_after_a_grant(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    await set_available(database_url, person.id, 0)
    engine = ListEngine(steps(2, credits_bound=900_000), costs(900_000))

    await work_off(database, engine)
    paused = await run_row(database_url, run_id)
    async with connect(database_url) as connection:
        await connection.execute("select public.grant_credits(%s, 5000000)", [person.id])
    await person.call("control_run", run_id, "resume")
    await work_off(database, engine)

    assert (paused["status"], paused["credits_spent"]) == ("paused", 900_000)
    assert "Out of credits" in next(line[2] for line in await log_lines(database_url, run_id) if line[1] == "warning")
    row = await run_row(database_url, run_id)
    assert (row["status"], row["credits_spent"]) == ("completed", 1_800_000)


async def test_with_steps_in_flight_a_run_short_of_credits_waits_for_them(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    """The second step does not fit beside the first's bound, but does once the first has cost little."""
    run_id = await person.queue(max_credits=1_000_000)
    released = asyncio.Event()

    async def cheap(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        if step.key == "s1":
            await released.wait()
        return Done(credits=10)

    class Late(ListEngine):
        """Wants the third step while the first still runs."""

        def decide(self, state: Progress) -> Any:
            self.width = 2 if "s2" in state.results else 1 + ("s1" in state.known)
            return super().decide(state)

    plan = [*steps(2, credits_bound=300_000), NewStep("s3", "test", "Step 3", credits_bound=800_000)]
    async with working(database, Late(plan, cheap, width=2)):
        await until(lambda: step_stands(database_url, run_id, 2, "completed"))
        released.set()
        row = await until_status(database_url, run_id, "completed", "failed")

    assert (row["status"], row["credits_spent"]) == ("completed", 30)
    await assert_books_balance(database_url, person.id)


async def test_what_a_step_cost_beyond_its_bound_is_not_charged(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()

    await work_off(database, ListEngine(steps(1, credits_bound=100), costs(5_000_000)))

    assert (await run_row(database_url, run_id))["credits_spent"] == 100


async def test_a_waiting_step_may_say_what_it_cost(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await person.queue()

    async def fails_then_done(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        if step.attempt == 1:
            return Failed(StepError("busy", "Busy", retryable=True), credits=30, retry_after_seconds=0.0)
        return Done(credits=40)

    async with working(database, ListEngine(steps(1, credits_bound=100), fails_then_done)):
        row = await until_status(database_url, run_id, "completed")

    assert row["credits_spent"] == 70
    await assert_books_balance(database_url, person.id)


@pytest.mark.parametrize(
    ("request_", "ends", "step_ends"), [("stop", "cancelled", "cancelled"), ("pause", "paused", "pending")]
)
async def test_what_an_interrupted_step_has_cost_is_booked(
    database: DirectDatabase, person: Person, database_url: str, request_: str, ends: str, step_ends: str
) -> None:
    """A model's answer that is cut off is charged by its provider; nobody gets it free by stopping in time."""
    run_id = await person.queue()

    async def dear(step: Step, ctx: StepContext) -> Outcome:
        ctx.spent(70)
        return await forever(step, ctx)

    async with working(database, ListEngine(steps(1, credits_bound=100), dear)):
        await until(lambda: step_stands(database_url, run_id, 1, "running"))
        await person.call("control_run", run_id, request_)
        row = await until_status(database_url, run_id, ends)

    assert row["credits_spent"] == 70
    assert (await step_rows(database_url, run_id))[0]["status"] == step_ends
    await assert_books_balance(database_url, person.id)


@pytest.mark.parametrize(("request_", "ends"), [("stop", "cancelled"), ("pause", "paused")])
async def test_what_an_interrupted_step_has_cost_is_booked_though_the_first_advance_with_it_loses_its_race(
    database: DirectDatabase, person: Person, database_url: str, request_: str, ends: str
) -> None:
    run_id = await person.queue()

    async def dear(step: Step, ctx: StepContext) -> Outcome:
        ctx.spent(70)
        return await forever(step, ctx)

    class Overtaken(CountingDatabase):
        """Somebody else writes to the run right before it is let go."""

        overtaken = False

        async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
            batch: Any = arguments.get("p_batch", {})
            if not self.overtaken and any(row.get("status") == ends for row in batch.get("runs", ())):
                self.overtaken = True
                async with connect(database_url) as rival:
                    await rival.execute("update public.agent_runs set revision = revision + 1")
            return await super().call(function, arguments)

    engine = ListEngine(steps(1, credits_bound=100), dear)
    overtaken = Overtaken(database)
    async with working(overtaken, engine):
        await until(lambda: step_stands(database_url, run_id, 1, "running"))
        await person.call("control_run", run_id, request_)
        row = await until_status(database_url, run_id, ends)

    assert overtaken.overtaken
    assert row["credits_spent"] == 70
    assert len(engine.performed) == 1
    await assert_books_balance(database_url, person.id)


async def test_a_timed_out_try_is_booked_at_what_it_said(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()

    async def dear(step: Step, ctx: StepContext) -> Outcome:
        ctx.spent(500)
        return await forever(step, ctx)

    await work_off(database, ListEngine(steps(1, credits_bound=100, timeout_seconds=0.05, max_attempts=1), dear))

    assert (await run_row(database_url, run_id))["credits_spent"] == 100
