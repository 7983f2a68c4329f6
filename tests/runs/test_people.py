"""What people may do with runs, called as PostgREST calls for them: their claims, their role, row-level security."""

from __future__ import annotations

import asyncio
import json
from uuid import UUID

import psycopg
import pytest

from shared.runs.store import RunStore
from tests.runs.people import refused, waiting_run
from tests.support.clock import shift_clock
from tests.support.runs import (
    Person,
    assert_books_balance,
    claim,
    connect,
    credit_account,
    log_lines,
    new_person,
    run_row,
    set_available,
    step_rows,
    until_lock_wait,
)


async def test_a_created_run_costs_nothing_until_it_is_started(person: Person, database_url: str) -> None:
    run = await person.create()

    assert (run["status"], run["revision"], run["created"]) == ("created", 1, True)
    assert (await credit_account(database_url, person.id))["held"] == 0


async def test_start_takes_the_hold_and_queues(person: Person, database_url: str) -> None:
    run = await person.create()

    started = await person.call("start_run", run["run_id"])

    assert started["status"] == "queued"
    assert (await credit_account(database_url, person.id))["held"] == 1_000_000
    await assert_books_balance(database_url, person.id)


async def test_starting_twice_says_what_the_run_is(person: Person) -> None:
    run_id = await person.queue()

    with pytest.raises(psycopg.Error, match="already started: it is queued") as caught:
        await person.call("start_run", run_id)

    assert caught.value.sqlstate == "RUN02"


async def test_two_starts_at_once_have_one_winner(person: Person, database_url: str) -> None:
    """The race is made: both wait for the row that the test holds."""
    run_id = (await person.create())["run_id"]
    async with connect(database_url) as holder, holder.transaction():
        await holder.execute("select from public.agent_runs where id = %s for update", [run_id])
        rivals = [asyncio.create_task(person.call("start_run", run_id)) for _ in range(2)]
        await until_lock_wait(database_url, "")
    answers = await asyncio.gather(*rivals, return_exceptions=True)

    assert sorted(type(answer).__name__ for answer in answers) == ["DatabaseError", "dict"]
    await assert_books_balance(database_url, person.id)


async def test_without_credits_a_run_does_not_start(person: Person, database_url: str) -> None:
    run = await person.create()
    await set_available(database_url, person.id, 0)

    assert await refused(person.call("start_run", run["run_id"])) == "RUN10"
    assert (await run_row(database_url, UUID(run["run_id"])))["status"] == "created"


async def test_the_same_idempotency_key_returns_the_first_run(person: Person) -> None:
    first = await person.create(key="order-1", input={"n": 1})
    second = await person.create(key="order-1", input={"n": 1})

    assert (first["created"], second["created"]) == (True, False)
    assert first["run_id"] == second["run_id"]


async def test_the_same_key_with_another_request_is_a_conflict(person: Person) -> None:
    await person.create(key="order-1", input={"n": 1})

    assert await refused(person.create(key="order-1", input={"n": 2})) == "RUN05"


async def test_many_creates_with_one_key_at_once_make_one_run(person: Person) -> None:
    answers = await asyncio.gather(*(person.create(key="burst") for _ in range(8)))

    assert len({answer["run_id"] for answer in answers}) == 1
    assert sum(answer["created"] for answer in answers) == 1


async def test_keys_of_two_accounts_do_not_meet(person: Person, database_url: str) -> None:
    other = await new_person(database_url)

    one, two = await person.create(key="same"), await other.create(key="same")

    assert one["run_id"] != two["run_id"]


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ({"input": []}, "input must be an object"),
        ({"engine": "No Such"}, "engine"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_steps": "many"}, "max_steps"),
        ({"timeout_seconds": -1}, "timeout_seconds"),
        ({"max_credits": 0}, "max_credits"),
        ({"account_id": "mine"}, "account_id"),
        ({"status": "completed"}, "unknown field 'status'"),
        ({"input": {"text": "x" * 300_000}}, "262144 bytes"),
        ({"input": {"deep": json.loads("[" * 40 + "]" * 40)}}, "nested more than 32 deep"),
    ],
)
async def test_bad_input_to_create_names_the_field(person: Person, request_: dict[str, object], named: str) -> None:
    with pytest.raises(psycopg.Error, match=named) as caught:
        await person.create(**request_)

    assert caught.value.sqlstate == "RUN07"


async def test_stopping_an_unleased_run_ends_it_at_once_and_returns_the_hold(person: Person, database_url: str) -> None:
    run_id = await person.queue()

    answer = await person.call("control_run", run_id, "stop")

    assert answer["status"] == "cancelled"
    assert "stopping" not in answer
    assert (await credit_account(database_url, person.id))["held"] == 0
    await assert_books_balance(database_url, person.id)


