"""What claim, advance and heartbeat promise a worker, over both wires."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from uuid import UUID, uuid4

import psycopg
import pytest

from shared.database import Database
from shared.errors import AppError, Forbidden, InvalidInput
from shared.runs.batch import to_batch
from shared.runs.engine import HumanRequest
from shared.runs.models import NewArtifact, NewLog, NewMessage, NewPlan, Records, RunView, StepError
from shared.runs.status import RunStatus, StepStatus
from shared.runs.store import RunStore
from shared.runs.transitions import Advance, Delta, FinishStep, StartStep
from tests.runs.engines import steps
from tests.support.clock import shift_clock
from tests.support.runs import (
    Person,
    assert_books_balance,
    claim,
    connect,
    credit_account,
    log_lines,
    new_person,
    run_row,
    set_available,
    step_rows,
)

pytestmark = pytest.mark.older_postgres


@pytest.fixture
def either(either_wire: Database) -> RunStore:
    return RunStore(either_wire)


def first_step(view: RunView, *, bound: int = 0, **what: object) -> Advance:
    """The advance that starts step 1 of a fresh run."""
    start = StartStep(1, uuid4(), steps(1, credits_bound=bound)[0])
    assert view.run.lease_id is not None
    return Advance(
        view.run.id, view.run.lease_id, view.run.revision, start=(start,), status=RunStatus.EXECUTING, **what
    )


def after(view: RunView, revision: int, *finish: FinishStep, **what: object) -> Advance:
    assert view.run.lease_id is not None
    return Advance(view.run.id, view.run.lease_id, revision, finish=finish, **what)


async def advance(store: RunStore, item: Advance) -> object:
    return (await store.advance([item], lease_seconds=15))[item.run_id]


async def being_written(person: Person, run_id: UUID) -> list[dict[str, object]]:
    """What a viewer is shown of the text that open steps are writing."""
    return (await person.query("select public.follow_run(%s, p_written => '[]')", run_id))[0][0]["deltas"]


async def test_claim_gives_a_run_to_one_worker_and_its_input_with_it(either: RunStore, person: Person) -> None:
    run_id = await person.queue(input={"topic": "tea"})

    first = await claim(either, owner="one")
    second = await claim(either, owner="two")

    assert [view.run.id for view in first.views] == [run_id]
    assert first.views[0].run.input == {"topic": "tea"}
    assert first.views[0].run.status is RunStatus.PLANNING
    assert first.views[0].run.lease_id is not None
    assert second.views == ()


async def test_claim_leaves_runs_of_other_engines_and_runs_that_are_not_started(
    either: RunStore, person: Person
) -> None:
    await person.queue(engine="other")
    await person.create()

    assert (await claim(either)).views == ()


async def test_claim_takes_the_oldest_first_and_no_more_than_asked(either: RunStore, person: Person) -> None:
    ids = [await person.queue() for _ in range(3)]

    claimed = await claim(either, limit=2)

    assert {view.run.id for view in claimed.views} == set(ids[:2])


async def test_advance_commits_results_records_starts_and_lines_together(
    either: RunStore, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    view = (await claim(either)).views[0]
    started = await advance(either, first_step(view))
    records = Records(
        logs=(NewLog("tool_success", "brewed", {"cups": 2}),),
        messages=(NewMessage("assistant", [{"type": "text", "text": "Tea is ready"}]),),
        artifacts=(NewArtifact("tea.txt", "Earl Grey"),),
        plans=(NewPlan("tea", [{"id": "brew"}]),),
    )
    done = FinishStep(1, 1, StepStatus.COMPLETED, output={"cups": 2}, records=records)

    ended = await advance(
        either, after(view, started.revision, done, status=RunStatus.COMPLETED, output={"summary": "tea"})
    )

    assert (ended.won, ended.status, ended.lease_id) == (True, RunStatus.COMPLETED, None)
    row = await run_row(database_url, run_id)
    assert (row["status"], row["output"], row["step_count"]) == ("completed", {"summary": "tea"}, 1)
    reloaded = await either.load(run_id)
    assert reloaded is not None
    assert reloaded.results[0].output == {"cups": 2}
    assert reloaded.results[0].messages == records.messages
    assert reloaded.results[0].plans == records.plans
    assert (await either.artifacts(run_id, ["tea.txt", "no.txt"]))["tea.txt"].content == "Earl Grey"
    assert await log_lines(database_url, run_id) == [
        (1, "state_transition", "created -> queued"),
        (2, "state_transition", "queued -> planning"),
        (3, "state_transition", "planning -> executing"),
        (4, "tool_success", "brewed"),
        (5, "state_transition", "executing -> completed"),
    ]


async def test_a_stale_revision_loses_writes_nothing_and_is_told_the_present_lease(
    either: RunStore, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    view = (await claim(either)).views[0]
    winner = await advance(either, first_step(view))

    loser = await advance(either, first_step(view, logs=(NewLog("info", "never written"),)))

    assert (winner.won, loser.won) == (True, False)
    assert loser.lease_id == view.run.lease_id
    assert loser.revision == winner.revision
    assert "never written" not in [line[2] for line in await log_lines(database_url, run_id)]


async def test_a_lost_race_does_not_disturb_the_others_in_the_batch(either: RunStore, person: Person) -> None:
    for _ in range(2):
        await person.queue()
    one, other = (await claim(either)).views
    await advance(either, first_step(one))

    answers = await either.advance([first_step(one), first_step(other)], lease_seconds=15)

    assert (answers[one.run.id].won, answers[other.run.id].won) == (False, True)


async def test_an_expired_lease_is_claimed_again_and_the_old_holder_loses(
    either: RunStore, person: Person, database_url: str
) -> None:
    """The fence: the new lease_id, not the clock, keeps the frozen worker out when it thaws."""
    run_id = await person.queue()
    old = (await claim(either, owner="frozen")).views[0]
    started = await advance(either, first_step(old))
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=16)

    new = (await claim(either, owner="fresh")).views[0]
    thawed = await advance(either, after(old, started.revision, FinishStep(1, 1, StepStatus.COMPLETED, output={})))

    assert new.run.id == run_id
    assert new.run.attempt == 1
    assert new.open_steps[0].attempt == 2
    assert not thawed.won
    assert thawed.lease_id == new.run.lease_id
    assert (await step_rows(database_url, run_id))[0]["status"] == "running"


async def test_a_heartbeat_keeps_the_lease_and_leaves_the_revision(
    either: RunStore, person: Person, database_url: str
) -> None:
    await person.queue()
    view = (await claim(either)).views[0]
    assert view.run.lease_id is not None
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=10)
        beats = await either.heartbeat({view.run.id: view.run.lease_id}, lease_seconds=15)
        await shift_clock(connection, seconds=10)

    assert [(beat.run_id, beat.revision, beat.stop) for beat in beats] == [(view.run.id, view.run.revision, False)]
    assert (await claim(either, owner="rival")).views == ()


async def test_a_heartbeat_brings_a_request_to_stop(either: RunStore, person: Person) -> None:
    run_id = await person.queue()
    view = (await claim(either)).views[0]
    assert view.run.lease_id is not None

    answer = await person.call("control_run", run_id, "stop")
    beats = await either.heartbeat({view.run.id: view.run.lease_id}, lease_seconds=15)

    assert answer["stopping"] is True
    assert beats[0].stop is True


async def test_a_heartbeat_with_a_lost_lease_extends_nothing(either: RunStore, person: Person) -> None:
    await person.queue()
    view = (await claim(either)).views[0]

    assert await either.heartbeat({view.run.id: uuid4()}, lease_seconds=15) == []


async def test_a_run_that_loses_its_worker_too_often_fails_as_poison_with_its_last_error_kept(
    either: RunStore, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    async with connect(database_url) as connection:
        for _ in range(5):
            assert len((await claim(either)).views) == 1
            await shift_clock(connection, seconds=16)

        last = await claim(either)

    assert (last.views, last.swept) == ((), 1)
    row = await run_row(database_url, run_id)
    assert (row["status"], row["error"]["code"]) == ("failed", "poison")
    await assert_books_balance(database_url, person.id)


async def test_a_run_over_its_deadline_ends_as_timeout_wherever_it_stands(
    either: RunStore, person: Person, database_url: str
) -> None:
    leased, queued = await person.queue(timeout_seconds=60), None
    await claim(either)
    queued = await person.queue(timeout_seconds=60)
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=61)

    swept = (await claim(either)).swept

    assert swept == 2
    assert [(await run_row(database_url, run_id))["status"] for run_id in (leased, queued)] == ["timeout"] * 2


async def test_a_step_is_reserved_before_and_settled_after_and_the_rest_goes_back(
    either: RunStore, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    before = (await credit_account(database_url, person.id))["available"] + 1_000_000
    view = (await claim(either)).views[0]

    started = await advance(either, first_step(view, bound=500))
    assert (await run_row(database_url, run_id))["credits_reserved"] == 500
    done = FinishStep(1, 1, StepStatus.COMPLETED, output={}, credits=120, bound=500)
    await advance(either, after(view, started.revision, done, status=RunStatus.COMPLETED))

    row = await run_row(database_url, run_id)
    assert (row["credits_reserved"], row["credits_held"], row["credits_spent"]) == (0, 0, 120)
    assert await credit_account(database_url, person.id) == {"available": before - 120, "held": 0, "spent": 120}
    await assert_books_balance(database_url, person.id)


async def test_a_hold_is_topped_up_from_the_account_when_a_step_needs_more(
    either: RunStore, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    view = (await claim(either)).views[0]

    answer = await advance(either, first_step(view, bound=3_000_000))

    assert (answer.won, answer.short) == (True, False)
    assert (await run_row(database_url, run_id))["credits_held"] >= 3_000_000
    await assert_books_balance(database_url, person.id)


@pytest.mark.parametrize(
    ("cap", "available", "why"),
    [
        (None, 10, "the run is paused until credits are added and it is resumed"),
        (500, 10_000_000, "the next step does not fit the run's own limit (max_credits)"),
    ],
)
async def test_a_step_that_fits_neither_account_nor_cap_is_not_started_and_the_run_pauses(
    either: RunStore, person: Person, database_url: str, cap: int | None, available: int, why: str
) -> None:
    run_id = await person.queue(max_credits=cap)
    await set_available(database_url, person.id, available)
    view = (await claim(either)).views[0]

    answer = await advance(either, first_step(view, bound=2_000_000, logs=(NewLog("info", "said when it starts"),)))

    assert (answer.won, answer.short, answer.status, answer.lease_id) == (True, True, RunStatus.PAUSED, None)
    assert await step_rows(database_url, run_id) == []
    lines = await log_lines(database_url, run_id)
    assert lines[-2][1:] == ("warning", f"Out of credits: {why}")
    assert "said when it starts" not in [message for _, _, message in lines]
    assert [seq for seq, _, _ in lines] == list(range(1, len(lines) + 1))


async def test_a_failed_attempt_is_booked_and_the_step_may_start_again(
    either: RunStore, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    view = (await claim(either)).views[0]
    start = first_step(view, bound=100)
    started = await advance(either, start)
    error = StepError("upstream_busy", "The provider is busy", retryable=True)
    again = FinishStep(1, 1, StepStatus.PENDING, error=error, credits=30, bound=100, failed=True, available_in=0.0)

    pending = await advance(either, after(view, started.revision, again))
    restart = StartStep(1, start.start[0].effect_key, steps(1, credits_bound=100)[0], again=True)
    running = await advance(either, after(view, pending.revision, start=(restart,)))
    done = FinishStep(1, 2, StepStatus.COMPLETED, output={}, credits=40, bound=100)
    await advance(either, after(view, running.revision, done, status=RunStatus.COMPLETED))

    step = (await step_rows(database_url, run_id))[0]
    assert (step["attempt"], step["failed_attempts"], step["credits_spent"]) == (2, 1, 70)
    assert step["effect_key"] == str(start.start[0].effect_key)
    await assert_books_balance(database_url, person.id)


async def test_a_result_for_an_attempt_that_is_not_running_is_refused_whole(either: RunStore, person: Person) -> None:
    await person.queue()
    view = (await claim(either)).views[0]
    started = await advance(either, first_step(view))

    with pytest.raises(AppError, match="not running in that attempt"):
        await advance(either, after(view, started.revision, FinishStep(1, 7, StepStatus.COMPLETED, output={})))


async def test_an_unknown_version_of_the_batch_is_refused(either_wire: Database) -> None:
    with pytest.raises(AppError, match="speaks version 1, not 99"):
        await either_wire.call("advance_runs", {"p_batch": {"v": 99, "lease_seconds": 15, "runs": []}})


async def test_a_run_that_does_not_exist_loses(either: RunStore) -> None:
    item = Advance(UUID(int=1), UUID(int=2), 1)

    answer = await advance(either, item)

    assert (answer.won, answer.lease_id, answer.status) == (False, None, None)


async def test_wrong_use_is_an_error_of_ours_over_both_wires(either: RunStore) -> None:
    with pytest.raises(InvalidInput, match="p_limit must be from 0 to 100"):
        await claim(either, limit=101)


async def test_what_postgres_cannot_store_is_stored_without_it(
    either: RunStore, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    view = (await claim(either)).views[0]
    started = await advance(either, first_step(view))
    done = FinishStep(
        1,
        1,
        StepStatus.COMPLETED,
        output={"text": "a\x00b\ud800c", "number": float("nan")},
        records=Records(logs=(NewLog("info", "x" * 20_000, {"big": "y" * 20_000}),)),
    )

    await advance(either, after(view, started.revision, done, status=RunStatus.COMPLETED))

    assert (await step_rows(database_url, run_id))[0]["output"] == {"text": "a\ufffdb\ufffdc", "number": None}
    line = (await log_lines(database_url, run_id))[-2]
    assert len(line[2]) == 8192
    assert line[2].endswith("[truncated]")


async def test_model_output_is_shown_while_it_is_written_and_gone_when_the_step_ends(
    either: RunStore, person: Person
) -> None:
    run_id = await person.queue()
    view = (await claim(either)).views[0]
    started = await advance(either, first_step(view))
    lease_id = view.run.lease_id
    assert lease_id is not None
    await either.publish([Delta(run_id, lease_id, 1, 1, 0, "Hel"), Delta(run_id, uuid4(), 1, 1, 3, "not ours")])
    await either.publish([Delta(run_id, lease_id, 1, 1, 3, "lo")])

    shown = await being_written(person, run_id)
    await advance(either, after(view, started.revision, FinishStep(1, 1, StepStatus.COMPLETED, output={})))

    assert "".join(delta["text"] for delta in shown) == "Hello"
    assert await being_written(person, run_id) == []


async def test_a_user_may_call_none_of_the_workers_functions(person: Person, database_url: str) -> None:
    async with connect(database_url) as connection:
        rows = await (
            await connection.execute(
                "select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
                " where n.nspname = 'public' and has_function_privilege('service_role', p.oid, 'execute')"
                " and (has_function_privilege('authenticated', p.oid, 'execute')"
                " or has_function_privilege('anon', p.oid, 'execute'))"
            )
        ).fetchall()

    assert rows == []
    with pytest.raises(Exception, match="permission denied"):
        await person.query("select public.claim_runs('me', 1, 15, array['list'])")


def test_a_refusal_of_the_database_is_forbidden() -> None:
    from shared.errors import error_for

    assert isinstance(error_for("42501", "permission denied for table x"), Forbidden)


@pytest.mark.parametrize(
    "leaving", [RunStatus.QUEUED, RunStatus.AWAITING_INPUT, RunStatus.PAUSED], ids=lambda status: status.value
)
@pytest.mark.parametrize(("request_", "becomes"), [("stop", "cancelled"), ("pause", "paused")])
async def test_a_request_that_crosses_an_advance_which_lets_go_is_not_lost(
    either: RunStore, person: Person, database_url: str, leaving: RunStatus, request_: str, becomes: str
) -> None:
    """The person was told that the run stops; the worker did not know it yet when it let go."""
    run_id = await person.queue()
    view = (await claim(either)).views[0]
    started = await advance(either, first_step(view))
    await person.call("control_run", run_id, request_)

    asks = FinishStep(1, 1, StepStatus.RUNNING, waits_for="human", request=HumanRequest("?"))
    answer = await advance(either, after(view, started.revision, asks, status=leaving, available_in=0.0))

    assert answer.status == becomes
    assert (await run_row(database_url, run_id))["status"] == becomes
    await assert_books_balance(database_url, person.id)


async def test_a_batch_that_names_a_run_twice_is_refused(either: RunStore, person: Person) -> None:
    """Else a stale item could ride on the present holder's."""
    await person.queue()
    view = (await claim(either)).views[0]

    with pytest.raises(AppError, match="names each run once"):
        await either.advance([first_step(view), replace(first_step(view), lease_id=uuid4())], lease_seconds=15)


