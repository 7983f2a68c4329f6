"""Held runs: an account, an agent and a key let only so many go on, and whoever leaves hands the place on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest

from shared.runs.store import RunStore
from tests.runs.people import refused
from tests.runs.queueing import (
    Held,
    assert_places_are_right,
    fetch,
    held,
    held_for,
    order,
    queue_many,
    run,
    take,
    tier,
)
from tests.support.agents import PUBLISHED_AGENT
from tests.support.clock import shift_clock
from tests.support.runs import Person, connect, join, new_person

Leave = Callable[[Person, Held, str], Awaitable[Any]]


async def new_agent(url: str, account_id: UUID, *, places: int | None) -> str:
    rows = await fetch(
        url,
        PUBLISHED_AGENT,
        account_id,
        places,
    )
    return rows[0][0]


@pytest.fixture
async def notifications(database_url: str) -> AsyncGenerator[Callable[[], Awaitable[int]]]:
    """How many times the workers were woken since the last time that was asked."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as listener:
        await listener.execute("listen runbase_runs")

        async def count() -> int:
            return len([one async for one in listener.notifies(timeout=0.05)])

        yield count


async def test_only_an_accounts_places_are_claimable(store: RunStore, person: Person, database_url: str) -> None:
    await tier(database_url, person, places=3)
    run_ids = await queue_many(person, 5)

    claimed = await take(store)

    assert await held(database_url, *run_ids) == [False, False, False, True, True]
    assert set(claimed) == set(run_ids[:3])
    assert await take(store) == {}
    await assert_places_are_right(database_url)


async def _ends(person: Person, worker: Held, url: str) -> None:
    await worker.end()


async def _asks(person: Person, worker: Held, url: str) -> None:
    await worker.ask()


async def _sleeps(person: Person, worker: Held, url: str) -> None:
    await worker.sleep(600)


async def _pauses(person: Person, worker: Held, url: str) -> None:
    await person.call("control_run", worker.run_id, "pause")
    await worker.give_back()


async def _stops(person: Person, worker: Held, url: str) -> None:
    await person.call("control_run", worker.run_id, "stop")
    await worker.give_back()


@pytest.mark.parametrize("leave", [_ends, _asks, _sleeps, _pauses, _stops])
async def test_a_claimed_run_that_leaves_hands_its_place_on(
    store: RunStore,
    person: Person,
    database_url: str,
    notifications: Callable[[], Awaitable[int]],
    leave: Leave,
) -> None:
    await tier(database_url, person, places=1)
    first, second, third = await queue_many(person, 3)
    claimed = await take(store)
    await notifications()

    await leave(person, claimed[first], database_url)

    assert await held(database_url, second, third) == [False, True]
    assert await notifications() == 1
    assert list(await take(store)) == [second]
    await assert_places_are_right(database_url)


@pytest.mark.parametrize("action", ["stop", "pause"])
async def test_a_queued_run_that_its_person_takes_away_hands_its_place_on(
    store: RunStore, person: Person, database_url: str, notifications: Callable[[], Awaitable[int]], action: str
) -> None:
    await tier(database_url, person, places=1)
    first, second, third = await queue_many(person, 3)
    await notifications()

    await person.call("control_run", second, action)
    assert await held(database_url, third) == [True], "a held run has no place to hand on"
    await person.call("control_run", first, action)

    assert await held(database_url, third) == [False]
    assert await notifications() == 1
    assert list(await take(store)) == [third]
    await assert_places_are_right(database_url)


async def test_a_run_over_its_deadline_hands_its_place_on(store: RunStore, person: Person, database_url: str) -> None:
    await tier(database_url, person, places=1)
    (late,) = await queue_many(person, 1, timeout_seconds=30)
    (next_one,) = await queue_many(person, 1)
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=31)

    assert list(await take(store)) == [next_one]
    assert await fetch(database_url, "select status from public.agent_runs where id = %s", late) == [("timeout",)]
    await assert_places_are_right(database_url)


async def test_a_poison_run_hands_its_place_on(store: RunStore, person: Person, database_url: str) -> None:
    await tier(database_url, person, places=1)
    poison, next_one = await queue_many(person, 2)
    await run(database_url, "update public.agent_runs set max_attempts = 1 where id = %s", poison)
    assert list(await take(store)) == [poison]
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=60)

    assert list(await take(store)) == [next_one]
    assert await fetch(database_url, "select status from public.agent_runs where id = %s", poison) == [("failed",)]
    await assert_places_are_right(database_url)


async def test_a_lost_worker_leaves_the_place_with_its_run(store: RunStore, person: Person, database_url: str) -> None:
    await tier(database_url, person, places=1)
    first, second = await queue_many(person, 2)
    await take(store)
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=60)

    assert list(await take(store)) == [first]
    assert await held(database_url, second) == [True]
    await assert_places_are_right(database_url)


