"""A retry makes a new run that takes over what need not happen again."""

from __future__ import annotations

from uuid import UUID, uuid4

import psycopg
import pytest

from shared.runs.status import RunStatus, StepStatus
from shared.runs.store import RunStore
from shared.runs.transitions import Advance, FinishStep, StartStep
from tests.runs.engines import steps
from tests.runs.people import refused
from tests.support.runs import (
    Person,
    assert_books_balance,
    claim,
    connect,
    run_row,
    step_rows,
)


async def test_retry_takes_over_completed_steps_and_keeps_the_effect_key_of_the_failed_one(
    store: RunStore, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    view = (await claim(store)).views[0]
    lease = view.run.lease_id
    assert lease is not None
    one, two = (StartStep(n, uuid4(), step) for n, step in enumerate(steps(2), 1))
    first = Advance(run_id, lease, view.run.revision, start=(one, two), status=RunStatus.EXECUTING)
    revision = (await store.advance([first], lease_seconds=15))[run_id].revision
    ends = (
        FinishStep(1, 1, StepStatus.COMPLETED, output={"n": 1}),
        FinishStep(2, 1, StepStatus.FAILED, failed=True),
    )
    last = Advance(run_id, lease, revision, finish=ends, status=RunStatus.FAILED)
    await store.advance([last], lease_seconds=15)

    retried = await person.call("retry_run", run_id, "again")
    repeated = await person.call("retry_run", run_id, "again")

    assert (retried["status"], retried["forked_from"], retried["fork_step"]) == ("queued", str(run_id), 2)
    assert (repeated["run_id"], repeated["created"]) == (retried["run_id"], False)
    copied = await step_rows(database_url, UUID(retried["run_id"]))
    assert [(step["status"], step["output"]) for step in copied] == [("completed", {"n": 1}), ("pending", None)]
    assert copied[1]["effect_key"] == str(two.effect_key)
    assert (await run_row(database_url, run_id))["status"] == "failed"


async def test_only_a_run_that_went_wrong_can_be_retried(person: Person) -> None:
    run_id = await person.queue()

    assert await refused(person.call("retry_run", run_id)) == "RUN02"


async def test_retry_takes_parallel_siblings_over_and_keeps_every_effect_key(
    store: RunStore, person: Person, database_url: str
) -> None:
    """Three calls of one turn: one failed, one completed, one was cut off. None may happen twice unrecognised."""
    run_id = await person.queue()
    view = (await claim(store)).views[0]
    lease = view.run.lease_id
    assert lease is not None
    starts = tuple(StartStep(n, uuid4(), step) for n, step in enumerate(steps(3, effect="effectful"), 1))
    first = Advance(run_id, lease, view.run.revision, start=starts, status=RunStatus.EXECUTING)
    revision = (await store.advance([first], lease_seconds=15))[run_id].revision
    ends = (
        FinishStep(1, 1, StepStatus.FAILED, failed=True),
        FinishStep(2, 1, StepStatus.COMPLETED, output={"sent": True}),
    )
    await store.advance([Advance(run_id, lease, revision, finish=ends, status=RunStatus.FAILED)], lease_seconds=15)

    retried = await person.call("retry_run", run_id)

    copied = await step_rows(database_url, UUID(retried["run_id"]))
    assert [(step["step_no"], step["status"]) for step in copied] == [
        (1, "pending"),
        (2, "completed"),
        (3, "pending"),
    ]
    assert [step["effect_key"] for step in copied] == [str(start.effect_key) for start in starts]


async def test_a_run_at_its_limit_of_steps_says_that_a_retry_would_not_help(person: Person, database_url: str) -> None:
    run_id = await person.queue()
    await person.call("control_run", run_id, "stop")
    async with connect(database_url) as connection:
        await connection.execute(
            """update public.agent_runs set error = '{"code": "max_steps"}' where id = %s""", [run_id]
        )

    with pytest.raises(psycopg.Error, match="limit of 100 steps"):
        await person.call("retry_run", run_id)


async def test_a_step_that_had_waited_keeps_its_bound_when_its_run_is_retried(
    store: RunStore, person: Person, database_url: str
) -> None:
    """Else its second performance would be free."""
    run_id = await person.queue()
    view = (await claim(store)).views[0]
    lease = view.run.lease_id
    assert lease is not None
    start = StartStep(1, uuid4(), steps(1, credits_bound=500)[0])
    first = Advance(run_id, lease, view.run.revision, start=(start,), status=RunStatus.EXECUTING)
    revision = (await store.advance([first], lease_seconds=15))[run_id].revision
    rests = FinishStep(1, 1, StepStatus.RUNNING, bound=500, waits_for="timer", available_in=60.0)
    wait = Advance(run_id, lease, revision, finish=(rests,), status=RunStatus.QUEUED, available_in=60.0)
    await store.advance([wait], lease_seconds=15)
    assert (await run_row(database_url, run_id))["credits_reserved"] == 0
    await person.call("control_run", run_id, "stop")

    retried = await person.call("retry_run", run_id)

    assert [step["credits_bound"] for step in await step_rows(database_url, UUID(retried["run_id"]))] == [500]
    await assert_books_balance(database_url, person.id)


async def test_a_sibling_that_was_tried_again_later_still_keeps_its_effect_key_in_a_retry(
    store: RunStore, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    view = (await claim(store)).views[0]
    lease = view.run.lease_id
    assert lease is not None
    one, two = (StartStep(n, uuid4(), step) for n, step in enumerate(steps(2), 1))
    first = Advance(run_id, lease, view.run.revision, start=(one, two), status=RunStatus.EXECUTING)
    revision = (await store.advance([first], lease_seconds=15))[run_id].revision
    ends = (
        FinishStep(1, 1, StepStatus.FAILED, failed=True),
        FinishStep(2, 1, StepStatus.PENDING, failed=True, available_in=0.0),
    )
    revision = (await store.advance([Advance(run_id, lease, revision, finish=ends)], lease_seconds=15))[run_id].revision
    again = Advance(run_id, lease, revision, start=(StartStep(2, two.effect_key, two.step, again=True),))
    revision = (await store.advance([again], lease_seconds=15))[run_id].revision
    last = FinishStep(2, 2, StepStatus.COMPLETED, output={"n": 2})
    await store.advance([Advance(run_id, lease, revision, finish=(last,), status=RunStatus.FAILED)], lease_seconds=15)

    retried = await person.call("retry_run", run_id)

    copied = await step_rows(database_url, UUID(retried["run_id"]))
    assert [(step["status"], step["effect_key"]) for step in copied] == [
        ("pending", str(one.effect_key)),
        ("completed", str(two.effect_key)),
    ]
