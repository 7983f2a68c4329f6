"""What a worker asks of the database: how often, when woken, and how many runs a call."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.database import Database
from shared.direct_database import DirectDatabase
from shared.runs import advancer
from shared.runs.engine import Done, Outcome, StepContext
from shared.runs.models import Json, Step
from shared.runs.store import RunStore
from shared.runs.transitions import Advance
from shared.runs.worker import Worker, WorkerOptions
from tests.runs.engines import ListEngine, steps
from tests.runs.working import (
    called,
    has_failed,
    listens,
    work_off,
    working,
)
from tests.support.runs import (
    Person,
    claim,
    until,
    until_status,
)
from tests.support.wires import CountingDatabase, GatedDatabase, LosingDatabase, ShownDatabase


async def test_one_call_a_step_one_a_run_one_claim_a_batch(database: DirectDatabase, person: Person) -> None:
    """The budget of DESIGN section 2: runs one after another in a batch of their own commits."""
    for _ in range(3):
        await person.queue()
    counting = CountingDatabase(database)
    options = WorkerOptions(concurrency=3, poll_seconds=60)

    worker = Worker(RunStore(counting), {"list": ListEngine(steps(5))}, options=options)
    await worker.run(until_idle=True)

    assert worker.left == {"completed": 3}
    # Three runs of five steps, each its own call at most; those that finish together share one.
    assert counting.calls["advance_runs"] <= 3 * 5 + 3
    # The batch, and the look that finds nothing more.
    assert counting.calls["claim_runs"] == 2
    assert set(counting.calls) <= {"advance_runs", "claim_runs", "flush_logs"}


async def test_a_lone_run_takes_exactly_one_call_a_step_and_one_for_its_first(
    database: DirectDatabase, person: Person
) -> None:
    await person.queue()
    counting = CountingDatabase(database)

    await work_off(counting, ListEngine(steps(7)))

    assert counting.calls["advance_runs"] == 7 + 1


async def test_what_finishes_while_a_call_is_in_flight_shares_the_next(
    database: DirectDatabase, person: Person
) -> None:
    for _ in range(10):
        await person.queue()
    gated = GatedDatabase(database, "advance_runs")
    counting = CountingDatabase(gated)

    task = asyncio.create_task(work_off(counting, ListEngine(steps(1))))
    await gated.entered.wait()
    gated.gate.set()
    await task

    # The first call takes what was there; nine first steps share the second, and the ends share the rest.
    assert counting.calls["advance_runs"] <= 6


async def test_of_many_runs_half_are_in_a_call_while_the_other_half_gets_the_next_ready(
    database: DirectDatabase, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advancer, "LATE_SECONDS", 60.0)
    monkeypatch.setattr(advancer, "SOON_SECONDS", 60.0)
    for _ in range(50):
        await person.queue()
    shown = ShownDatabase(database)
    worker = Worker(RunStore(shown), {"list": ListEngine(steps(4))}, options=WorkerOptions(concurrency=50))

    await worker.run(until_idle=True)

    assert worker.left == {"completed": 50}
    assert shown.most_at_once == 1, shown.sizes
    # Two calls a step and two at the beginning; where one half is late, a few more.
    assert Counter(shown.sizes).most_common(1)[0][0] == 25, shown.sizes
    assert len(shown.sizes) <= 14, shown.sizes


async def test_with_a_database_far_away_both_halves_of_the_runs_are_on_their_way_at_once(
    database: DirectDatabase, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they wait for is the distance, so neither takes anything from the other."""
    await person.query("select public.set_tier(%s, 'scale')", person.id, role="service_role")
    monkeypatch.setattr(advancer, "LATE_SECONDS", 60.0)
    monkeypatch.setattr(advancer, "RECENT", 1)  # the first call shows the distance
    for _ in range(50):
        await person.queue()
    shown = ShownDatabase(FarDatabase(database))
    worker = Worker(RunStore(shown), {"list": ListEngine(steps(4))}, options=WorkerOptions(concurrency=50))

    await worker.run(until_idle=True)

    assert worker.left == {"completed": 50}
    assert shown.most_at_once == 2


