"""A step that waits for an event: what ends the wait, who may, and what a run does meanwhile."""

from __future__ import annotations

from uuid import uuid4

import pytest

from shared.direct_database import DirectDatabase
from shared.runs.engine import Done, Event, Outcome, StepContext, Waiting
from shared.runs.models import Step
from tests.runs.engines import ListEngine, steps
from tests.runs.people import refused
from tests.runs.working import work_off, working
from tests.support.clock import shift_clock
from tests.support.runs import (
    Person,
    assert_books_balance,
    connect,
    log_lines,
    new_person,
    run_row,
    step_rows,
    until_status,
)
from tests.webhooks.waits import KEYS, PAYLOAD, address_of, await_event, deliver, waiting


async def waiting_run(database: DirectDatabase, person: Person, **options: object) -> object:
    """A run whose one step waits for an event, and that no worker holds."""
    run_id = await person.queue()
    await work_off(database, ListEngine(steps(1, **options), await_event))
    return run_id


async def test_a_wait_holds_no_worker_and_wakes_by_itself_at_its_end(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await waiting_run(database, person, timeout_seconds=600)

    run, (step,) = await run_row(database_url, run_id), await step_rows(database_url, run_id)
    assert (run["status"], run["lease_id"], run["held_for"]) == ("queued", None, None)
    assert run["available_at"] != "infinity" != step["available_at"]
    assert (step["status"], step["waits_for"]) == ("running", "event")


async def test_the_payload_becomes_the_steps_output_and_the_run_goes_on(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    engine = ListEngine(steps(2), await_event)
    run_id = await person.queue()
    await work_off(database, engine)

    answer = await deliver(person, run_id)
    await work_off(database, engine)
    await deliver(person, run_id, 2, payload={"second": True})
    await work_off(database, engine)

    assert (answer["status"], answer["step_no"], "kept" in answer) == ("queued", 1, False)
    assert [step["output"] for step in await step_rows(database_url, run_id)] == [PAYLOAD, {"second": True}]
    assert (await run_row(database_url, run_id))["status"] == "completed"
    assert [line[2] for line in await log_lines(database_url, run_id)].count("The awaited event came") == 2
    await assert_books_balance(database_url, person.id)


async def test_a_live_worker_is_woken_by_the_event(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await waiting_run(database, person)
    async with working(database, ListEngine(steps(1), await_event), url=database_url):
        await deliver(person, run_id)
        await until_status(database_url, run_id, "completed")


async def test_nobody_without_the_token_learns_or_changes_anything(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await waiting_run(database, person)
    before = await run_row(database_url, run_id)

    of_another_agent = KEYS.token(address_of(run_id, agent_id=uuid4()))
    of_another_step = KEYS.token(address_of(run_id, 2))
    for token in ("", "x" * 64, KEYS.token_hash(address_of(run_id)), of_another_agent, of_another_step):
        assert await refused(deliver(person, run_id, token=token)) == "RUN01"
    assert await refused(deliver(person, uuid4())) == "RUN01"
    assert await refused(deliver(person, run_id, 2)) == "RUN01"
    assert await run_row(database_url, run_id) == before


async def test_only_anon_may_deliver_and_nobody_reads_what_is_awaited(person: Person) -> None:
    for role in ("authenticated", "service_role"):
        statement = "select public.deliver_event(gen_random_uuid(), 1, 'x', 'e', '{}')"
        assert await refused(person.query(statement, role=role)) == "42501"
    for role in ("anon", "authenticated", "service_role"):
        assert await refused(person.query("select * from private.step_events", role=role)) == "42501"
        assert await refused(person.query("select private.take_event(gen_random_uuid(), 1, '', '{}')", role=role)) == (
            "42501"
        )


async def test_the_same_event_again_gets_the_same_answer_and_has_no_effect(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await waiting_run(database, person)

    first = await deliver(person, run_id, delivery_id="one")
    await work_off(database, ListEngine(steps(1), await_event))
    ended = await run_row(database_url, run_id)
    again = await deliver(person, run_id, delivery_id="two", payload={"other": "text"})

    assert again == first
    assert await run_row(database_url, run_id) == ended
    assert (await step_rows(database_url, run_id))[0]["output"] == PAYLOAD


async def test_a_delivery_that_was_received_before_is_refused(database: DirectDatabase, person: Person) -> None:
    run_id = await waiting_run(database, person)
    await deliver(person, run_id, delivery_id="one")
    await deliver(person, run_id, delivery_id="two")

    for delivery_id in ("one", "two"):
        assert await refused(deliver(person, run_id, delivery_id=delivery_id)) == "RUN22"


async def test_another_event_for_a_step_that_had_one_is_refused(database: DirectDatabase, person: Person) -> None:
    run_id = await waiting_run(database, person)
    await deliver(person, run_id)

    assert await refused(deliver(person, run_id, event_id="event-2")) == "RUN21"


async def test_an_ended_run_takes_no_event_and_says_so(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await waiting_run(database, person)
    await person.call("control_run", run_id, "stop")

    assert await refused(deliver(person, run_id)) == "RUN04"
    assert (await step_rows(database_url, run_id))[0]["status"] == "cancelled"


async def test_a_paused_run_takes_the_event_and_stays_paused(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await waiting_run(database, person)
    await person.call("control_run", run_id, "pause")

    assert (await deliver(person, run_id))["status"] == "paused"

    await person.call("control_run", run_id, "resume")
    await work_off(database, ListEngine(steps(1), await_event))
    assert (await run_row(database_url, run_id))["status"] == "completed"


async def test_an_event_that_does_not_come_fails_its_step_in_time(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await waiting_run(database, person, timeout_seconds=60, max_attempts=3)
    engine = ListEngine(steps(1), await_event)
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=59)
        await work_off(database, engine)
        early = (await run_row(database_url, run_id))["status"]
        await shift_clock(connection, seconds=2)
        await work_off(database, engine)

    (step,) = await step_rows(database_url, run_id)
    assert early == "queued"
    assert (step["status"], step["error"]["code"], step["attempt"]) == ("failed", "event_timeout", 1)
    assert (await run_row(database_url, run_id))["error"]["code"] == "event_timeout"
    assert engine.performed == []  # the wait was found in the rows and not begun anew
    assert await refused(deliver(person, run_id)) == "RUN04"


async def test_a_wait_may_last_longer_than_the_step_that_began_it(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    async def patient(step: Step, ctx: StepContext) -> Outcome:
        return waiting(ctx.run.id, step.step_no, seconds=3000)

    run_id = await person.queue()
    engine = ListEngine(steps(1, timeout_seconds=5), patient)
    await work_off(database, engine)
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=2900)
    await work_off(database, engine)

    assert (await run_row(database_url, run_id))["status"] == "queued"
    await deliver(person, run_id)
    await work_off(database, engine)
    assert (await run_row(database_url, run_id))["status"] == "completed"


async def test_a_wait_does_not_outlast_its_runs_deadline(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue(timeout_seconds=30)
    await work_off(database, ListEngine(steps(1, timeout_seconds=600), await_event))
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=31)
    await work_off(database, ListEngine(steps(1), await_event))

    assert (await run_row(database_url, run_id))["status"] == "timeout"
    assert await refused(deliver(person, run_id)) == "RUN04"


async def test_a_wait_whose_hash_is_none_fails_its_step(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    async def broken(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        return Waiting(Event("no hash"))

    run_id = await person.queue()
    await work_off(database, ListEngine(steps(1), broken))

    assert (await step_rows(database_url, run_id))[0]["error"]["code"] == "unstorable"


@pytest.mark.parametrize(
    ("problem", "named"),
    [
        ({"payload": None}, "payload"),
        ({"payload": [1]}, "payload"),
        ({"payload": "text"}, "payload"),
        ({"payload": {"x": "y" * 2_200_000}}, "payload"),
        ({"payload": {"x": 10**400}}, "payload"),
        ({"event_id": ""}, "event_id"),
        ({"event_id": "x" * 201}, "event_id"),
        ({"delivery_id": ""}, "delivery_id"),
    ],
)
async def test_what_cannot_be_an_event_is_refused_and_the_step_waits_on(
    database: DirectDatabase, person: Person, database_url: str, problem: dict[str, object], named: str
) -> None:
    run_id = await waiting_run(database, person)

    with pytest.raises(Exception, match=named) as caught:
        await deliver(person, run_id, **problem)

    assert caught.value.sqlstate == "RUN07"
    assert (await step_rows(database_url, run_id))[0]["waits_for"] == "event"


async def test_an_event_reaches_a_run_that_goes_on_with_other_steps(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    """The worker holds the run: the new revision makes it read what came."""
    run_id = await person.queue()
    opened: list[Step] = []

    async def second_waits_for_first(step: Step, ctx: StepContext) -> Outcome:
        if step.key == "s1":
            return waiting(ctx.run.id, step.step_no)
        opened.append(step)
        while not (await ctx.results((1,))):
            await deliver(person, run_id)
        return Done()

    await work_off(database, ListEngine(steps(2), second_waits_for_first, width=2))

    assert len(opened) == 1
    assert (await run_row(database_url, run_id))["status"] == "completed"


async def test_a_retry_waits_anew_under_its_own_token(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await waiting_run(database, person, timeout_seconds=10)
    engine = ListEngine(steps(1, timeout_seconds=10), await_event)
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=11)
    await work_off(database, engine)
    again = await person.call("retry_run", run_id)
    await work_off(database, engine)

    stale = KEYS.token(address_of(run_id))
    assert await refused(deliver(person, again["run_id"], token=stale)) == "RUN01"
    assert await refused(deliver(await new_person(database_url), run_id)) == "RUN04"
    await deliver(person, again["run_id"])
    await work_off(database, engine)
    assert (await run_row(database_url, again["run_id"]))["status"] == "completed"


async def test_an_event_that_no_step_owned_up_to_goes_after_a_week_and_an_awaited_one_stays(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    async def forged_first(step: Step, ctx: StepContext) -> Outcome:
        await deliver(person, ctx.run.id, token="forged")
        return waiting(ctx.run.id, step.step_no, seconds=30 * 86_400)

    run_id = await person.queue(timeout_seconds=604_800)
    await work_off(database, ListEngine(steps(1), forged_first))
    async with connect(database_url) as connection:

        async def awaited() -> list[bool]:
            cursor = await connection.execute("select awaited from private.step_events order by 1")
            return [row[0] for row in await cursor.fetchall()]

        await shift_clock(connection, seconds=6.9 * 86_400)
        await work_off(database, ListEngine(steps(1), await_event))
        before = await awaited()
        await shift_clock(connection, seconds=0.2 * 86_400)
        await work_off(database, ListEngine(steps(1), await_event))
        after = await awaited()

    assert (before, after) == ([False, True], [True])
    assert (await run_row(database_url, run_id))["status"] == "timeout"  # a run lives a week at most