async def test_a_finished_run_says_so_to_every_action(person: Person) -> None:
    run_id = await person.queue()
    await person.call("control_run", run_id, "stop")

    assert await refused(person.call("control_run", run_id, "stop")) == "RUN04"
    assert await refused(person.call("control_run", run_id, "pause")) == "RUN04"
    assert await refused(person.call("start_run", run_id)) == "RUN04"
    assert await refused(person.call("respond_run", run_id, json.dumps("x"))) == "RUN04"


async def test_a_stale_revision_is_refused_with_the_present_one(person: Person) -> None:
    run_id = await person.queue()

    with pytest.raises(psycopg.Error, match="is at revision 2 and queued, not at revision 1") as caught:
        await person.call("control_run", run_id, "pause", 1)

    assert caught.value.sqlstate == "RUN03"


async def test_a_paused_run_waits_and_its_deadline_moves_by_the_pause(
    store: RunStore, person: Person, database_url: str
) -> None:
    run_id = await person.queue(timeout_seconds=100)
    await person.call("control_run", run_id, "pause")
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=1000)
    assert (await claim(store)).views == ()

    await person.call("control_run", run_id, "resume")

    view = (await claim(store)).views[0]
    assert 90 < view.run.remaining_seconds <= 100


async def test_pausing_a_leased_run_only_marks_it_and_resume_takes_the_mark_back(
    store: RunStore, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    await claim(store)

    paused = await person.call("control_run", run_id, "pause")
    assert (paused["status"], paused["pausing"]) == ("planning", True)
    await person.call("control_run", run_id, "resume")

    assert (await run_row(database_url, run_id))["pause_requested_at"] is None


async def test_a_run_that_is_not_paused_cannot_resume(person: Person) -> None:
    run_id = await person.queue()

    assert await refused(person.call("control_run", run_id, "resume")) == "RUN02"


async def test_an_answer_completes_the_step_that_asked_and_wakes_the_run(
    store: RunStore, person: Person, database_url: str
) -> None:
    run_id = await waiting_run(store, person)

    answer = await person.call("respond_run", run_id, json.dumps("Earl Grey"))

    assert answer["status"] == "queued"
    step = (await step_rows(database_url, run_id))[0]
    assert (step["status"], step["output"]) == ("completed", {"response": "Earl Grey"})
    view = (await claim(store)).views[0]
    assert view.results[0].messages[0].content == [{"type": "text", "text": "Earl Grey"}]


async def test_an_answer_outside_the_options_is_refused(store: RunStore, person: Person) -> None:
    run_id = await waiting_run(store, person, options=("green", "black"))

    assert await refused(person.call("respond_run", run_id, json.dumps("coffee"))) == "RUN07"
    assert (await person.call("respond_run", run_id, json.dumps("green")))["status"] == "queued"


async def test_a_question_is_answered_once(store: RunStore, person: Person) -> None:
    run_id = await waiting_run(store, person)
    await person.call("respond_run", run_id, json.dumps("first"))

    assert await refused(person.call("respond_run", run_id, json.dumps("second"))) == "RUN08"


async def test_a_repeated_answer_under_one_key_is_the_first_answer(store: RunStore, person: Person) -> None:
    run_id = await waiting_run(store, person)

    first = await person.call("respond_run", run_id, json.dumps("tea"), None, "answer-1")
    second = await person.call("respond_run", run_id, json.dumps("tea"), None, "answer-1")

    assert first == second


async def test_stopping_a_waiting_run_cancels_its_question(store: RunStore, person: Person, database_url: str) -> None:
    run_id = await waiting_run(store, person)

    await person.call("control_run", run_id, "stop")

    rows = await person.query("select status from public.human_requests where run_id = %s", run_id)
    assert rows == [("cancelled",)]
    assert (await step_rows(database_url, run_id))[0]["status"] == "cancelled"


async def test_every_line_is_kept_in_order_without_gaps(store: RunStore, person: Person, database_url: str) -> None:
    run_id = await waiting_run(store, person)
    await person.call("control_run", run_id, "pause")
    await person.call("control_run", run_id, "resume")
    await person.call("respond_run", run_id, json.dumps("x"))
    await person.call("control_run", run_id, "stop")

    lines = await log_lines(database_url, run_id)

    assert [line[0] for line in lines] == list(range(1, len(lines) + 1))


async def test_a_number_that_no_worker_could_read_back_is_refused(person: Person) -> None:
    """Jsonb takes 1e400, parsers of doubles do not: a run with it could never be claimed."""
    with pytest.raises(psycopg.Error, match="beyond 1e308") as caught:
        await person.call("create_run", '{"engine": "list", "input": {"n": [1e400]}}')

    assert caught.value.sqlstate == "RUN07"


async def test_beats_and_deltas_of_nothing_ask_nobody(store: RunStore) -> None:
    assert await store.heartbeat({}, lease_seconds=15) == []
    await store.publish([])
    await store.flush_logs([])