class FarDatabase:
    """Takes a while for every call."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        await asyncio.sleep(0.3)
        return await self._database.call(function, arguments)

    async def close(self) -> None:
        await self._database.close()


async def test_a_call_that_is_not_answered_soon_lets_others_pass(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    """It waits for a lock, say: those who come later neither wait for it nor go with it."""
    held = [await person.queue() for _ in range(3)]
    shown = ShownDatabase(database, held=1)

    async with working(shown, ListEngine(steps(2))):
        await until(lambda: _is_calling(shown))
        others = [await person.queue() for _ in range(3)]
        for run_id in others:
            await until_status(database_url, run_id, "completed")
        shown.gate.set()
        for run_id in held:
            await until_status(database_url, run_id, "completed")

    assert shown.most_at_once == 2


async def test_what_ends_with_a_call_in_flight_leaves_nothing_to_go_wrong_later(
    database: DirectDatabase, store: RunStore, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the call nor what would have gone beside it once that was late."""
    monkeypatch.setattr(advancer, "LATE_SECONDS", 1.0)
    troubles: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
    for _ in range(2):
        await person.queue()
    views = (await claim(store)).views
    shown = ShownDatabase(database, held=1)
    commits = advancer.Advancer(RunStore(shown), lease_seconds=15, runs=lambda: 3)
    serving = asyncio.create_task(commits.serve())
    items = [Advance(view.run.id, view.run.lease_id or uuid4(), view.run.revision) for view in views]
    answers = [commits.submit(items[0])]
    await until(lambda: _is_calling(shown))
    answers.append(commits.submit(items[1]))

    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    looking = commits._looking
    assert isinstance(looking, asyncio.TimerHandle)
    after = asyncio.Event()
    asyncio.get_running_loop().call_at(looking.when(), after.set)
    await after.wait()

    assert troubles == []
    assert [answer.done() for answer in answers] == [False, False]
    assert shown.sizes == [1]


async def _is_calling(shown: ShownDatabase) -> bool:
    return shown.sizes != []


async def test_runs_are_performed_side_by_side(database: DirectDatabase, person: Person) -> None:
    for _ in range(4):
        await person.queue()
    begun = asyncio.Barrier(4)

    async def meet(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        await begun.wait()
        return Done()

    worker = await work_off(database, ListEngine(steps(1), meet))

    assert worker.left == {"completed": 4}


async def test_starting_a_run_wakes_the_worker(database: DirectDatabase, person: Person, database_url: str) -> None:
    """The poll is a minute away; only the wake can bring the worker in time."""
    options = WorkerOptions(poll_seconds=60)
    async with working(database, ListEngine(steps(1)), options=options, url=database_url):
        await until(lambda: listens(database_url))
        run_id = await person.queue()

        assert (await until_status(database_url, run_id, "completed"))["status"] == "completed"


async def test_an_idle_worker_hardly_asks(database: DirectDatabase, store: RunStore) -> None:
    """0.2 calls a second: one look, then silence until the poll, the next timer or a wake."""
    counting = CountingDatabase(database)
    options = WorkerOptions(poll_seconds=3600)
    async with working(counting, ListEngine(steps(1)), options=options):
        await until(lambda: called(counting, "claim_runs"))
        for _ in range(50):
            await claim(store)  # as many turns of the loop and of the database

    assert counting.calls == {"claim_runs": 1}


async def test_while_the_database_is_away_the_worker_asks_with_pauses(database: DirectDatabase) -> None:
    """A timer that is overdue must not turn the wait into a spin."""
    away = LosingDatabase(database, *(("claim_runs", n) for n in range(2, 10_000)))
    counting = CountingDatabase(away)
    async with working(counting, ListEngine(steps(1)), options=WorkerOptions(poll_seconds=0.05)) as worker:
        await until(lambda: called(counting, "claim_runs"))
        worker._next_due = 0.0
        await until(lambda: has_failed(worker, 3))
        before = counting.calls["claim_runs"]
        for _ in range(50):
            await asyncio.sleep(0)

    assert counting.calls["claim_runs"] - before <= 1


async def test_a_place_that_is_free_again_is_filled_at_once(database: DirectDatabase, person: Person) -> None:
    """The run that ends was claimed while there was still room; since then the worker has filled up."""
    gates: dict[UUID, asyncio.Event] = {}

    async def gated(step: Step, ctx: StepContext) -> Outcome:
        del step
        await gates.setdefault(ctx.run.id, asyncio.Event()).wait()
        return Done()

    options = WorkerOptions(concurrency=2, poll_seconds=3600)
    async with working(database, ListEngine(steps(1), gated), options=options, url=database.url):
        for begun in (1, 2):
            await person.queue()
            await until(lambda begun=begun: reached(gates, begun))
        await person.queue()
        gates[next(iter(gates))].set()

        assert await until(lambda: reached(gates, 3)), "the poll, an hour away, would have been the next to claim"
        for gate in gates.values():
            gate.set()


async def test_a_worker_that_may_not_claim_does_not_wait_for_timers(
    database: DirectDatabase, store: RunStore, person: Person
) -> None:
    """A timer that is overdue must not turn its rest into a spin."""
    worker = Worker(store, {}, options=WorkerOptions(poll_seconds=0.2))
    worker._next_due = 0.0

    rested = asyncio.create_task(worker._rest(claims=False))
    for _ in range(50):
        await asyncio.sleep(0)
        assert not rested.done()
    await rested


async def reached(gates: dict[UUID, asyncio.Event], count: int) -> bool:
    return len(gates) >= count
