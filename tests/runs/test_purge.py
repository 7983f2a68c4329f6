"""What nobody asks for any more goes, a little at a time; what somebody may still ask for stays."""

from __future__ import annotations

import pytest
from psycopg import AsyncConnection

from shared.runs.store import RunStore
from tests.runs.queueing import assert_places_are_right, fetch, queue_many, run, take, tier
from tests.support.clock import shift_clock
from tests.support.runs import Person, connect


async def purge(url: str, *, limit: int = 100) -> int:
    """Purge once it is due again."""
    await wait(url, 61)
    return (await fetch(url, "select private.purge_old(private.clock(), %s)", limit))[0][0]


async def wait(url: str, seconds: float) -> None:
    async with connect(url) as connection:
        await shift_clock(connection, seconds=seconds)


async def count(url: str, table: str) -> int:
    return (await fetch(url, f"select count(*) from private.{table}"))[0][0]


async def test_an_idempotency_key_is_remembered_for_seven_days(person: Person, database_url: str) -> None:
    first = await person.create(key="k")
    await wait(database_url, 6.9 * 86400)
    await purge(database_url)
    assert (await person.create(key="k"))["run_id"] == first["run_id"]

    await wait(database_url, 0.2 * 86400)
    await purge(database_url)

    assert (await person.create(key="k"))["run_id"] != first["run_id"]


async def test_a_limit_that_is_long_full_again_goes_and_one_in_use_stays(person: Person, database_url: str) -> None:
    await run(database_url, "update private.tiers set creates_per_minute = 1")
    await person.create()
    await purge(database_url)
    assert await count(database_url, "rate_limits") == 1

    await wait(database_url, 3700)
    await purge(database_url)

    assert await count(database_url, "rate_limits") == 0


async def test_the_slot_of_a_key_stays_while_a_run_may_come_back_to_it(
    store: RunStore, person: Person, database_url: str
) -> None:
    """Also where it is paused, or held for another limit: it names the slot and takes no place of it."""
    await tier(database_url, person, places=1)
    (paused,) = await queue_many(person, 1, concurrency_key="paused")
    await person.call("control_run", paused, "pause")
    (ended,) = await queue_many(person, 1, concurrency_key="ended")
    await person.call("control_run", ended, "stop")
    (working,) = await queue_many(person, 1)
    (waiting,) = await queue_many(person, 1, concurrency_key="held")

    await purge(database_url)

    keys = await fetch(database_url, "select key from private.slots where kind = 'key' order by key")
    assert keys == [("held",), ("paused",)]
    await (await take(store))[working].end()
    assert list(await take(store)) == [waiting]
    await assert_places_are_right(database_url)


async def test_a_purge_is_bounded_and_goes_on_soon_while_there_is_more(person: Person, database_url: str) -> None:
    for number in range(5):
        await person.create(key=f"k{number}")
        await run(
            database_url,
            "insert into private.slots (account_id, kind, key, places) values (%s, 'key', %s, 1)",
            person.id,
            f"k{number}",
        )
    await wait(database_url, 8 * 86400)
    await run(database_url, "delete from private.rate_limits")
    deleted = [await purge(database_url, limit=2)]

    for _ in range(4):
        await wait(database_url, 1)
        deleted += (await fetch(database_url, "select private.purge_old(private.clock(), 2)"))[0]

    assert deleted == [4, 4, 2, 0, 0]
    assert (await count(database_url, "idempotency_keys"), await count(database_url, "slots")) == (0, 0)


@pytest.mark.parametrize("beside", [False, True])
async def test_a_purge_that_is_not_due_or_is_under_way_does_nothing(
    person: Person, database_url: str, *, beside: bool
) -> None:
    await person.create(key="k")
    await wait(database_url, 8 * 86400)

    async with await AsyncConnection.connect(database_url) as other:
        if beside:
            await other.execute("select from private.housekeeping for update")
        else:
            await run(database_url, "update private.housekeeping set due_at = private.clock() + interval '30 s'")
        rows = await fetch(database_url, "select private.purge_old(private.clock(), 100)")

    assert rows == [(0,)]
    assert await count(database_url, "idempotency_keys") == 1


async def test_a_clock_that_is_set_back_does_not_stop_the_purge(database_url: str) -> None:
    await purge(database_url)
    await wait(database_url, -86400)

    await purge(database_url)

    due = "select due_at <= private.clock() + interval '1 minute' from private.housekeeping"
    assert await fetch(database_url, due) == [(True,)]
