"""Places under contention: whoever meets a lock passes on, the next claim sees to it, and the counts stay right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from random import Random
from uuid import UUID

import psycopg
import pytest
from psycopg import AsyncConnection

from shared.direct_database import DirectDatabase
from shared.runs.models import RunId
from shared.runs.store import RunStore
from tests.runs.queueing import Held, assert_places_are_right, fetch, held, over_the_limit, queue_many, run, take, tier
from tests.support.agents import PUBLISHED_AGENT
from tests.support.clock import shift_clock
from tests.support.runs import Person, claim, connect, new_person, until_lock_wait


@asynccontextmanager
async def locked(url: str, statement: str, *values: object) -> AsyncGenerator[None]:
    """Somebody is in the middle of a transaction that holds these rows."""
    async with await AsyncConnection.connect(url) as connection:
        await connection.execute(statement, values)
        yield
        await connection.rollback()


async def rechecks(url: str) -> int:
    return (await fetch(url, "select count(*) from private.slots where recheck"))[0][0]


async def test_a_held_run_that_somebody_has_locked_is_let_in_by_the_next_claim(
    store: RunStore, person: Person, database_url: str
) -> None:
    await tier(database_url, person, places=1)
    working, waiting = await queue_many(person, 2)
    worker = (await take(store))[working]

    async with locked(database_url, "select from public.agent_runs where id = %s for update", waiting):
        await worker.end()
        assert await held(database_url, waiting) == [True]
        assert await rechecks(database_url) == 1
        blocked = await claim(store)
        assert blocked.views == ()
        assert blocked.next_in_seconds == pytest.approx(0.2)

    assert list(await take(store)) == [waiting]
    assert await rechecks(database_url) == 0
    await assert_places_are_right(database_url)


async def test_the_second_best_does_not_overtake_the_one_that_somebody_has_locked_twice(
    store: RunStore, person: Person, database_url: str
) -> None:
    """The place is not kept empty meanwhile: the next one gets it, and the locked one the next place."""
    await tier(database_url, person, places=1)
    working, locked_one, other = await queue_many(person, 3)
    worker = (await take(store))[working]

    async with locked(database_url, "select from public.agent_runs where id = %s for update", locked_one):
        await worker.end()
        claimed = await take(store)
    assert list(claimed) == [other]
    await claimed[other].end()

    assert list(await take(store)) == [locked_one]
    await assert_places_are_right(database_url)


async def test_a_slot_that_somebody_has_locked_keeps_nobody_waiting(
    store: RunStore, person: Person, database_url: str
) -> None:
    await tier(database_url, person, places=1)
    (working,) = await queue_many(person, 1)
    (waiting,) = await queue_many(person, 1, concurrency_key="crm")
    worker = (await take(store))[working]

    async with locked(database_url, "select from private.slots where kind = 'key' for update"):
        await worker.end()
        assert await rechecks(database_url) == 1
        assert await take(store) == {}

    assert list(await take(store)) == [waiting]
    await assert_places_are_right(database_url)


async def test_a_timer_whose_slot_somebody_has_locked_comes_up_with_the_next_claim(
    store: RunStore, person: Person, database_url: str
) -> None:
    (sleeper,) = await queue_many(person, 1)
    await (await take(store))[sleeper].sleep(60)
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=61)

    async with locked(database_url, "select from private.slots for update"):
        blocked = await claim(store)
        assert (blocked.views, blocked.next_in_seconds) == ((), 0)

    assert list(await take(store)) == [sleeper]
    await assert_places_are_right(database_url)


async def test_a_raised_limit_reaches_runs_that_somebody_had_locked(
    store: RunStore, person: Person, database_url: str
) -> None:
    await tier(database_url, person, places=1)
    _, waiting = await queue_many(person, 2)
    await take(store)
    await run(database_url, "update private.tiers set concurrent_runs = 2")

    async with locked(database_url, "select from public.agent_runs where id = %s for update", waiting):
        assert await take(store) == {}

    assert list(await take(store)) == [waiting]


async def test_two_who_start_the_last_place_get_one_place(person: Person, database_url: str) -> None:
    """The race is made: the second waits for the slot that the first has taken."""
    await tier(database_url, person, places=1)
    first, second = [RunId(UUID((await person.create())["run_id"])) for _ in range(2)]
    async with await AsyncConnection.connect(database_url) as one:
        await one.execute(
            "select set_config('request.jwt.claims', json_build_object('sub', %s::text)::text, true)", [person.id]
        )
        await one.execute("select public.start_run(%s)", [first])

        async with await AsyncConnection.connect(database_url, application_name="second", autocommit=True) as two:
            await two.execute(
                "select set_config('request.jwt.claims', json_build_object('sub', %s::text)::text, false)", [person.id]
            )
            starting = asyncio.create_task(two.execute("select public.start_run(%s)", [second]))
            await until_lock_wait(database_url, "second")
            await one.commit()
            await starting

    assert await held(database_url, first, second) == [False, True]
    await assert_places_are_right(database_url)


async def test_a_key_that_is_purged_under_a_start_is_made_again(person: Person, database_url: str) -> None:
    await queue_many(person, 1, concurrency_key="old")
    run_id = (await person.create(concurrency_key="crm"))["run_id"]
    await run(
        database_url,
        "insert into private.slots (account_id, kind, key, places) values (%s, 'key', 'crm', 1)",
        person.id,
    )

    async with await AsyncConnection.connect(database_url) as purger:
        await purger.execute("delete from private.slots where key = 'crm'")
        async with await AsyncConnection.connect(database_url, application_name="starter", autocommit=True) as starter:
            await starter.execute(
                "select set_config('request.jwt.claims', json_build_object('sub', %s::text)::text, false)", [person.id]
            )
            starting = asyncio.create_task(starter.execute("select public.start_run(%s)", [run_id]))
            await until_lock_wait(database_url, "starter")
            await purger.commit()
            await starting

    assert await fetch(database_url, "select taken from private.slots where key = 'crm'") == [(1,)]
    await assert_places_are_right(database_url)


async def test_nobody_deadlocks_and_every_count_is_right_after_a_crush(person: Person, database_url: str) -> None:
    """People and workers at once, over few places of several kinds. A deadlock or a wrong count fails it."""
    people = [person, *[await new_person(database_url) for _ in range(2)]]
    for one in people:
        await tier(database_url, one, places=3)
    rows = await fetch(
        database_url,
        PUBLISHED_AGENT,
        person.id,
        2,
    )
    agent_id = rows[0][0]
    chance = Random(7)  # noqa: S311 - the same crush each time
    kinds: list[dict[str, object]] = [
        {},
        {"concurrency_key": "crm", "concurrency_limit": 1},
        {"concurrency_key": "mail", "concurrency_limit": 2, "priority": 5},
        {"priority": -5},
    ]

    async def live(one: Person, number: int) -> None:
        mine = Random(number)  # noqa: S311 - the same crush each time
        for _ in range(12):
            kind = mine.choice([*kinds, {"agent_id": agent_id}] if one is person else kinds)
            run_id = await one.queue(**kind)
            action = mine.choice(["none", "none", "stop", "pause"])
            if action == "none":
                continue
            for step in (action, "resume"):
                await try_to(one.call("control_run", run_id, step))

    async def work(database: DirectDatabase, number: int) -> None:
        mine, store = Random(number), RunStore(database)  # noqa: S311 - the same crush each time
        for _ in range(25):
            for worker in (await take(store, limit=mine.randint(1, 4), lease_seconds=600)).values():
                await mine.choice([Held.end, Held.end, Held.give_back, _nap])(worker)

    async with DirectDatabase(database_url, connections=8) as database:
        await asyncio.gather(
            *(live(one, chance.randrange(1000)) for one in people for _ in range(2)),
            *(work(database, chance.randrange(1000)) for _ in range(4)),
        )
        store = RunStore(database)
        await claim(store, limit=0)
        await assert_places_are_right(database_url)
        for _ in range(200):  # whatever is left can be worked off
            claimed = await take(store, limit=20)
            for worker in claimed.values():
                await worker.end()
            if not claimed:
                break
        left = await fetch(database_url, "select id from public.agent_runs where status in ('queued', 'planning')")

    assert (left, await over_the_limit(database_url)) == ([], [])
    assert await fetch(database_url, "select sum(taken) from private.slots") == [(0,)]


async def try_to(call: Awaitable[object]) -> None:
    """A worker may have been there first: that the move is refused is an answer, a deadlock is none."""
    try:
        await call
    except psycopg.Error as error:
        if error.sqlstate not in {"RUN02", "RUN04"}:
            raise


async def _nap(worker: Held) -> None:
    await worker.sleep(0.001)
