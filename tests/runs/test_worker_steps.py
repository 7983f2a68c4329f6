"""What becomes of steps: performed, tried again, timed out, failed."""

from __future__ import annotations

import asyncio
import json

import pytest

from shared.direct_database import DirectDatabase
from shared.errors import UpstreamBusy, UpstreamRefused
from shared.runs.engine import Done, Outcome, StepContext, Waiting
from shared.runs.models import Step
from tests.runs.engines import ListEngine, forever, steps
from tests.runs.working import (
    work_off,
    working,
)
from tests.support.runs import (
    Person,
    assert_books_balance,
    log_lines,
    run_row,
    step_rows,
    until_status,
)


async def test_a_run_goes_from_queue_to_result(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await person.queue()

    await work_off(database, ListEngine(steps(3)))

    row = await run_row(database_url, run_id)
    assert (row["status"], row["output"]) == ("completed", {"keys": ["s1", "s2", "s3"]})
    assert [step["status"] for step in await step_rows(database_url, run_id)] == ["completed"] * 3
    assert (await log_lines(database_url, run_id))[-1][2] == "executing -> completed"


async def test_ready_steps_of_one_run_are_performed_in_parallel(database: DirectDatabase, person: Person) -> None:
    """Each step waits for all the others to have begun: only parallel performance ends."""
    await person.queue()
    begun = asyncio.Barrier(3)

    async def meet(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        await begun.wait()
        return Done({"key": step.key})

    worker = await work_off(database, ListEngine(steps(3), meet, width=3))

    assert worker.left == {"completed": 1}


async def test_a_step_is_tried_again_while_another_one_is_still_being_performed(
    database: DirectDatabase, person: Person
) -> None:
    """The first step ends only after the second has succeeded at its second try, which nobody but time wakes."""
    await person.queue()
    succeeded = asyncio.Event()

    async def first_waits_for_second(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        if step.step_no == 1:
            await succeeded.wait()
        elif step.attempt == 1:
            raise UpstreamBusy("The provider is busy", retry_after_seconds=0.05)
        else:
            succeeded.set()
        return Done()

    worker = await work_off(database, ListEngine(steps(2), first_waits_for_second, width=2))

    assert worker.left == {"completed": 1}


async def test_a_timer_ends_while_another_step_is_still_being_performed(
    database: DirectDatabase, person: Person
) -> None:
    await person.queue()
    third = asyncio.Event()

    async def first_waits_for_third(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        if step.step_no == 1:
            await third.wait()
        elif step.step_no == 2:
            return Waiting(0.05)
        else:
            third.set()
        return Done()

    worker = await work_off(database, ListEngine(steps(3), first_waits_for_third, width=2))

    assert worker.left == {"completed": 1}


async def test_a_retryable_failure_is_tried_again_under_the_same_effect_key(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    tries: list[int] = []

    async def busy_twice(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        tries.append(step.attempt)
        if len(tries) < 3:
            raise UpstreamBusy("The provider is busy", retry_after_seconds=0.0)
        return Done(credits=10)

    engine = ListEngine(steps(1, credits_bound=50), busy_twice)
    async with working(database, engine):
        row = await until_status(database_url, run_id, "completed", "failed")

    assert (row["status"], tries) == ("completed", [1, 2, 3])
    assert len({effect_key for _, _, effect_key in engine.performed}) == 1
    assert row["credits_spent"] == 10
    await assert_books_balance(database_url, person.id)


async def test_backing_off_holds_no_lease(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await person.queue()

    async def busy(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        raise UpstreamBusy("The provider is busy", retry_after_seconds=3600.0)

    await work_off(database, ListEngine(steps(1), busy))

    row = await run_row(database_url, run_id)
    assert (row["status"], row["lease_id"]) == ("queued", None)
    assert (await step_rows(database_url, run_id))[0]["status"] == "pending"


async def test_a_step_that_keeps_failing_fails_the_run_with_its_error(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()

    async def busy(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        raise UpstreamBusy("The provider is busy", retry_after_seconds=0.0)

    engine = ListEngine(steps(1, max_attempts=2), busy)
    async with working(database, engine):
        row = await until_status(database_url, run_id, "failed")

    assert (row["error"]["code"], row["error"]["message"]) == ("upstream_busy", "The provider is busy")
    assert len(engine.performed) == 2


@pytest.mark.parametrize(
    ("raised", "code"),
    [(UpstreamRefused("The key is wrong"), "upstream_refused"), (KeyError("secret-in-a-bug"), "internal")],
)
async def test_a_final_failure_is_not_tried_again_and_leaks_nothing(
    database: DirectDatabase, person: Person, database_url: str, raised: Exception, code: str
) -> None:
    run_id = await person.queue()

    async def fails(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        raise raised

    engine = ListEngine(steps(1), fails)
    await work_off(database, engine)

    row = await run_row(database_url, run_id)
    assert (row["status"], row["error"]["code"], len(engine.performed)) == ("failed", code, 1)
    assert "secret-in-a-bug" not in json.dumps([row, await step_rows(database_url, run_id)])


async def test_a_step_that_never_ends_times_out(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await person.queue()

    await work_off(database, ListEngine(steps(1, timeout_seconds=0.05, max_attempts=1), forever))

    assert (await run_row(database_url, run_id))["error"]["code"] == "step_timeout"


async def test_an_effectful_step_that_times_out_is_not_repeated(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    engine = ListEngine(steps(1, timeout_seconds=0.05, effect="effectful"), forever)

    await work_off(database, engine)

    assert (await run_row(database_url, run_id))["error"]["code"] == "outcome_unknown"
    assert len(engine.performed) == 1


async def test_a_run_ends_at_its_limit_of_steps(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await person.queue(max_steps=2)

    await work_off(database, ListEngine(steps(3)))

    row = await run_row(database_url, run_id)
    assert (row["status"], row["error"]["code"], row["step_count"]) == ("failed", "max_steps", 2)