@pytest.mark.parametrize("at", [None, 0, 2, -1])
@pytest.mark.parametrize("part", ["finish", "start", "logs"])
async def test_a_part_of_a_batch_that_belongs_to_none_of_its_runs_is_refused(
    store: RunStore, person: Person, database_url: str, part: str, at: int | None
) -> None:
    run_id = await person.queue()
    view = (await claim(store)).views[0]
    revision = (await store.advance([first_step(view)], lease_seconds=15))[run_id].revision
    records = Records(logs=(NewLog("info", "done"),))
    done = FinishStep(1, 1, StepStatus.COMPLETED, output={}, records=records)
    item = after(view, revision, done, start=(StartStep(2, uuid4(), steps(2)[1]),))
    batch = json.loads(json.dumps(to_batch([item], lease_seconds=15)))
    (entry,) = batch[part]
    entry["at"] = at
    before = await run_row(database_url, run_id)

    async with connect(database_url) as connection:
        with pytest.raises(psycopg.Error):
            await connection.execute("select public.advance_runs(%s)", [json.dumps(batch)])

    assert await run_row(database_url, run_id) == before


async def test_model_output_that_comes_after_its_step_ended_is_dropped(either: RunStore, person: Person) -> None:
    run_id = await person.queue()
    view = (await claim(either)).views[0]
    started = await advance(either, first_step(view))
    await advance(either, after(view, started.revision, FinishStep(1, 1, StepStatus.COMPLETED, output={})))
    assert view.run.lease_id is not None

    await either.publish([Delta(run_id, view.run.lease_id, 1, 1, 0, "late")])

    assert await being_written(person, run_id) == []


