"""The worker against a real database: what becomes of runs, steps, credits and calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.database import Database
from shared.direct_database import DirectDatabase
from shared.errors import UpstreamBusy, UpstreamRefused
from shared.runs.drain import drain
from shared.runs.engine import Done, Failed, HumanRequest, Outcome, StepContext, Waiting
from shared.runs.models import NewArtifact, NewStep, Records, RunView, Step, StepError
from shared.runs.store import RunStore
from shared.runs.wake import ListenWake
from shared.runs.worker import Worker, WorkerOptions
from tests.runs.engines import ListEngine, Progress, forever, steps
from tests.support.clock import shift_clock
from tests.support.runs import (
    Person,
    assert_books_balance,
    claim,
    connect,
    credit_account,
    log_lines,
    run_row,
    set_available,
    step_rows,
    until,
    until_status,
)
from tests.support.wires import CountingDatabase, GatedDatabase, LosingDatabase

QUICK = WorkerOptions(heartbeat_seconds=0.05, poll_seconds=0.1)


@asynccontextmanager
async def working(
    database: Database, engine: ListEngine, *, options: WorkerOptions = QUICK, url: str | None = None
) -> AsyncGenerator[Worker]:
    """A worker beside the test; it gives back what it holds at the end."""
    wake = None if url is None else ListenWake(url)
    worker = Worker(RunStore(database), {"list": engine}, options=options, wake=wake)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await task


async def work_off(database: Database, engine: ListEngine) -> Worker:
    """Work until nothing is due."""
    worker = Worker(RunStore(database), {"list": engine}, options=QUICK)
    await worker.run(until_idle=True)
    return worker


async def test_a_run_goes_from_queue_to_result(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await person.queue()

    await work_off(database, ListEngine(steps(3)))

    row = await run_row(database_url, run_id)
    assert (row["status"], row["output"]) == ("completed", {"keys": ["s1", "s2", "s3"]})
    assert [step["status"] for step in await step_rows(database_url, run_id)] == ["completed"] * 3
    assert (await log_lines(database_url, run_id))[-1][2] == "executing -> completed"


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


async def test_ready_steps_of_one_run_are_performed_in_parallel(database: DirectDatabase, person: Person) -> None:
    """Each step waits for all the others to have begun: only parallel performance ends."""
    await person.queue()
    begun = asyncio.Barrier(3)

    async def meet(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        await begun.wait()
        return Done({"key": step.key})

    worker = await work_off(database, ListEngine(steps(3), meet, width=3))

    assert worker.left == {"completed": 1}


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
        await until(lambda: _listens(database_url))
        run_id = await person.queue()

        await until_status(database_url, run_id, "completed")


async def test_a_retryable_failure_is_tried_again_under_the_same_effect_key(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    tries: list[int] = []

    async def busy_twice(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        tries.append(step.attempt)
        if len(tries) < 3:
            raise UpstreamBusy("The provider is busy", retry_after_seconds=0.0)
        return Done(credits=10)

    engine = ListEngine(steps(1, credits_bound=50), busy_twice)
    async with working(database, engine):
        row = await until_status(database_url, run_id, "completed", "failed")

    assert (row["status"], tries) == ("completed", [1, 2, 3])
    assert len({effect_key for _, _, effect_key in engine.performed}) == 1
    assert row["credits_spent"] == 10
    await assert_books_balance(database_url, person.id)


async def test_backing_off_holds_no_lease(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await person.queue()

    async def busy(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        raise UpstreamBusy("The provider is busy", retry_after_seconds=3600.0)

    await work_off(database, ListEngine(steps(1), busy))

    row = await run_row(database_url, run_id)
    assert (row["status"], row["lease_id"]) == ("queued", None)
    assert (await step_rows(database_url, run_id))[0]["status"] == "pending"


async def test_a_step_that_keeps_failing_fails_the_run_with_its_error(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()

    async def busy(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        raise UpstreamBusy("The provider is busy", retry_after_seconds=0.0)

    engine = ListEngine(steps(1, max_attempts=2), busy)
    async with working(database, engine):
        row = await until_status(database_url, run_id, "failed")

    assert (row["error"]["code"], row["error"]["message"]) == ("upstream_busy", "The provider is busy")
    assert len(engine.performed) == 2


@pytest.mark.parametrize(
    ("raised", "code"),
    [(UpstreamRefused("The key is wrong"), "upstream_refused"), (KeyError("secret-in-a-bug"), "internal")],
)
async def test_a_final_failure_is_not_tried_again_and_leaks_nothing(
    database: DirectDatabase, person: Person, database_url: str, raised: Exception, code: str
) -> None:
    run_id = await person.queue()

    async def fails(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        raise raised

    engine = ListEngine(steps(1), fails)
    await work_off(database, engine)

    row = await run_row(database_url, run_id)
    assert (row["status"], row["error"]["code"], len(engine.performed)) == ("failed", code, 1)
    assert "secret-in-a-bug" not in json.dumps([row, await step_rows(database_url, run_id)])


async def test_a_step_that_never_ends_times_out(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await person.queue()

    await work_off(database, ListEngine(steps(1, timeout_seconds=0.05, max_attempts=1), forever))

    assert (await run_row(database_url, run_id))["error"]["code"] == "step_timeout"


async def test_an_effectful_step_that_times_out_is_not_repeated(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    engine = ListEngine(steps(1, timeout_seconds=0.05, effect="effectful"), forever)

    await work_off(database, engine)

    assert (await run_row(database_url, run_id))["error"]["code"] == "outcome_unknown"
    assert len(engine.performed) == 1


async def test_stop_interrupts_a_running_step(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await person.queue()
    interrupted = asyncio.Event()

    async def endless(step: Step, ctx: StepContext) -> Outcome:
        try:
            return await forever(step, ctx)
        except asyncio.CancelledError:
            interrupted.set()
            raise

    async with working(database, ListEngine(steps(1), endless)):
        await until_status(database_url, run_id, "executing")
        answer = await person.call("control_run", run_id, "stop")
        await until_status(database_url, run_id, "cancelled")

    assert answer["stopping"] is True
    assert interrupted.is_set()
    assert (await step_rows(database_url, run_id))[0]["status"] == "cancelled"
    assert (await credit_account(database_url, person.id))["held"] == 0
    await assert_books_balance(database_url, person.id)


async def test_pause_gives_back_what_can_be_repeated_and_resume_goes_on(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    released = asyncio.Event()

    async def until_released(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        await released.wait()
        return Done()

    engine = ListEngine(steps(2), until_released)
    async with working(database, engine, url=database_url):
        await until_status(database_url, run_id, "executing")
        await person.call("control_run", run_id, "pause")
        await until_status(database_url, run_id, "paused")
        assert (await step_rows(database_url, run_id))[0]["status"] == "pending"
        released.set()
        await person.call("control_run", run_id, "resume")
        await until_status(database_url, run_id, "completed")

    assert [key for key, _, _ in engine.performed] == ["s1", "s1", "s2"]


async def test_pause_awaits_an_effectful_step(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await person.queue()
    released = asyncio.Event()

    async def until_released(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        await released.wait()
        return Done({"done": True})

    async with working(database, ListEngine(steps(2, effect="effectful"), until_released)) as worker:
        await until_status(database_url, run_id, "executing")
        await person.call("control_run", run_id, "pause")
        await until(lambda: _told(worker, "pause"))
        released.set()
        await until_status(database_url, run_id, "paused")

    assert (await step_rows(database_url, run_id))[0]["output"] == {"done": True}


async def test_a_run_over_its_deadline_is_interrupted(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue(timeout_seconds=1)

    async with working(database, ListEngine(steps(1), forever)):
        row = await until_status(database_url, run_id, "timeout")

    assert row["error"]["code"] == "deadline"


async def test_out_of_credits_pauses_with_a_line_and_goes_on_after_a_grant(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    await set_available(database_url, person.id, 0)
    engine = ListEngine(steps(2, credits_bound=900_000), _costs(900_000))

    await work_off(database, engine)
    paused = await run_row(database_url, run_id)
    async with connect(database_url) as connection:
        await connection.execute("select public.grant_credits(%s, 5000000)", [person.id])
    await person.call("control_run", run_id, "resume")
    await work_off(database, engine)

    assert (paused["status"], paused["credits_spent"]) == ("paused", 900_000)
    assert "Out of credits" in next(line[2] for line in await log_lines(database_url, run_id) if line[1] == "warning")
    row = await run_row(database_url, run_id)
    assert (row["status"], row["credits_spent"]) == ("completed", 1_800_000)


async def test_with_steps_in_flight_a_run_short_of_credits_waits_for_them(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    """The second step does not fit beside the first's bound, but does once the first has cost little."""
    run_id = await person.queue(max_credits=1_000_000)
    released = asyncio.Event()

    async def cheap(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        if step.key == "s1":
            await released.wait()
        return Done(credits=10)

    class Late(ListEngine):
        """Wants the third step while the first still runs."""

        def decide(self, state: Progress) -> Any:
            self.width = 2 if "s2" in state.results else 1 + ("s1" in state.known)
            return super().decide(state)

    plan = [*steps(2, credits_bound=300_000), NewStep("s3", "test", "Step 3", credits_bound=800_000)]
    async with working(database, Late(plan, cheap, width=2)):
        await until(lambda: _step_status(database_url, run_id, 2, "completed"))
        released.set()
        row = await until_status(database_url, run_id, "completed", "failed")

    assert (row["status"], row["credits_spent"]) == ("completed", 30)
    await assert_books_balance(database_url, person.id)


async def test_waiting_for_a_person_holds_no_lease_and_the_answer_is_the_result(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()

    async def asks(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        return Waiting(HumanRequest("Which tea?")) if step.key == "s1" else Done()

    engine = ListEngine(steps(2), asks)
    async with working(database, engine, url=database_url):
        waiting = await until_status(database_url, run_id, "awaiting_input")
        await person.call("respond_run", run_id, json.dumps("green"))
        await until_status(database_url, run_id, "completed")

    assert waiting["lease_id"] is None
    assert (await step_rows(database_url, run_id))[0]["output"] == {"response": "green"}
    assert [key for key, _, _ in engine.performed] == ["s1", "s2"]


async def test_an_answer_while_other_steps_run_is_taken_in_at_the_next_heartbeat(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    released = asyncio.Event()

    async def asks(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        if step.key == "s1":
            return Waiting(HumanRequest("Which tea?"))
        if step.key == "s2":
            await released.wait()
        return Done()

    engine = ListEngine(steps(3), asks, width=2)
    async with working(database, engine):
        await until(lambda: _has_open_question(database_url, run_id))
        await person.call("respond_run", run_id, json.dumps("green"))
        # Only the answer frees the place for s3 while s2 still runs.
        await until(lambda: _step_status(database_url, run_id, 3, "completed"))
        released.set()
        await until_status(database_url, run_id, "completed")

    assert sorted(key for key, _, _ in engine.performed) == ["s1", "s2", "s3"]


async def test_a_timer_holds_no_lease_and_the_run_goes_on_when_it_is_due(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue(timeout_seconds=7200)

    async def rests(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        return Waiting(3600.0) if step.key == "s1" else Done()

    engine = ListEngine(steps(2), rests)
    await work_off(database, engine)
    resting = await run_row(database_url, run_id)
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=3601)
    await work_off(database, engine)

    assert (resting["status"], resting["lease_id"]) == ("queued", None)
    assert (await run_row(database_url, run_id))["status"] == "completed"
    assert [key for key, _, _ in engine.performed] == ["s1", "s2"]


@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_a_lost_reply_to_an_advance_loses_nothing_and_repeats_nothing(
    database: DirectDatabase, person: Person, database_url: str, nth: int
) -> None:
    """Committed, but the worker never heard: it asks again, loses by its own revision, reads and goes on."""
    run_id = await person.queue()
    engine = ListEngine(steps(2, effect="effectful", credits_bound=100), _costs(7))

    await work_off(LosingDatabase(database, ("advance_runs", nth)), engine)

    row = await run_row(database_url, run_id)
    assert (row["status"], row["credits_spent"]) == ("completed", 14)
    assert [key for key, _, _ in engine.performed] == ["s1", "s2"]
    await assert_books_balance(database_url, person.id)


async def test_a_lost_reply_to_a_claim_costs_one_lease(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()

    async with working(LosingDatabase(database, ("claim_runs", 1)), ListEngine(steps(1))):
        await until_status(database_url, run_id, "planning")
        async with connect(database_url) as connection:
            await shift_clock(connection, seconds=16)
        await until_status(database_url, run_id, "completed")


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
        await until(lambda run_id=run_ids[effect]: _step_status(database_url, run_id, 1, "running"))
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
        await until(lambda: _step_status(database_url, run_id, 1, "running"))
    given_back = await run_row(database_url, run_id)

    await work_off(database, ListEngine(steps(1)))

    assert (given_back["status"], given_back["lease_id"], given_back["attempt"]) == ("queued", None, 0)
    assert (await run_row(database_url, run_id))["status"] == "completed"


async def test_a_drain_starts_no_step_that_exceeds_its_time_and_gives_the_run_back(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()

    tally = await drain(database, {"list": ListEngine(steps(1, timeout_seconds=600))}, seconds=5)

    assert tally.to_json() == {"claimed": 1, "left": {"queued": 1}, "swept": 0}
    assert await step_rows(database_url, run_id) == []


async def test_a_drain_works_off_what_is_due_and_answers_a_tally(database: DirectDatabase, person: Person) -> None:
    for _ in range(3):
        await person.queue()

    tally = await drain(database, {"list": ListEngine(steps(2, timeout_seconds=5))}, seconds=30)

    assert tally.to_json() == {"claimed": 3, "left": {"completed": 3}, "swept": 0}


async def test_a_step_that_no_host_could_ever_run_fails_at_start(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    options = WorkerOptions(longest_step_seconds=840)

    await drain(database, {"list": ListEngine(steps(1, timeout_seconds=3600))}, seconds=30, options=options)

    assert (await run_row(database_url, run_id))["error"]["code"] == "step_too_long"


async def test_a_run_ends_at_its_limit_of_steps(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await person.queue(max_steps=2)

    await work_off(database, ListEngine(steps(3)))

    row = await run_row(database_url, run_id)
    assert (row["status"], row["error"]["code"], row["step_count"]) == ("failed", "max_steps", 2)


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

    async def too_big(step: Step, ctx: StepContext) -> Outcome:
        del step
        await met.wait()
        content = "x" * 70_000 if ctx.run.input["bad"] else "x"
        return Done(records=Records(artifacts=(NewArtifact("file.txt", content),)))

    worker = await work_off(database, ListEngine(steps(1), too_big))

    assert worker.left == {"failed": 1, "completed": 1}
    rows = await person.query("select error->>'code' from public.agent_runs where status = 'failed'")
    assert rows == [("unstorable",)]


async def test_what_a_step_cost_beyond_its_bound_is_not_charged(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()

    await work_off(database, ListEngine(steps(1, credits_bound=100), _costs(5_000_000)))

    assert (await run_row(database_url, run_id))["credits_spent"] == 100


async def test_a_waiting_step_may_say_what_it_cost(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await person.queue()

    async def fails_then_done(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        if step.attempt == 1:
            return Failed(StepError("busy", "Busy", retryable=True), credits=30, retry_after_seconds=0.0)
        return Done(credits=40)

    async with working(database, ListEngine(steps(1, credits_bound=100), fails_then_done)):
        row = await until_status(database_url, run_id, "completed")

    assert row["credits_spent"] == 70
    await assert_books_balance(database_url, person.id)


async def test_an_idle_worker_hardly_asks(database: DirectDatabase, store: RunStore) -> None:
    """0.2 calls a second: one look, then silence until the poll, the next timer or a wake."""
    counting = CountingDatabase(database)
    options = WorkerOptions(poll_seconds=3600)
    async with working(counting, ListEngine(steps(1)), options=options):
        await until(lambda: _called(counting, "claim_runs"))
        for _ in range(50):
            await claim(store)  # as many turns of the loop and of the database

    assert counting.calls == {"claim_runs": 1}


def _costs(credits_: int) -> Any:
    async def perform(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        return Done(credits=credits_)

    return perform


async def _called(counting: CountingDatabase, function: str) -> bool:
    return counting.calls[function] > 0


async def _told(worker: Worker, request: str) -> bool:
    return any(getattr(execution.signals, request) for execution in worker._executions.values())


async def _step_status(url: str, run_id: Any, step_no: int, status: str) -> bool:
    rows = await step_rows(url, run_id)
    return any(step["step_no"] == step_no and step["status"] == status for step in rows)


async def _has_open_question(url: str, run_id: Any) -> bool:
    async with connect(url) as connection:
        cursor = await connection.execute(
            "select 1 from public.human_requests where run_id = %s and status = 'open'", [run_id]
        )
        return await cursor.fetchone() is not None


async def _listens(url: str) -> bool:
    async with connect(url) as connection:
        cursor = await connection.execute(
            "select 1 from pg_stat_activity where application_name = 'runbase wake' and query like 'listen%'"
            " and datname = current_database()"
        )
        return await cursor.fetchone() is not None


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
        await until(lambda: _step_status(database_url, run_id, 1, "running"))
        async with connect(database_url) as connection:
            await shift_clock(connection, seconds=16)
        await until(lambda: _attempt(database_url, run_id, 2))
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


async def test_while_the_database_is_away_the_worker_asks_with_pauses(database: DirectDatabase) -> None:
    """A timer that is overdue must not turn the wait into a spin."""
    away = LosingDatabase(database, *(("claim_runs", n) for n in range(2, 10_000)))
    counting = CountingDatabase(away)
    async with working(counting, ListEngine(steps(1)), options=WorkerOptions(poll_seconds=0.05)) as worker:
        await until(lambda: _called(counting, "claim_runs"))
        worker._next_due = 0.0
        await until(lambda: _failed(worker, 3))
        before = counting.calls["claim_runs"]
        for _ in range(50):
            await asyncio.sleep(0)

    assert counting.calls["claim_runs"] - before <= 1


async def _failed(worker: Worker, times: int) -> bool:
    return worker._failures >= times


async def _attempt(url: str, run_id: Any, attempt: int) -> bool:
    rows = await step_rows(url, run_id)
    return bool(rows) and rows[0]["attempt"] == attempt


@pytest.mark.parametrize(
    ("request_", "ends", "step_ends"), [("stop", "cancelled", "cancelled"), ("pause", "paused", "pending")]
)
async def test_what_an_interrupted_step_has_cost_is_booked(
    database: DirectDatabase, person: Person, database_url: str, request_: str, ends: str, step_ends: str
) -> None:
    """A model's answer that is cut off is charged by its provider; nobody gets it free by stopping in time."""
    run_id = await person.queue()

    async def dear(step: Step, ctx: StepContext) -> Outcome:
        ctx.spent(70)
        return await forever(step, ctx)

    async with working(database, ListEngine(steps(1, credits_bound=100), dear)):
        await until(lambda: _step_status(database_url, run_id, 1, "running"))
        await person.call("control_run", run_id, request_)
        row = await until_status(database_url, run_id, ends)

    assert row["credits_spent"] == 70
    assert (await step_rows(database_url, run_id))[0]["status"] == step_ends
    await assert_books_balance(database_url, person.id)


async def test_a_timed_out_try_is_booked_at_what_it_said(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()

    async def dear(step: Step, ctx: StepContext) -> Outcome:
        ctx.spent(500)
        return await forever(step, ctx)

    await work_off(database, ListEngine(steps(1, credits_bound=100, timeout_seconds=0.05, max_attempts=1), dear))

    assert (await run_row(database_url, run_id))["credits_spent"] == 100
