"""What a stored snapshot saves: the next slice reads what it does not cover, and no more, over both wires."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import orjson
import pytest

from shared.database import Database
from shared.runs.engine import HumanRequest
from shared.runs.models import Json, NewMessage, NewPlan, Records, RunId, RunView, StepError
from shared.runs.status import RunStatus, StepStatus
from shared.runs.store import RunStore
from shared.runs.transitions import Advance, FinishStep, StartStep, TakenSnapshot
from tests.runs.engines import steps
from tests.support.clock import shift_clock
from tests.support.runs import Person, claim, connect

RELEASED = {"status": RunStatus.QUEUED, "available_in": 0.0}
STATE = {"seen": ["tea", 1.5, None, {"ü": "\u2028"}]}
TEXT = "x" * 500


@pytest.fixture
def either(either_wire: Database) -> RunStore:
    return RunStore(either_wire)


class Hand:
    """A leased run, moved on by hand."""

    def __init__(self, store: RunStore, view: RunView) -> None:
        self.store = store
        self.view = view
        self.run_id = view.run.id
        self.revision = view.run.revision

    async def advance(
        self, *finish: FinishStep, start: Sequence[int] = (), snapshot: TakenSnapshot | None = None, **what: object
    ) -> None:
        starting = tuple(StartStep(number, uuid4(), steps(number)[-1]) for number in start)
        assert self.view.run.lease_id is not None
        item = Advance(
            self.run_id, self.view.run.lease_id, self.revision, finish=finish, start=starting, snapshot=snapshot, **what
        )
        answer = (await self.store.advance([item], lease_seconds=15))[self.run_id]
        assert answer.won
        self.revision = answer.revision


async def take(store: RunStore, run_id: RunId) -> Hand:
    (view,) = (view for view in (await claim(store)).views if view.run.id == run_id)
    return Hand(store, view)


def done(number: int, attempt: int = 1) -> FinishStep:
    records = Records(
        messages=(NewMessage("assistant", [{"type": "text", "text": f"{number} {TEXT}"}]),),
        plans=(NewPlan(f"goal {number}", []),),
    )
    return FinishStep(number, attempt, StepStatus.COMPLETED, output={"n": number, "text": TEXT}, records=records)


def snapshot(count: int, *, open_: Sequence[int] = (), keep: Sequence[int] = (), version: int = 1) -> TakenSnapshot:
    return TakenSnapshot(version, count, tuple(open_), tuple(keep), dict(STATE))


async def long_run(store: RunStore, person: Person, count: int, *, keep: Sequence[int] = (3, 7)) -> RunId:
    """A queued run of `count` ended steps, all of them under a snapshot, and three later ones; the last is open."""
    run_id = await person.queue(max_steps=10_000)
    hand = await take(store, run_id)
    await hand.advance(status=RunStatus.EXECUTING)
    for first in range(1, count + 1, 500):
        numbers = range(first, min(first + 500, count + 1))
        await hand.advance(start=numbers)
        await hand.advance(*map(done, numbers))
    await hand.advance(start=[count + 1], snapshot=snapshot(count, keep=keep))
    await hand.advance(done(count + 1), start=[count + 2, count + 3])
    asks = FinishStep(count + 3, 1, StepStatus.RUNNING, waits_for="human", request=HumanRequest("Which tea?"))
    await hand.advance(done(count + 2), asks, **RELEASED)
    return run_id


async def test_a_claim_brings_the_snapshot_and_what_it_does_not_cover(either: RunStore, person: Person) -> None:
    run_id = await long_run(either, person, 20)

    view = (await take(either, run_id)).view

    assert (view.snapshot, view.snapshot_version) == (STATE, 1)
    assert [result.step.step_no for result in view.results] == [21, 22]
    assert [step.step_no for step in view.open_steps] == [23]
    assert list(view.kept) == [3, 7]
    whole = await either.load(run_id, whole=True)
    assert whole is not None
    by_number = {result.step.step_no: result for result in whole.results}
    assert whole.snapshot is None
    assert dict(view.kept) == {number: by_number[number] for number in (3, 7)}
    assert view.results == (by_number[21], by_number[22])
    assert [result.step.step_no for result in whole.results] == list(range(1, 23))


async def test_a_step_that_was_open_at_the_snapshot_is_a_result_with_all_that_it_recorded(
    either: RunStore, person: Person
) -> None:
    """What it had recorded before the snapshot was part of no result then."""
    run_id = await person.queue()
    hand = await take(either, run_id)
    await hand.advance(start=[1, 2, 3], status=RunStatus.EXECUTING)
    said = Records(messages=(NewMessage("assistant", [{"type": "text", "text": "Which tea?"}]),))
    asks = FinishStep(
        2,
        1,
        StepStatus.RUNNING,
        waits_for="human",
        records=said,
        request=HumanRequest("Which tea?", options=("green",)),
    )
    again = FinishStep(3, 1, StepStatus.PENDING, error=StepError("busy", "Busy", retryable=True), available_in=0.0)
    await hand.advance(done(1), asks, again, snapshot=snapshot(3, open_=[2, 3]), **RELEASED)
    await person.call("respond_run", run_id, '"green"')

    view = (await take(either, run_id)).view

    assert [result.step.step_no for result in view.results] == [2]
    assert [message.role for message in view.results[0].messages] == ["assistant", "user"]
    assert view.results[0].output == {"response": "green"}
    assert [(step.step_no, step.status) for step in view.open_steps] == [(3, StepStatus.PENDING)]


async def test_results_come_in_the_order_of_their_commits_also_beside_a_snapshot(
    either: RunStore, person: Person
) -> None:
    run_id = await person.queue()
    hand = await take(either, run_id)
    await hand.advance(start=[1, 2, 3], status=RunStatus.EXECUTING)
    await hand.advance(done(2), snapshot=snapshot(3, open_=[1, 3]))
    await hand.advance(done(3), start=[4])
    await hand.advance(done(1), done(4), **RELEASED)

    view = (await take(either, run_id)).view

    assert [result.step.step_no for result in view.results] == [3, 1, 4]


async def test_the_newest_snapshot_takes_the_place_of_the_older(either: RunStore, person: Person) -> None:
    run_id = await person.queue()
    hand = await take(either, run_id)
    await hand.advance(start=[1], status=RunStatus.EXECUTING)
    await hand.advance(done(1), start=[2], snapshot=snapshot(1))
    await hand.advance(done(2), snapshot=snapshot(2, keep=[1], version=2), **RELEASED)

    view = (await take(either, run_id)).view

    assert (view.snapshot_version, list(view.kept), view.results) == (2, [1], ())


async def test_a_snapshot_of_an_advance_that_lost_is_not_stored(either: RunStore, person: Person) -> None:
    run_id = await person.queue()
    hand = await take(either, run_id)
    await hand.advance(start=[1], status=RunStatus.EXECUTING)
    assert hand.view.run.lease_id is not None
    stale = Advance(run_id, hand.view.run.lease_id, 1, snapshot=snapshot(1))

    lost = (await either.advance([stale], lease_seconds=15))[run_id]

    assert not lost.won
    reloaded = await either.load(run_id)
    assert reloaded is not None
    assert reloaded.snapshot is None


async def test_an_ended_run_leaves_no_snapshot(either: RunStore, person: Person, database_url: str) -> None:
    run_id = await person.queue()
    hand = await take(either, run_id)
    await hand.advance(start=[1], status=RunStatus.EXECUTING)
    await hand.advance(done(1), snapshot=snapshot(1))
    await hand.advance(status=RunStatus.COMPLETED)

    async with connect(database_url) as connection:
        assert await (await connection.execute("select * from private.run_snapshots")).fetchall() == []


async def test_results_are_loaded_by_number_and_only_ended_ones(either: RunStore, person: Person) -> None:
    run_id = await long_run(either, person, 20)

    results = await either.results(run_id, [7, 23, 99, 22])

    assert {number: result.output["n"] for number, result in results.items()} == {7: 7, 22: 22}
    assert results[7].messages[0].content == [{"type": "text", "text": f"7 {TEXT}"}]
    assert results[7].plans == (NewPlan("goal 7", []),)


async def test_a_claim_delivers_as_much_of_a_run_of_2000_steps_as_of_one_of_100(
    either_wire: Database, person: Person
) -> None:
    delivered: list[dict[str, Any]] = []
    for count in (100, 2_000):
        await long_run(RunStore(either_wire), person, count)
        request: dict[str, Json] = {"p_owner": "me", "p_limit": 10, "p_lease_seconds": 15, "p_engines": ["list"]}
        answer: Any = await either_wire.call("claim_runs", request)
        delivered += answer["runs"]

    short, long = delivered
    assert (short["run"]["step_count"], long["run"]["step_count"]) == (103, 2_003)
    for part in ("steps", "messages", "plans"):
        assert len(short[part]) == len(long[part]) <= 5
    assert len(orjson.dumps(long)) <= len(orjson.dumps(short)) + 200  # numbers have more digits


@pytest.mark.older_postgres
@pytest.mark.parametrize("analyzed", [True, False])
async def test_the_database_reads_no_more_of_a_long_run_than_it_delivers(
    store: RunStore, person: Person, database_url: str, *, analyzed: bool
) -> None:
    run_id = await long_run(store, person, 2_000)
    statement = (
        "select relname, seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables"
        " where relname in ('agent_steps', 'agent_messages', 'agent_plans') order by relname"
    )

    async with connect(database_url) as connection:
        if analyzed:
            await connection.execute("analyze")
        async with connection.transaction():
            await connection.execute("select private.run_view(array[%s]::uuid[])", [run_id])
            read = await (await connection.execute(statement)).fetchall()

    assert read == [("agent_messages", 4), ("agent_plans", 4), ("agent_steps", 5)]


async def test_a_retried_run_starts_without_a_snapshot_from_the_copied_steps(either: RunStore, person: Person) -> None:
    run_id = await long_run(either, person, 20)
    hand = await take(either, run_id)
    await hand.advance(status=RunStatus.FAILED, error=StepError("broken", "It broke"))

    retried = await person.call("retry_run", run_id)

    (view,) = (await claim(either)).views
    assert str(view.run.id) == retried["run_id"]
    assert view.snapshot is None
    assert [result.step.step_no for result in view.results] == list(range(1, 23))


async def test_a_worker_that_was_lost_after_its_snapshot_leaves_all_that_the_next_one_needs(
    either: RunStore, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    hand = await take(either, run_id)
    await hand.advance(start=[1], status=RunStatus.EXECUTING)
    await hand.advance(done(1), start=[2, 3], snapshot=snapshot(1))
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=16)

    view = (await take(either, run_id)).view

    assert (view.snapshot, view.results) == (STATE, ())
    assert [(step.step_no, step.attempt) for step in view.open_steps] == [(2, 2), (3, 2)]
