"""Lost replies, lost leases, bugs and values that nothing can hold: one run pays, the others go on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from shared.database import Database
from shared.direct_database import DirectDatabase
from shared.errors import DatabaseUnavailable
from shared.runs.engine import Done, Outcome, StepContext
from shared.runs.models import Json, NewArtifact, Records, RunView, Step
from shared.runs.store import RunStore
from shared.runs.worker import Worker, WorkerOptions
from tests.runs.engines import ListEngine, Progress, forever, steps
from tests.runs.working import (
    QUICK,
    attempt_is,
    costs,
    step_stands,
    work_off,
    working,
)
from tests.support.clock import shift_clock
from tests.support.runs import (
    Person,
    assert_books_balance,
    connect,
    run_row,
    step_rows,
    until,
    until_status,
)
from tests.support.wires import GatedDatabase, LosingDatabase


@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_a_lost_reply_to_an_advance_loses_nothing_and_repeats_nothing(
    database: DirectDatabase, person: Person, database_url: str, nth: int
) -> None:
    """Committed, but the worker never heard: it asks again, loses by its own revision, reads and goes on."""
    run_id = await person.queue()
    engine = ListEngine(steps(2, effect="effectful", credits_bound=100), costs(7))

    await work_off(LosingDatabase(database, ("advance_runs", nth)), engine)

    row = await run_row(database_url, run_id)
    assert (row["status"], row["credits_spent"]) == ("completed", 14)
    assert [key for key, _, _ in engine.performed] == ["s1", "s2"]
    await assert_books_balance(database_url, person.id)


@pytest.mark.parametrize("said", [None, {"won": 1, "runs": [{"run_id": "?"}], "unsent": []}])
async def test_a_reply_to_an_advance_that_cannot_be_read_is_as_good_as_lost(
    database: DirectDatabase, person: Person, database_url: str, said: Json
) -> None:
    run_id = await person.queue()
    engine = ListEngine(steps(2, effect="effectful", credits_bound=100), costs(7))

    await work_off(MumblingDatabase(database, said), engine)

    row = await run_row(database_url, run_id)
    assert (row["status"], row["credits_spent"]) == ("completed", 14)
    assert [key for key, _, _ in engine.performed] == ["s1", "s2"]


class MumblingDatabase:
    """Commits its second advance of a run, and answers what nobody understands."""

    def __init__(self, database: Database, said: Json) -> None:
        self._database = database
        self._said = said
        self._advances = 0

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        answer = await self._database.call(function, arguments)
        self._advances += function == "advance_runs"
        return self._said if (function, self._advances) == ("advance_runs", 2) else answer

    async def close(self) -> None:
        await self._database.close()


async def test_a_worker_that_froze_past_its_lease_drops_everything(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    gated = GatedDatabase(database, "advance_runs")
    options = WorkerOptions(heartbeat_seconds=60)
    frozen = Worker(RunStore(gated), {"list": ListEngine(steps(2))}, options=options)
    task = asyncio.create_task(frozen.run(until_idle=True))
    await gated.entered.wait()
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=16)

    await work_off(database, ListEngine(steps(2)))
    gated.gate.set()
    await task

    assert (await run_row(database_url, run_id))["status"] == "completed"
    assert frozen.left == {"lost": 1}


async def test_a_step_found_running_is_repeated_unless_it_is_effectful(
    database: DirectDatabase, store: RunStore, person: Person, database_url: str
) -> None:
    run_ids = {}
    for effect in ("idempotent", "effectful"):
        run_ids[effect] = await person.queue()
        engine = ListEngine(steps(1, effect=effect), forever)
        lost = Worker(store, {"list": engine}, options=WorkerOptions(heartbeat_seconds=60))
        task = asyncio.create_task(lost.run())
        await until(lambda run_id=run_ids[effect]: step_stands(database_url, run_id, 1, "running"))
        # As a power cut: no last words.
        lost.submit = asyncio.Future  # type: ignore[method-assign, assignment]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=16)

    engine = ListEngine(steps(1))
    await work_off(database, engine)

    assert (await run_row(database_url, run_ids["idempotent"]))["status"] == "completed"
    assert (await run_row(database_url, run_ids["effectful"]))["error"]["code"] == "outcome_unknown"
    assert [(key, attempt) for key, attempt, _ in engine.performed] == [("s1", 2)]


async def test_stopping_the_worker_gives_its_runs_back_and_another_goes_on(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    async with working(database, ListEngine(steps(1), forever)):
        await until(lambda: step_stands(database_url, run_id, 1, "running"))
    given_back = await run_row(database_url, run_id)

    await work_off(database, ListEngine(steps(1)))

    assert (given_back["status"], given_back["lease_id"], given_back["attempt"]) == ("queued", None, 0)
    assert (await run_row(database_url, run_id))["status"] == "completed"


@pytest.mark.parametrize("method", ["open", "decide", "apply"])
async def test_an_engines_bug_fails_its_run_and_leaves_the_others_alone(
    database: DirectDatabase, person: Person, database_url: str, method: str
) -> None:
    bad = await person.queue(input={"bad": True})
    good = await person.queue()

    class Buggy(ListEngine):
        def open(self, view: RunView) -> Progress:
            state = super().open(view)
            state.bad = bool(view.run.input.get("bad"))  # type: ignore[attr-defined]
            return self._checked("open", state)

        def decide(self, state: Progress) -> Any:
            return super().decide(self._checked("decide", state))

        def apply(self, state: Progress, result: Any) -> Progress:
            return super().apply(self._checked("apply", state), result)

        def _checked(self, name: str, state: Progress) -> Progress:
            if name == method and getattr(state, "bad", False):
                raise RuntimeError("a bug")
            return state

    await work_off(database, Buggy(steps(2)))

    row = await run_row(database_url, bad)
    assert (row["status"], row["error"]["code"]) == ("failed", "internal")
    assert (await run_row(database_url, good))["status"] == "completed"
    await assert_books_balance(database_url, person.id)


async def test_a_result_that_cannot_be_stored_fails_that_step_alone(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    """Both runs' results share a call; the database refuses it, and only the guilty step fails."""
    for bad in (True, False):
        await person.queue(input={"bad": bad})
    met = asyncio.Barrier(2)

    async def nameless(step: Step, ctx: StepContext) -> Outcome:
        del step
        await met.wait()
        name = "" if ctx.run.input["bad"] else "file.txt"
        return Done(records=Records(artifacts=(NewArtifact(name, "x"),)))

    worker = await work_off(database, ListEngine(steps(1), nameless))

    assert worker.left == {"failed": 1, "completed": 1}
    rows = await person.query("select error->>'code' from public.agent_runs where status = 'failed'")
    assert rows == [("unstorable",)]


