"""Limits a minute: a whole minute's worth at once, then one at a time, and nothing is counted that was not done."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from shared.errors import LimitExceeded, error_for
from shared.runs.store import RunStore
from tests.runs.people import refused
from tests.runs.queueing import fetch, run, take
from tests.support.clock import shift_clock
from tests.support.runs import Person, connect, new_person

FROZEN = """
create or replace function private.clock() returns timestamptz language sql volatile security definer
  set search_path = '' as $$ select timestamptz '2030-01-01 00:00:00+00' + shift from private.clock_shift $$
"""


@pytest.fixture(autouse=True)
async def _time_stands_still(database_url: str) -> None:
    await run(database_url, FROZEN)


async def limit(url: str, number: int, *actions: str) -> None:
    for action in actions or ("creates", "starts", "streams"):
        await run(url, f"update private.tiers set {action}_per_minute = %s", number)


async def wait(url: str, seconds: float) -> None:
    async with connect(url) as connection:
        await shift_clock(connection, seconds=seconds)


async def is_refused(person: Person, **request: object) -> bool:
    try:
        await person.create(**request)
    except psycopg.Error as error:
        if error.sqlstate != "RUN09":
            raise
        return True
    return False


@pytest.mark.parametrize("number", [1, 2, 7, 60, 97])
async def test_a_minutes_worth_is_there_at_once_and_then_comes_back_one_by_one(
    person: Person, database_url: str, number: int
) -> None:
    await limit(database_url, number)

    assert [await is_refused(person) for _ in range(number)] == [False] * number
    assert await is_refused(person)
    await wait(database_url, 60 / number + 0.001)
    assert not await is_refused(person)
    assert await is_refused(person)
    await wait(database_url, 61)
    assert [await is_refused(person) for _ in range(number)] == [False] * number
    assert await is_refused(person)


async def test_the_refusal_says_what_and_when(person: Person, database_url: str) -> None:
    await limit(database_url, 4)
    for _ in range(4):
        await person.create()
    await wait(database_url, 10)

    with pytest.raises(psycopg.Error) as caught:
        await person.create()

    said = caught.value.diag
    assert said.message_primary == "This account may create at most 4 runs a minute"
    assert said.message_hint == "Try again in 5 s."
    error = error_for("RUN09", said.message_primary, details=said.message_detail, hint=said.message_hint)
    assert isinstance(error, LimitExceeded)
    assert error.retry_after_seconds == pytest.approx(5)
    assert error.retryable
    await wait(database_url, error.retry_after_seconds)
    assert not await is_refused(person)


def test_a_refusal_without_a_time_is_still_one() -> None:
    for details in (None, "later", "[]", "{}"):
        error = error_for("RUN09", "Too often", details=details)
        assert isinstance(error, LimitExceeded)
        assert error.retry_after_seconds is None


async def test_refused_calls_are_not_counted(person: Person, database_url: str) -> None:
    await limit(database_url, 1)
    await person.create()

    for _ in range(5):
        assert await is_refused(person)
    await wait(database_url, 60)

    assert not await is_refused(person)


async def test_calls_that_fail_otherwise_are_not_counted(person: Person, database_url: str) -> None:
    await limit(database_url, 1)

    for _ in range(3):
        assert await refused(person.create(max_steps=0)) == "RUN07"
        assert await refused(person.create(account_id=str((await new_person(database_url)).id))) == "RUN06"

    assert not await is_refused(person)


async def test_repeats_by_idempotency_key_are_not_counted(person: Person, database_url: str) -> None:
    await limit(database_url, 1)
    first = await person.create(key="k", autostart=True)

    for _ in range(3):
        assert (await person.create(key="k", autostart=True))["run_id"] == first["run_id"]
    assert await refused(person.create(key="other")) == "RUN09"
    await wait(database_url, 60)

    assert (await person.create(key="other"))["created"] is True, "the refused key is not taken"


async def test_starts_are_counted_apart_and_only_where_something_starts(person: Person, database_url: str) -> None:
    await limit(database_url, 1, "starts")
    first, second = [(await person.create())["run_id"] for _ in range(2)]

    assert (await person.call("start_run", first))["status"] == "queued"
    assert await refused(person.call("start_run", first)) == "RUN02"
    assert await refused(person.call("start_run", second)) == "RUN09"
    assert await refused(person.create(autostart=True)) == "RUN09"
    runs = await fetch(database_url, "select count(*) from public.agent_runs")

    assert runs == [(2,)], "what could not start was not created"
    await wait(database_url, 60)
    assert (await person.call("start_run", second))["status"] == "queued"


async def test_a_retry_is_a_new_run(store: RunStore, person: Person, database_url: str) -> None:
    run_id = await person.queue()
    await (await take(store))[run_id].end()
    await limit(database_url, 1)
    await run(database_url, "delete from private.rate_limits")

    await person.call("retry_run", run_id)

    assert await refused(person.call("retry_run", run_id)) == "RUN09"


async def test_accounts_are_limited_apart_and_members_together(person: Person, database_url: str) -> None:
    await limit(database_url, 1)
    other = await new_person(database_url)
    await run(database_url, "insert into public.account_members values (%s, %s, 'member')", person.id, other.id)

    assert not await is_refused(person)
    assert not await is_refused(other)
    assert await is_refused(other, account_id=str(person.id))


async def test_another_tier_holds_from_the_next_call_on(person: Person, database_url: str) -> None:
    await limit(database_url, 2)
    await run(database_url, "update private.tiers set creates_per_minute = 4 where name = 'pro'")
    await person.create()
    await person.create()
    assert await is_refused(person)

    await run(database_url, "select public.set_tier(%s, 'pro')", person.id)
    await wait(database_url, 15)

    assert not await is_refused(person)


async def test_a_clock_that_is_set_back_locks_nobody_out(person: Person, database_url: str) -> None:
    await limit(database_url, 2)
    await person.create()
    await person.create()

    await wait(database_url, -3600)

    assert [await is_refused(person) for _ in range(3)] == [False, False, True]
    await wait(database_url, 30)
    assert not await is_refused(person)
    await wait(database_url, 3600)
    assert not await is_refused(person)


async def test_callers_at_once_get_no_more_than_the_limit(person: Person, database_url: str) -> None:
    await limit(database_url, 7)

    refusals = await asyncio.gather(*(is_refused(person) for _ in range(20)))

    assert refusals.count(False) == 7


async def test_opening_a_stream_is_counted_for_who_may_read_it(person: Person, database_url: str) -> None:
    await limit(database_url, 1, "streams")
    run_id = (await person.create())["run_id"]
    stranger = await new_person(database_url)

    async def open_as(one: Person) -> None:
        await one.query("select public.follow_run(%s, p_opening => true)", run_id)

    for _ in range(2):
        assert await refused(open_as(stranger)) == "RUN01"
    await open_as(person)
    assert await refused(open_as(person)) == "RUN09"
    answer = await person.call("follow_run", run_id)
    assert answer["more"] is False
    assert answer["lines"] == []
