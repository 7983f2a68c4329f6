"""Who comes first: a callback or its wait, one delivery or another, an event or an end. Made, not hoped for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from shared.direct_database import DirectDatabase
from shared.runs.engine import Done, Outcome, StepContext
from shared.runs.models import RunView, Step
from shared.runs.status import RunStatus, StepStatus
from shared.runs.store import RunStore
from shared.runs.transitions import Advance, FinishStep, StartStep
from tests.runs.engines import ListEngine, steps
from tests.runs.people import refused
from tests.runs.working import work_off
from tests.support.clock import shift_clock
from tests.support.runs import (
    Person,
    assert_books_balance,
    claim,
    connect,
    log_lines,
    run_row,
    step_rows,
    until,
    until_lock_wait,
)
from tests.support.wires import LosingDatabase
from tests.webhooks.waits import KEYS, PAYLOAD, address_of, await_event, deliver, waiting

LATE = "deliverer"


@pytest.fixture
def deliverer(person: Person, database_url: str) -> Person:
    """The same person over connections that a test can tell apart."""
    return Person(f"{database_url}&application_name={LATE}", person.id)


async def performing(store: RunStore, person: Person) -> tuple[UUID, RunView, int]:
    """A run whose worker performs step 1 and has recorded no more; and the run's revision."""
    run_id = await person.queue()
    view = next(view for view in (await claim(store)).views if view.run.id == run_id)
    assert view.run.lease_id is not None
    start = StartStep(1, uuid4(), steps(1)[0])
    first = Advance(run_id, view.run.lease_id, view.run.revision, start=(start,), status=RunStatus.EXECUTING)
    return run_id, view, (await store.advance([first], lease_seconds=15))[run_id].revision


def rests(run_id: UUID, view: RunView, revision: int) -> Advance:
    """The worker's record of the wait, with which it lets the run go."""
    assert view.run.lease_id is not None
    event = waiting(run_id).on
    wait = FinishStep(1, 1, StepStatus.RUNNING, waits_for="event", available_in=120.0, event=event)  # type: ignore[arg-type]
    return Advance(
        view.run.id, view.run.lease_id, revision, finish=(wait,), status=RunStatus.QUEUED, available_in=120.0
    )


async def outcome(call: Awaitable[Any]) -> str:
    try:
        await call
    except psycopg.Error as error:
        return str(error.sqlstate)
    return "taken"