async def test_an_answer_and_a_resume_come_up_for_a_place_of_their_own(
    store: RunStore, person: Person, database_url: str
) -> None:
    await tier(database_url, person, places=1)
    asking, pausing, working = await queue_many(person, 3)
    await (await take(store))[asking].ask()
    await person.call("control_run", pausing, "pause")
    claimed = await take(store)
    assert list(claimed) == [working]

    await person.call("respond_run", asking, '"Green"')
    await person.call("control_run", pausing, "resume")

    assert await held(database_url, asking, pausing) == [True, True]
    await claimed[working].end()
    assert await order(store, 2) == [asking]
    await assert_places_are_right(database_url)


async def test_an_answer_to_a_held_run_keeps_its_turn(store: RunStore, person: Person, database_url: str) -> None:
    """It also waits for a timer, came up by that, and is first in line already."""
    await tier(database_url, person, places=1)
    asking, working, behind = await queue_many(person, 3)
    await (await take(store))[asking].ask()
    # As an engine leaves it that waits for a person and a timer at once.
    await run(
        database_url,
        "update public.agent_runs set status = 'queued', available_at = private.clock() where id = %s",
        asking,
    )
    claimed = await take(store)
    await take(store)
    before = await fetch(database_url, "select available_at from public.agent_runs where id = %s", asking)

    await person.call("respond_run", asking, '"Green"')

    assert await fetch(database_url, "select available_at from public.agent_runs where id = %s", asking) == before
    assert list(claimed) == [working]
    assert await held(database_url, behind) == [True]


async def test_a_better_run_takes_the_place_of_a_sibling_that_is_not_claimed_yet(
    store: RunStore, person: Person, database_url: str
) -> None:
    await tier(database_url, person, places=2)
    plain = await queue_many(person, 3)

    urgent = await person.queue(priority=1)

    assert await held(database_url, *plain, urgent) == [False, True, True, False]
    assert set(await take(store)) == {plain[0], urgent}
    await assert_places_are_right(database_url)


async def test_a_claimed_run_keeps_its_place_whatever_comes(store: RunStore, person: Person, database_url: str) -> None:
    await tier(database_url, person, places=1)
    (plain,) = await queue_many(person, 1)
    await take(store)

    urgent = await person.queue(priority=100)

    assert await held(database_url, urgent) == [True]
    assert await take(store) == {}
    assert await fetch(database_url, "select status from public.agent_runs where id = %s", plain) == [("planning",)]


async def test_held_runs_go_by_priority_then_by_when_they_came_up(
    store: RunStore, person: Person, database_url: str
) -> None:
    await tier(database_url, person, places=1)
    (working,) = await queue_many(person, 1)
    claimed = await take(store)
    early, late = await person.queue(), await person.queue()
    urgent = await person.queue(priority=3)
    await claimed[working].end()
    seen = []

    for _ in range(3):
        ((run_id, worker),) = (await take(store)).items()
        seen.append(run_id)
        await worker.end()

    assert seen == [urgent, early, late]


async def test_a_key_lets_only_so_many_of_its_runs_go_on(store: RunStore, person: Person, database_url: str) -> None:
    one, two, three = await queue_many(person, 3, concurrency_key="crm", concurrency_limit=2)
    (other,) = await queue_many(person, 1, concurrency_key="mail")
    stranger = await new_person(database_url)
    (elsewhere,) = await queue_many(stranger, 1, concurrency_key="crm")

    claimed = await take(store)

    assert set(claimed) == {one, two, other, elsewhere}
    assert await held_for(database_url, three) == "key"
    await claimed[two].end()
    assert list(await take(store)) == [three]
    await assert_places_are_right(database_url)


async def test_the_limit_of_a_key_is_what_its_newest_run_says(
    store: RunStore, person: Person, database_url: str
) -> None:
    first, second, third = await queue_many(person, 3, concurrency_key="crm", concurrency_limit=1)
    claimed = await take(store)
    assert list(claimed) == [first]

    (newest,) = await queue_many(person, 1, concurrency_key="crm", concurrency_limit=3)
    more = await take(store)

    assert set(more) == {second, newest}, "those who waited are let in too"
    (narrow,) = await queue_many(person, 1, concurrency_key="crm", concurrency_limit=1)
    for worker in (claimed | more).values():
        assert await take(store) == {}
        await worker.end()
    assert list(await take(store)) == [third]
    assert await held(database_url, narrow) == [True]
    await assert_places_are_right(database_url)


