"""The order of claims: accounts in turn by their shares, priority among an account's own runs, nobody starved."""

from __future__ import annotations

from collections import Counter

from shared.runs.models import RunId
from shared.runs.store import RunStore
from tests.runs.queueing import assert_places_are_right, fetch, order, queue_many, run, take, tier
from tests.runs.test_fair_places import new_agent
from tests.support.clock import shift_clock
from tests.support.runs import Person, connect, join, new_person


async def test_a_tenants_thousand_runs_do_not_delay_anothers_first(
    store: RunStore, person: Person, database_url: str
) -> None:
    await tier(database_url, person, places=25)
    many = await queue_many(person, 1000)
    newcomer = await new_person(database_url)
    before = await order(store, 5)

    first = await newcomer.queue()

    assert set(before) <= set(many)
    assert first in await order(store, 2)


async def test_a_newcomer_goes_ahead_of_all_that_a_tenant_has_left(
    store: RunStore, person: Person, database_url: str
) -> None:
    """Places do not save the others: here the tenant has one for each of its runs."""
    await tier(database_url, person, places=10_000)
    await queue_many(person, 300)
    await order(store, 3)

    first = await (await new_person(database_url)).queue()

    assert first in await order(store, 2)


async def test_accounts_take_turns(store: RunStore, person: Person, database_url: str) -> None:
    people = [person, await new_person(database_url), await new_person(database_url)]
    of = {run_id: one for one in people for run_id in await queue_many(one, 4)}

    claimed = [of[run_id] for run_id in await order(store, 12)]

    for turn in range(4):
        assert {one.id for one in claimed[3 * turn : 3 * turn + 3]} == {one.id for one in people}


async def test_claims_are_shared_out_by_tier(store: RunStore, person: Person, database_url: str) -> None:
    generous = await new_person(database_url)
    await tier(database_url, generous, places=100, share=4)
    of = {run_id: one for one in (person, generous) for run_id in await queue_many(one, 20)}

    claimed = Counter(of[run_id].id for run_id in await order(store, 15))

    assert claimed[generous.id] == 4 * claimed[person.id]


async def test_an_account_that_was_idle_has_saved_nothing_up(
    store: RunStore, person: Person, database_url: str
) -> None:
    await queue_many(person, 20)
    late = await new_person(database_url)
    await order(store, 15)
    of_late = set(await queue_many(late, 5))

    claimed = await order(store, 8)

    assert sum(run_id in of_late for run_id in claimed[:6]) in {3, 4}


async def test_runs_that_were_stopped_in_the_queue_cost_their_account_no_turn(
    store: RunStore, person: Person, database_url: str
) -> None:
    busy = await new_person(database_url)
    await tier(database_url, busy, places=100)
    await queue_many(busy, 30)
    for _ in range(20):
        await person.call("control_run", await person.queue(), "stop")
    for _ in range(20):
        run_id = await person.queue()
        await person.call("control_run", run_id, "pause")

    mine = await person.queue()

    assert mine in await order(store, 2)


async def test_higher_priority_goes_first_within_an_account(store: RunStore, person: Person) -> None:
    low = await person.queue(priority=-5)
    middle = [await person.queue(), await person.queue()]
    high = await person.queue(priority=5)

    assert await order(store, 4) == [high, *middle, low]


async def test_priority_moves_nobody_elses_runs(store: RunStore, person: Person, database_url: str) -> None:
    urgent = await new_person(database_url)
    of: dict[RunId, Person] = {}
    for _ in range(6):
        of[await person.queue()] = person
        of[await urgent.queue(priority=100)] = urgent

    claimed = [of[run_id] for run_id in await order(store, 12)]

    for turn in range(6):
        assert {one.id for one in claimed[2 * turn : 2 * turn + 2]} == {person.id, urgent.id}


async def test_priority_is_no_worse_than_none_for_the_account_that_uses_it(
    store: RunStore, person: Person, database_url: str
) -> None:
    """An urgent run behind a full account takes the place that comes free, at the turn its sibling would have had."""
    await tier(database_url, person, places=1)
    working = await queue_many(person, 5)
    held = await take(store)
    urgent = await person.queue(priority=10)
    rival = await new_person(database_url)
    await queue_many(rival, 10)

    await held[working[0]].end()

    assert urgent in await order(store, 3)


async def test_a_batch_takes_the_best_of_each_account(store: RunStore, person: Person, database_url: str) -> None:
    other = await new_person(database_url)
    low = await queue_many(person, 5)
    plain = await queue_many(other, 5)
    urgent = await queue_many(person, 2, priority=7)

    claimed = set(await take(store, limit=4))

    assert set(urgent) <= claimed
    assert len(claimed & set(plain)) == 2
    assert not claimed & set(low)