async def test_a_long_burst_of_lines_is_broadcast_whole_in_messages_that_realtime_takes(
    either: RunStore, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    view = (await claim(either)).views[0]
    started = await advance(either, first_step(view))
    lines = tuple(NewLog("info", "x" * 8000, {"pad": "y" * 16_000}) for _ in range(30))
    done = FinishStep(1, 1, StepStatus.COMPLETED, output={}, records=Records(logs=lines))
    await advance(either, after(view, started.revision, done, status=RunStatus.COMPLETED))

    async with connect(database_url) as connection:
        rows = await (
            await connection.execute(
                "select payload->'lines', octet_length(payload::text) from realtime.messages"
                " where topic = %s order by inserted_at, payload->'lines'->0->'seq'",
                [f"run:{run_id}"],
            )
        ).fetchall()

    assert [line["seq"] for row in rows for line in row[0]] == list(range(1, 30 + 5))
    assert max(size for _, size in rows) < 250_000


async def test_two_workers_that_top_up_and_end_runs_of_the_same_accounts_do_not_deadlock(
    store: RunStore, database_url: str
) -> None:
    """Each batch draws from one account and ends a run of the other, in opposite order."""
    people = [await new_person(database_url) for _ in range(2)]

    async def worker(owner: str, draws: Person, ends: Person) -> None:
        for _ in range(15):
            drawing, ending = await draws.queue(), await ends.queue()
            views = {view.run.id: view for view in (await claim(store, owner=owner, limit=4)).views}
            if drawing in views and ending in views:
                item = Advance(ending, views[ending].run.lease_id or uuid4(), views[ending].run.revision)
                await store.advance(
                    [first_step(views[drawing], bound=1_500_000), replace(item, status=RunStatus.FAILED)],
                    lease_seconds=15,
                )
            for run_id in (drawing, ending):
                with suppress(psycopg.Error):
                    await (draws if run_id == drawing else ends).call("control_run", run_id, "stop")

    await asyncio.gather(worker("one", *people), worker("two", *reversed(people)))

    for one in people:
        await assert_books_balance(database_url, one.id)