async def test_an_agent_lets_only_so_many_of_its_runs_go_on_whoever_starts_them(
    store: RunStore, person: Person, database_url: str
) -> None:
    agent_id = await new_agent(database_url, person.id, places=1)
    first, second = await queue_many(person, 2, agent_id=agent_id)

    claimed = await take(store)

    assert list(claimed) == [first]
    assert await held_for(database_url, second) == "agent"
    await claimed[first].end()
    assert list(await take(store)) == [second]


async def test_an_agent_of_an_account_that_is_not_mine_does_not_exist(person: Person, database_url: str) -> None:
    agent_id = await new_agent(database_url, (await new_person(database_url)).id, places=None)

    assert await refused(person.create(agent_id=agent_id)) == "RUN01"


async def test_who_only_reads_an_agents_account_takes_none_of_its_places(person: Person, database_url: str) -> None:
    seller = await new_person(database_url)
    agent_id = await new_agent(database_url, seller.id, places=1)
    await join(database_url, person, seller.id, "viewer")

    assert await refused(person.create(agent_id=agent_id)) == "RUN01"
    await run(database_url, "update public.account_members set role = 'member' where user_id = %s", person.id)
    await person.create(agent_id=agent_id)


@pytest.mark.parametrize(
    "change",
    [
        "delete from public.account_members where user_id = %s and account_id = %s",
        "update public.account_members set role = 'viewer' where user_id = %s and account_id = %s",
    ],
    ids=["left", "only reads now"],
)
async def test_who_may_no_longer_use_an_agent_does_not_retry_its_runs(
    person: Person, database_url: str, change: str
) -> None:
    seller = await new_person(database_url)
    agent_id = await new_agent(database_url, seller.id, places=2)
    await join(database_url, person, seller.id, "member")
    (run_id,) = await queue_many(person, 1, agent_id=agent_id)
    await person.call("control_run", run_id, "stop")
    await person.call("retry_run", run_id)

    await run(database_url, change, person.id, seller.id)

    assert await refused(person.call("retry_run", run_id)) == "RUN01"


async def test_a_held_run_moves_on_to_the_next_limit_that_is_reached(
    store: RunStore, person: Person, database_url: str
) -> None:
    await tier(database_url, person, places=2)
    agent_id = await new_agent(database_url, person.id, places=1)
    (of_agent,) = await queue_many(person, 1, agent_id=agent_id)
    (of_key,) = await queue_many(person, 1, concurrency_key="crm")
    claimed = await take(store)

    (last,) = await queue_many(person, 1, agent_id=agent_id, concurrency_key="crm")
    seen = [await held_for(database_url, last)]
    (filler,) = await queue_many(person, 1)
    await claimed[of_key].end()
    seen.append(await held_for(database_url, last))
    claimed |= await take(store)
    await claimed[of_agent].end()

    assert [*seen, await held_for(database_url, last)] == ["account", "agent", None]
    assert filler in claimed, "what cannot go on keeps no place from who can"
    assert list(await take(store)) == [last]
    await assert_places_are_right(database_url)


async def test_a_full_key_keeps_no_place_of_the_account(store: RunStore, person: Person, database_url: str) -> None:
    await tier(database_url, person, places=2)
    await queue_many(person, 5, concurrency_key="crm")
    (plain,) = await queue_many(person, 1)

    assert plain in await take(store)
    await assert_places_are_right(database_url)


async def test_a_better_run_is_not_let_in_past_its_full_key(store: RunStore, person: Person, database_url: str) -> None:
    await tier(database_url, person, places=2)
    (working,) = await queue_many(person, 1, concurrency_key="crm")
    claimed = await take(store)
    (plain,) = await queue_many(person, 1)

    (urgent,) = await queue_many(person, 1, priority=9, concurrency_key="crm")

    assert await held(database_url, plain, urgent) == [False, True]
    await claimed[working].end()
    assert set(await take(store)) == {plain, urgent}
    await assert_places_are_right(database_url)


@pytest.mark.parametrize("by", ["tier", "places"])
async def test_more_places_are_filled_by_the_next_claim(
    store: RunStore, person: Person, database_url: str, notifications: Callable[[], Awaitable[int]], by: str
) -> None:
    await tier(database_url, person, places=1)
    run_ids = await queue_many(person, 4)
    await take(store)
    await notifications()

    if by == "tier":
        await run(database_url, "select public.set_tier(%s, 'pro')", person.id)
    else:
        await run(
            database_url,
            "update private.tiers t set concurrent_runs = 4 from public.accounts a where a.tier = t.name and a.id = %s",
            person.id,
        )

    assert await notifications() >= 1
    assert set(await take(store)) == set(run_ids[1:])
    await assert_places_are_right(database_url)