async def test_of_several_results_that_share_a_call_only_the_one_that_cannot_be_stored_is_lost(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    met = asyncio.Barrier(3)

    async def one_nameless(step: Step, ctx: StepContext) -> Outcome:
        await met.wait()
        name = "" if step.key == "s2" else "file.txt"
        return Done(records=Records(artifacts=(NewArtifact(name, "x"),)), credits=7)

    engine = ListEngine(steps(3, effect="effectful", credits_bound=10), one_nameless, width=3)
    await work_off(database, engine)

    assert [step["status"] for step in await step_rows(database_url, run_id)] == ["completed", "failed", "completed"]
    row = await run_row(database_url, run_id)
    assert (row["status"], row["error"]["code"], row["credits_spent"]) == ("failed", "unstorable", 21)
    assert len(engine.performed) == 3
    await assert_books_balance(database_url, person.id)


async def test_a_worker_whose_heartbeat_dies_ends_loudly_and_gives_up_its_runs(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    """It could not keep its leases: better no worker than one that works in vain."""
    run_id = await person.queue()

    class Broken(RunStore):
        async def heartbeat(self, *args: Any, **options: Any) -> Any:
            raise MemoryError("the heartbeat has a bug")

    worker = Worker(Broken(database), {"list": ListEngine(steps(1), forever)}, options=QUICK)
    with pytest.raises(MemoryError):
        await worker.run()

    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=16)
    await work_off(database, ListEngine(steps(1)))
    assert (await run_row(database_url, run_id))["status"] == "completed"


async def test_a_worker_that_takes_its_own_expired_run_again_forgets_the_old_execution(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    interrupted: list[int] = []
    released = asyncio.Event()

    async def until_released(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        try:
            await released.wait()
        except asyncio.CancelledError:
            interrupted.append(step.attempt)
            raise
        return Done({"attempt": step.attempt})

    options = WorkerOptions(heartbeat_seconds=60, poll_seconds=0.05)
    async with working(database, ListEngine(steps(2), until_released), options=options) as worker:
        await until(lambda: step_stands(database_url, run_id, 1, "running"))
        async with connect(database_url) as connection:
            await shift_clock(connection, seconds=16)
        await until(lambda: attempt_is(database_url, run_id, 2))
        released.set()
        await until_status(database_url, run_id, "completed")

    assert interrupted == [1]
    assert worker.left["completed"] == 1
    assert (await step_rows(database_url, run_id))[0]["output"] == {"attempt": 2}


async def test_a_claim_that_cannot_be_read_leaves_the_worker_alive_for_others(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    """The row was forged past every check; other people's runs must not wait for its keeper."""
    bad, good = await person.queue(), await person.queue()
    async with connect(database_url) as connection:
        await connection.execute("""update public.agent_runs set input = '{"n": 1e400}' where id = %s""", [bad])

    async with working(database, ListEngine(steps(1))), connect(database_url) as connection:
        # Each look leases both again until the unreadable one is poison and leaves the other alone.
        async with asyncio.timeout(60):
            while (await run_row(database_url, good))["status"] != "completed":
                await shift_clock(connection, seconds=16)
                await asyncio.sleep(0.05)  # a turn for the worker; the clock above is what passes

    assert (await run_row(database_url, good))["status"] == "completed"


async def test_a_value_that_no_json_can_hold_fails_its_step_alone(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_ids = [await person.queue(input={"bad": bad}) for bad in (True, False)]

    async def odd(step: Step, ctx: StepContext) -> Outcome:
        del step
        return Done({"value": object() if ctx.run.input["bad"] else 2**70})  # type: ignore[dict-item]

    await work_off(database, ListEngine(steps(1), odd))

    rows = [await run_row(database_url, run_id) for run_id in run_ids]
    assert [row["status"] for row in rows] == ["failed", "completed"]
    assert rows[0]["error"]["code"] == "unstorable"


async def test_a_lost_reply_to_a_claim_costs_one_lease(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    engine = ListEngine(steps(1))

    async with working(LosingDatabase(database, ("claim_runs", 1)), engine):
        await until_status(database_url, run_id, "planning")
        async with connect(database_url) as connection:
            await shift_clock(connection, seconds=16)
        row = await until_status(database_url, run_id, "completed")

    assert row["status"] == "completed"
    assert len(engine.performed) == 1


class DeafDatabase:
    """Answers a cancelled heartbeat with an error of its own, as a driver may whose query was cancelled."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.beating = asyncio.Event()
        self.cancelled = 0

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        if function != "heartbeat_runs":
            return await self._database.call(function, arguments)
        self.beating.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
        raise DatabaseUnavailable("The query was cancelled", details="57014")

    async def close(self) -> None:
        await self._database.close()


async def test_a_worker_ends_though_a_cancelled_heartbeat_did_not_hear_of_it(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    deaf = DeafDatabase(database)

    async def while_beating(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        await deaf.beating.wait()
        return Done()

    async with asyncio.timeout(20):
        await work_off(deaf, ListEngine(steps(1), while_beating))

    assert (await run_row(database_url, run_id))["status"] == "completed"
    assert deaf.cancelled == 1
