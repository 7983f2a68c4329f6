"""Workers whose own clocks are wrong: what is decided stands on the database's time.

A worker's event loop here counts several seconds for each that passes, or the fraction of one. Leases, deadlines and
timers are the database's; a wrong clock costs its worker calls, and may cost it its lease, but no run its time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from shared.direct_database import DirectDatabase
from shared.runs.engine import Done, Outcome, StepContext, Waiting
from shared.runs.models import Step
from shared.runs.store import RunStore
from shared.runs.worker import Worker, WorkerOptions
from tests.runs.engines import ListEngine, steps
from tests.support.clock import shift_clock
from tests.support.runs import Person, assert_books_balance, connect, run_row, until, until_status

FAST, SLOW = 500.0, 0.2


class WrongLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock goes at another pace."""

    def __init__(self, pace: float) -> None:
        self._pace = pace
        super().__init__()

    def time(self) -> float:
        return time.monotonic() * self._pace


def by_wrong_clock(pace: float, work: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
    """Do work in a thread whose loop has the wrong clock."""

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: WrongLoop(pace)) as runner:
            runner.run(work)

    return asyncio.ensure_future(asyncio.to_thread(run))


async def work_off(url: str, engine: ListEngine, options: WorkerOptions) -> None:
    async with DirectDatabase(url) as database:
        await Worker(RunStore(database), {"list": engine}, options=options).run(until_idle=True)


async def test_a_fast_clock_ends_no_run_before_its_deadline(person: Person, database_url: str) -> None:
    """Ten minutes of deadline are over by that clock in a second or two; the step takes longer."""

    async def slow(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        await asyncio.to_thread(time.sleep, 1.5)
        return Done({"key": step.key})

    run_id = await person.queue(timeout_seconds=600)
    engine = ListEngine(steps(1, timeout_seconds=86_400.0), slow)

    await by_wrong_clock(FAST, work_off(database_url, engine, WorkerOptions(heartbeat_seconds=200.0)))

    row = await run_row(database_url, run_id)
    assert (row["status"], row["error"]) == ("completed", None)
    await assert_books_balance(database_url, person.id)


async def test_a_fast_clock_ends_no_timer_before_its_time(person: Person, database_url: str) -> None:
    async def naps(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        return Waiting(300.0)

    run_id = await person.queue()
    engine = ListEngine(steps(1), naps)

    async def asleep() -> bool:
        await by_wrong_clock(FAST, work_off(database_url, engine, WorkerOptions()))
        async with connect(database_url) as connection:
            # A claim whose answer came too late by that clock is lost until its lease has run out.
            await shift_clock(connection, seconds=16)
        return (await run_row(database_url, run_id))["status"] == "queued"

    await until(asleep)

    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=301)
    await by_wrong_clock(FAST, work_off(database_url, engine, WorkerOptions()))

    assert (await run_row(database_url, run_id))["status"] == "completed"


@pytest.mark.parametrize("pace", [SLOW, 0.02])
async def test_a_slow_clock_loses_the_lease_and_nothing_else(person: Person, database_url: str, pace: float) -> None:
    """Its heartbeats come too late: another worker goes on, and what the slow one brings later loses."""
    thawed = asyncio.Event()
    here = asyncio.get_running_loop()

    async def until_thawed(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(thawed.wait(), here))
        return Done({"key": step.key, "by": "slow"}, credits=10)

    run_id = await person.queue()
    slow = ListEngine(steps(1, credits_bound=50), until_thawed)
    options = WorkerOptions(heartbeat_seconds=30.0)
    working = by_wrong_clock(pace, work_off(database_url, slow, options))

    async def performs() -> bool:
        return bool(slow.performed)

    await until(performs)
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=16)
    quick = ListEngine(steps(1, credits_bound=50))
    await work_off(database_url, quick, WorkerOptions())
    await until_status(database_url, run_id, "completed")
    thawed.set()
    await working

    assert [attempt for _, attempt, _ in slow.performed + quick.performed] == [1, 2]
    assert (await run_row(database_url, run_id))["credits_spent"] == 0
    await assert_books_balance(database_url, person.id)


async def test_a_fast_clock_ends_no_timer_beside_a_step_that_is_being_performed(
    person: Person, database_url: str
) -> None:
    """By the worker's clock five minutes have passed; by the database's one second."""

    async def nap_beside_work(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        if step.key == "s1":
            return Waiting(300.0)
        await asyncio.to_thread(time.sleep, 1.0)
        return Done()

    run_id = await person.queue()
    engine = ListEngine(steps(2, timeout_seconds=86_400.0), nap_beside_work, width=2)
    await by_wrong_clock(FAST, work_off(database_url, engine, WorkerOptions(heartbeat_seconds=200.0)))

    assert (await run_row(database_url, run_id))["status"] == "queued"