async def test_fewer_places_are_given_to_nobody_before_enough_came_back(
    store: RunStore, person: Person, database_url: str
) -> None:
    await tier(database_url, person, places=3)
    run_ids = await queue_many(person, 5)
    claimed = await take(store)
    await run(database_url, "update private.tiers set concurrent_runs = 1")

    await claimed[run_ids[0]].end()
    await claimed[run_ids[1]].end()
    assert await take(store) == {}
    await claimed[run_ids[2]].end()

    assert list(await take(store)) == [run_ids[3]]
    await assert_places_are_right(database_url)


async def test_the_limit_of_an_agent_holds_for_runs_that_wait_when_it_is_set_or_lifted(
    store: RunStore, person: Person, database_url: str
) -> None:
    await tier(database_url, person, places=1)
    agent_id = await new_agent(database_url, person.id, places=None)
    (working,) = await queue_many(person, 1)
    claimed = await take(store)
    await queue_many(person, 2, agent_id=agent_id)
    await run(database_url, "update public.agents set max_concurrent_runs = 1")
    await run(database_url, "update private.tiers set concurrent_runs = 9")

    claimed |= await take(store)
    assert len(claimed) == 2, "one of the two of the agent"
    await run(database_url, "update public.agents set max_concurrent_runs = null")

    assert len(await take(store)) == 1
    await claimed[working].end()
    await assert_places_are_right(database_url)


async def test_an_agent_that_moves_to_another_account_keeps_its_limit_and_stops_nobodys_claims(
    store: RunStore, person: Person, database_url: str
) -> None:
    other = await new_person(database_url)
    agent_id = await new_agent(database_url, person.id, places=1)
    sleeper, behind, last = await queue_many(person, 3, agent_id=agent_id)
    await (await take(store))[sleeper].sleep(30)
    working = await take(store)
    assert list(working) == [behind]

    await run(database_url, "update public.agents set account_id = %s where id = %s", other.id, agent_id)
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=31)
    stranger = await (await new_person(database_url)).queue()
    claimed = await take(store, lease_seconds=600)

    # What took its place before the move does not count in the new account.
    assert stranger in claimed
    assert len(claimed.keys() & {sleeper, last}) == 1
    assert await fetch(database_url, "select places, taken from private.slots where account_id = %s", other.id) == [
        (1, 1)
    ]
    await assert_places_are_right(database_url)


async def test_runs_that_are_held_for_a_deleted_agent_go_on(store: RunStore, person: Person, database_url: str) -> None:
    agent_id = await new_agent(database_url, person.id, places=1)
    _, second = await queue_many(person, 2, agent_id=agent_id)
    await take(store)

    await run(database_url, "delete from public.agents where id = %s", agent_id)

    assert list(await take(store)) == [second]
    await assert_places_are_right(database_url)


@pytest.mark.parametrize("kind", ["account", "agent", "key"])
async def test_a_slot_that_was_deleted_is_made_again_when_a_timer_is_due(
    store: RunStore, person: Person, database_url: str, kind: str
) -> None:
    agent_id = await new_agent(database_url, person.id, places=2)
    (sleeper,) = await queue_many(person, 1, agent_id=agent_id, concurrency_key="crm")
    await (await take(store))[sleeper].sleep(30)
    await run(database_url, "delete from private.slots where kind = %s", kind)
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=31)

    assert list(await take(store)) == [sleeper]
    await assert_places_are_right(database_url)


async def test_a_slot_that_was_deleted_is_made_again_for_a_held_run(
    store: RunStore, person: Person, database_url: str
) -> None:
    await tier(database_url, person, places=1)
    first, second = await queue_many(person, 2, concurrency_key="crm", concurrency_limit=2)
    claimed = await take(store)
    await run(database_url, "delete from private.slots where kind = 'key'")

    await claimed[first].end()

    assert list(await take(store)) == [second]
    await assert_places_are_right(database_url)


async def test_a_run_that_cannot_come_up_stops_nobodys_claims(
    store: RunStore, person: Person, database_url: str
) -> None:
    await tier(database_url, person, places=3)
    (broken,) = await queue_many(person, 1)
    await (await take(store))[broken].sleep(30)
    # An account whose next turn is beyond the last number there is.
    await run(database_url, "update private.slots set fair_tag = 9223372036854775807 where kind = 'account'")
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=31)
    stranger = await (await new_person(database_url)).queue()

    assert list(await take(store)) == [stranger]
    await run(database_url, "update private.slots set fair_tag = 0")
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=61)
    assert broken in await take(store)


async def test_only_operators_move_an_account_to_another_tier(person: Person) -> None:
    assert await refused(person.call("set_tier", person.id, "scale")) == "42501"
    assert await refused(person.query("select public.set_tier(%s, 'none')", person.id, role="service_role")) == "RUN07"
    assert (
        await refused(person.query("select public.set_tier(gen_random_uuid(), 'pro')", role="service_role")) == "RUN01"
    )