async def test_an_event_before_its_wait_is_kept_and_ends_it(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    answers: list[dict[str, Any]] = []

    async def answered_at_once(step: Step, ctx: StepContext) -> Outcome:
        answers.append(await deliver(person, ctx.run.id, step.step_no))
        return waiting(ctx.run.id, step.step_no)

    run_id = await person.queue()
    await work_off(database, ListEngine(steps(2), answered_at_once))

    assert [answer["kept"] for answer in answers] == [True, True]
    assert (await run_row(database_url, run_id))["status"] == "completed"
    assert [step["output"] for step in await step_rows(database_url, run_id)] == [PAYLOAD, PAYLOAD]
    assert await deliver(person, run_id, 2) == answers[1]
    assert await refused(deliver(person, run_id, 2, event_id="another")) == "RUN21"
    seqs = [seq for seq, _, _ in await log_lines(database_url, run_id)]
    assert seqs == list(range(1, len(seqs) + 1))
    await assert_books_balance(database_url, person.id)


async def test_an_early_event_reaches_a_run_that_goes_on_with_other_steps(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    async def two(step: Step, ctx: StepContext) -> Outcome:
        if step.key == "s1":
            await deliver(person, ctx.run.id, 1)
            return waiting(ctx.run.id, 1)
        await until(lambda: ctx.results((1,)))
        return Done()

    run_id = await person.queue()
    await work_off(database, ListEngine(steps(2), two, width=2))

    assert (await run_row(database_url, run_id))["status"] == "completed"


async def test_an_early_event_that_proves_to_be_forged_is_never_taken(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    async def flooded(step: Step, ctx: StepContext) -> Outcome:
        for number in range(4):
            await deliver(person, ctx.run.id, token=f"forged-{number}", payload={"forged": True})
        assert await refused(deliver(person, ctx.run.id, token="one too many")) == "RUN09"
        assert await refused(deliver(person, ctx.run.id)) == "RUN09"  # the right one has to come again
        return waiting(ctx.run.id, step.step_no)

    run_id = await person.queue()
    engine = ListEngine(steps(1), flooded)
    await work_off(database, engine)
    assert (await step_rows(database_url, run_id))[0]["waits_for"] == "event"
    assert await refused(deliver(person, run_id, token="forged-1")) == "RUN01"

    await deliver(person, run_id)
    await work_off(database, engine)
    assert (await step_rows(database_url, run_id))[0]["output"] == PAYLOAD


async def test_an_early_event_of_a_step_that_waits_for_nothing_changes_nothing(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    async def has_it_already(step: Step, ctx: StepContext) -> Outcome:
        await deliver(person, ctx.run.id, step.step_no)
        return Done({"own": True})

    run_id = await person.queue()
    await work_off(database, ListEngine(steps(1), has_it_already))

    assert (await step_rows(database_url, run_id))[0]["output"] == {"own": True}
    assert await refused(deliver(person, run_id)) == "RUN01"


async def test_a_worker_lost_between_callback_and_wait_loses_no_event(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id, _, _ = await performing(RunStore(database), person)
    assert (await deliver(person, run_id))["kept"] is True
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=16)
    engine = ListEngine(steps(1), await_event)
    await work_off(database, engine)

    assert [(key, attempt) for key, attempt, _ in engine.performed] == [("s1", 2)]
    assert (await run_row(database_url, run_id))["status"] == "completed"
    assert (await step_rows(database_url, run_id))[0]["output"] == PAYLOAD


@pytest.mark.parametrize("lost", [2, 3])
async def test_a_lost_reply_to_the_record_of_a_wait_changes_nothing(
    database: DirectDatabase, person: Person, database_url: str, lost: int
) -> None:
    run_id = await person.queue()
    engine = ListEngine(steps(1), await_event)
    await work_off(LosingDatabase(database, ("advance_runs", lost)), engine)
    await deliver(person, run_id)
    await work_off(database, engine)

    assert (await run_row(database_url, run_id))["status"] == "completed"
    assert len(engine.performed) == 1


async def test_a_delivery_beside_the_record_of_its_wait_is_not_lost(
    database: DirectDatabase, person: Person, deliverer: Person, database_url: str
) -> None:
    """Both want the run's row; whoever has it first, the step has its event."""
    store = RunStore(database)
    for waits_first in (True, False):
        run_id, view, revision = await performing(store, person)
        async with connect(database_url) as rival:
            async with rival.transaction():
                await rival.execute("select 1 from public.agent_runs where id = %s for update", [run_id])
                calls = [store.advance([rests(run_id, view, revision)], lease_seconds=15), deliver(deliverer, run_id)]
                names = ["runbase", LATE]
                if not waits_first:
                    calls, names = calls[::-1], names[::-1]
                tasks: list[asyncio.Task[Any]] = []
                for call, name in zip(calls, names, strict=True):
                    tasks.append(asyncio.create_task(call))
                    await until_lock_wait(database_url, name)
            await asyncio.gather(*tasks)
        await work_off(database, ListEngine(steps(1), await_event))

        assert (await step_rows(database_url, run_id))[0]["output"] == PAYLOAD
        assert (await run_row(database_url, run_id))["status"] == "completed"


async def test_of_two_events_at_once_one_is_taken(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await person.queue()
    await work_off(database, ListEngine(steps(1), await_event))

    many = [outcome(deliver(person, run_id, event_id=f"e{n}", payload={"n": n})) for n in range(8)]
    assert sorted(await asyncio.gather(*many)) == ["RUN21"] * 7 + ["taken"]


async def test_the_same_event_many_times_at_once_counts_once(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    await work_off(database, ListEngine(steps(1), await_event))

    answers = await asyncio.gather(*(deliver(person, run_id, delivery_id=f"d{n}") for n in range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert [line[2] for line in await log_lines(database_url, run_id)].count("The awaited event came") == 1


@pytest.mark.parametrize("stop_first", [True, False])
async def test_a_delivery_beside_a_stop_is_taken_or_refused_and_the_run_is_cancelled(
    database: DirectDatabase, person: Person, deliverer: Person, database_url: str, *, stop_first: bool
) -> None:
    run_id = await person.queue()
    await work_off(database, ListEngine(steps(1), await_event))
    stopper = Person(f"{database_url}&application_name=stopper", person.id)

    async with connect(database_url) as rival:
        async with rival.transaction():
            await rival.execute("select 1 from public.agent_runs where id = %s for update", [run_id])
            pairs: list[tuple[str, Awaitable[Any]]] = [
                ("stopper", outcome(stopper.call("control_run", run_id, "stop"))),
                (LATE, outcome(deliver(deliverer, run_id))),
            ]
            tasks: list[asyncio.Task[str]] = []
            for name, call in pairs if stop_first else pairs[::-1]:
                tasks.append(asyncio.create_task(call))  # type: ignore[arg-type]
                await until_lock_wait(database_url, name)
        outcomes = await asyncio.gather(*tasks)

    assert list(outcomes) == (["taken", "RUN04"] if stop_first else ["taken", "taken"])
    assert (await run_row(database_url, run_id))["status"] == "cancelled"
    expected = "cancelled" if stop_first else "completed"
    assert (await step_rows(database_url, run_id))[0]["status"] == expected


async def test_a_claim_at_the_end_of_the_wait_passes_over_a_run_that_is_being_told(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    """The wait is over and the event comes: the claim does not wait for the delivery, and the event wins."""
    run_id = await person.queue()
    engine = ListEngine(steps(1, timeout_seconds=60), await_event)
    await work_off(database, engine)
    token = KEYS.token(address_of(run_id))
    async with connect(database_url) as connection, connect(database_url) as rival:
        await shift_clock(connection, seconds=61)
        async with rival.transaction():
            await rival.execute("select public.deliver_event(%s, 1, %s, 'e', '{\"ok\": 1}')", [run_id, token])
            assert (await claim(RunStore(database))).views == ()
    await work_off(database, engine)

    assert (await step_rows(database_url, run_id))[0]["output"] == {"ok": 1}
    assert (await run_row(database_url, run_id))["status"] == "completed"


async def test_an_event_that_overtakes_its_own_timeout_wins(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    """A worker has claimed the overdue run; the event commits before the failure that it is about to record."""
    store = RunStore(database)
    run_id = await person.queue()
    await work_off(database, ListEngine(steps(1, timeout_seconds=60), await_event))
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=61)
    view = (await claim(store)).views[0]
    assert view.run.lease_id is not None
    answer = await deliver(person, run_id)
    late = FinishStep(1, 1, StepStatus.FAILED, failed=True)
    lost = (
        await store.advance(
            [Advance(view.run.id, view.run.lease_id, view.run.revision, finish=(late,))], lease_seconds=15
        )
    )[view.run.id]

    assert answer["status"] in ("planning", "executing")
    assert not lost.won
    assert lost.lease_id == view.run.lease_id
    assert (await step_rows(database_url, run_id))[0]["output"] == PAYLOAD


async def test_a_delivery_beside_the_sweep_of_a_deadline_ends_one_way(
    database: DirectDatabase, person: Person, deliverer: Person, database_url: str
) -> None:
    run_id = await person.queue(timeout_seconds=30)
    await work_off(database, ListEngine(steps(1, timeout_seconds=600), await_event))
    async with connect(database_url) as connection, connect(database_url) as sweeper:
        await shift_clock(connection, seconds=31)
        async with sweeper.transaction():
            await sweeper.execute("select private.sweep_runs(10, private.clock())")
            delivery = asyncio.create_task(outcome(deliver(deliverer, run_id)))
            await until_lock_wait(database_url, LATE)
        assert await delivery == "RUN04"

    assert (await run_row(database_url, run_id))["status"] == "timeout"
    assert (await step_rows(database_url, run_id))[0]["status"] == "cancelled"