async def test_a_run_that_is_given_back_keeps_its_turn_and_its_place(
    store: RunStore, person: Person, database_url: str
) -> None:
    await tier(database_url, person, places=1)
    first, second = await queue_many(person, 2)
    held = await take(store)

    await held[first].give_back()

    assert await order(store, 2) == [first]
    assert await fetch(database_url, "select held_for > 0 from public.agent_runs where id = %s", second) == [(True,)]
    await assert_places_are_right(database_url)


async def test_a_timer_comes_up_behind_its_account_and_may_be_held(
    store: RunStore, person: Person, database_url: str
) -> None:
    await tier(database_url, person, places=1)
    (sleeper,) = await queue_many(person, 1)
    await (await take(store))[sleeper].sleep(60)
    (worker,) = await queue_many(person, 1)
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=61)

    held = await take(store)
    assert list(held) == [worker], "the place was taken when the timer came up"
    assert await fetch(database_url, "select held_for > 0 from public.agent_runs where id = %s", sleeper) == [(True,)]
    await held[worker].end()

    assert list(await take(store)) == [sleeper]
    await assert_places_are_right(database_url)


async def test_a_timer_takes_its_turn_like_a_new_run(store: RunStore, person: Person, database_url: str) -> None:
    other = await new_person(database_url)
    (sleeper,) = await queue_many(person, 1)
    await (await take(store))[sleeper].sleep(60)
    await queue_many(other, 5)
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=61)

    assert sleeper in await order(store, 3)


async def test_each_engine_has_its_head_and_a_worker_sees_only_its_own(
    store: RunStore, person: Person, database_url: str
) -> None:
    others = await queue_many(person, 5, engine="agent")
    (mine,) = await queue_many(person, 1)

    assert await order(store, 2) == [mine]
    both = await store.claim(owner="w", limit=10, lease_seconds=15, engines=("list", "agent"))
    assert {view.run.id for view in both.views} == set(others)


async def test_the_clock_of_turns_never_goes_back(store: RunStore, person: Person, database_url: str) -> None:
    await queue_many(person, 10)
    seen = []
    for _ in range(5):
        await order(store, 2)
        seen += await fetch(database_url, "select last_value from private.fair_time")

    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


async def _agent_they_share(url: str, *people: Person) -> str:
    """The id of an agent with one place that these people's accounts share."""
    seller = await new_person(url)
    for one in people:
        await tier(url, one, places=25)
        await join(url, one, seller.id, "member")
    return await new_agent(url, seller.id, places=1)


async def _ended_one_by_one(store: RunStore, count: int) -> list[RunId]:
    seen: list[RunId] = []
    for _ in range(count):
        ((run_id, worker),) = (await take(store)).items()
        seen.append(run_id)
        await worker.end()
    return seen


async def test_accounts_that_share_an_agent_take_turns_for_its_places(
    store: RunStore, person: Person, database_url: str
) -> None:
    others = [await new_person(database_url) for _ in range(3)]
    agent_id = await _agent_they_share(database_url, person, *others)
    of = dict.fromkeys(await queue_many(person, 20, agent_id=agent_id), person)
    for one in others:
        of |= dict.fromkeys(await queue_many(one, 2, agent_id=agent_id), one)

    claimed = [of[run_id] for run_id in await _ended_one_by_one(store, 10)]

    assert {one.id for one in claimed[:4]} == {one.id for one in claimed[4:8]} == {one.id for one in of.values()}
    assert [one.id for one in claimed[8:]] == [person.id] * 2
    await assert_places_are_right(database_url)


async def test_priority_moves_nobody_elses_runs_at_an_agent_that_is_shared(
    store: RunStore, person: Person, database_url: str
) -> None:
    other = await new_person(database_url)
    agent_id = await _agent_they_share(database_url, person, other)
    (working,) = await queue_many(person, 1, agent_id=agent_id)
    (theirs,) = await queue_many(other, 1, agent_id=agent_id)
    (plain,) = await queue_many(person, 1, agent_id=agent_id)
    urgent = await queue_many(person, 2, agent_id=agent_id, priority=100)

    assert await _ended_one_by_one(store, 5) == [working, theirs, *urgent, plain]


async def test_an_account_that_is_full_keeps_nobody_from_an_agent(
    store: RunStore, person: Person, database_url: str
) -> None:
    other = await new_person(database_url)
    agent_id = await _agent_they_share(database_url, person, other)
    queued = await queue_many(person, 150, agent_id=agent_id)
    (theirs,) = await queue_many(other, 1, agent_id=agent_id)
    await run(
        database_url,
        "update private.tiers t set concurrent_runs = 1 from public.accounts a where t.name = a.tier and a.id = %s",
        person.id,
    )
    working = await take(store)
    (plain,) = await queue_many(person, 1)

    await working[queued[0]].end()

    assert set(await take(store)) == {plain, theirs}
    await assert_places_are_right(database_url)
