"""What people may do with runs, called as PostgREST calls for them: their claims, their role, row-level security."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from shared.runs.engine import HumanRequest
from shared.runs.status import RunStatus, StepStatus
from shared.runs.store import Advance, FinishStep, RunStore, StartStep
from tests.runs.engines import steps
from tests.support.clock import shift_clock
from tests.support.runs import (
    Person,
    assert_books_balance,
    claim,
    connect,
    credit_account,
    join,
    log_lines,
    new_person,
    run_row,
    set_available,
    step_rows,
    until_lock_wait,
)


async def refused(call: Any) -> str:
    """The SQLSTATE with which a call is refused."""
    with pytest.raises(psycopg.Error) as caught:
        await call
    assert caught.value.sqlstate is not None
    return caught.value.sqlstate


async def waiting_run(store: RunStore, person: Person, *, options: tuple[str, ...] = ()) -> UUID:
    """A run that asked its person a question in step 1 and let go of its worker."""
    run_id = await person.queue()
    view = next(view for view in (await claim(store)).views if view.run.id == run_id)
    assert view.run.lease_id is not None
    start = StartStep(1, uuid4(), steps(1)[0])
    first = Advance(run_id, view.run.lease_id, view.run.revision, start=(start,), status=RunStatus.EXECUTING)
    started = (await store.advance([first], lease_seconds=15))[run_id]
    asks = FinishStep(1, 1, StepStatus.RUNNING, waits_for="human", request=HumanRequest("Which tea?", options=options))
    wait = Advance(run_id, view.run.lease_id, started.revision, finish=(asks,), status=RunStatus.AWAITING_INPUT)
    await store.advance([wait], lease_seconds=15)
    return run_id


async def test_a_created_run_costs_nothing_until_it_is_started(person: Person, database_url: str) -> None:
    run = await person.create()

    assert (run["status"], run["revision"], run["created"]) == ("created", 1, True)
    assert (await credit_account(database_url, person.id))["held"] == 0


async def test_start_takes_the_hold_and_queues(person: Person, database_url: str) -> None:
    run = await person.create()

    started = await person.call("start_run", run["run_id"])

    assert started["status"] == "queued"
    assert (await credit_account(database_url, person.id))["held"] == 1_000_000
    await assert_books_balance(database_url, person.id)


async def test_starting_twice_says_what_the_run_is(person: Person) -> None:
    run_id = await person.queue()

    with pytest.raises(psycopg.Error, match="already started: it is queued") as caught:
        await person.call("start_run", run_id)

    assert caught.value.sqlstate == "RUN02"


async def test_two_starts_at_once_have_one_winner(person: Person, database_url: str) -> None:
    """The race is made: both wait for the row that the test holds."""
    run_id = (await person.create())["run_id"]
    async with connect(database_url) as holder, holder.transaction():
        await holder.execute("select from public.agent_runs where id = %s for update", [run_id])
        rivals = [asyncio.create_task(person.call("start_run", run_id)) for _ in range(2)]
        await until_lock_wait(database_url, "")
    answers = await asyncio.gather(*rivals, return_exceptions=True)

    assert sorted(type(answer).__name__ for answer in answers) == ["DatabaseError", "dict"]
    await assert_books_balance(database_url, person.id)


async def test_without_credits_a_run_does_not_start(person: Person, database_url: str) -> None:
    run = await person.create()
    await set_available(database_url, person.id, 0)

    assert await refused(person.call("start_run", run["run_id"])) == "RUN10"
    assert (await run_row(database_url, UUID(run["run_id"])))["status"] == "created"


async def test_the_same_idempotency_key_returns_the_first_run(person: Person) -> None:
    first = await person.create(key="order-1", input={"n": 1})
    second = await person.create(key="order-1", input={"n": 1})

    assert (first["created"], second["created"]) == (True, False)
    assert first["run_id"] == second["run_id"]


async def test_the_same_key_with_another_request_is_a_conflict(person: Person) -> None:
    await person.create(key="order-1", input={"n": 1})

    assert await refused(person.create(key="order-1", input={"n": 2})) == "RUN05"


async def test_many_creates_with_one_key_at_once_make_one_run(person: Person) -> None:
    answers = await asyncio.gather(*(person.create(key="burst") for _ in range(8)))

    assert len({answer["run_id"] for answer in answers}) == 1
    assert sum(answer["created"] for answer in answers) == 1


async def test_keys_of_two_accounts_do_not_meet(person: Person, database_url: str) -> None:
    other = await new_person(database_url)

    one, two = await person.create(key="same"), await other.create(key="same")

    assert one["run_id"] != two["run_id"]


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ({"input": []}, "input must be an object"),
        ({"engine": "No Such"}, "engine"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_steps": "many"}, "max_steps"),
        ({"timeout_seconds": -1}, "timeout_seconds"),
        ({"max_credits": 0}, "max_credits"),
        ({"account_id": "mine"}, "account_id"),
        ({"status": "completed"}, "unknown field 'status'"),
        ({"input": {"text": "x" * 300_000}}, "262144 bytes"),
        ({"input": {"deep": json.loads("[" * 40 + "]" * 40)}}, "nested more than 32 deep"),
    ],
)
async def test_bad_input_to_create_names_the_field(person: Person, request_: dict[str, object], named: str) -> None:
    with pytest.raises(psycopg.Error, match=named) as caught:
        await person.create(**request_)

    assert caught.value.sqlstate == "RUN07"


async def test_stopping_an_unleased_run_ends_it_at_once_and_returns_the_hold(person: Person, database_url: str) -> None:
    run_id = await person.queue()

    answer = await person.call("control_run", run_id, "stop")

    assert answer["status"] == "cancelled"
    assert "stopping" not in answer
    assert (await credit_account(database_url, person.id))["held"] == 0
    await assert_books_balance(database_url, person.id)


async def test_a_finished_run_says_so_to_every_action(person: Person) -> None:
    run_id = await person.queue()
    await person.call("control_run", run_id, "stop")

    assert await refused(person.call("control_run", run_id, "stop")) == "RUN04"
    assert await refused(person.call("control_run", run_id, "pause")) == "RUN04"
    assert await refused(person.call("start_run", run_id)) == "RUN04"
    assert await refused(person.call("respond_run", run_id, json.dumps("x"))) == "RUN04"


async def test_a_stale_revision_is_refused_with_the_present_one(person: Person) -> None:
    run_id = await person.queue()

    with pytest.raises(psycopg.Error, match="is at revision 2 and queued, not at revision 1") as caught:
        await person.call("control_run", run_id, "pause", 1)

    assert caught.value.sqlstate == "RUN03"


async def test_a_paused_run_waits_and_its_deadline_moves_by_the_pause(
    store: RunStore, person: Person, database_url: str
) -> None:
    run_id = await person.queue(timeout_seconds=100)
    await person.call("control_run", run_id, "pause")
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=1000)
    assert (await claim(store)).views == ()

    await person.call("control_run", run_id, "resume")

    view = (await claim(store)).views[0]
    assert 90 < view.run.remaining_seconds <= 100


async def test_pausing_a_leased_run_only_marks_it_and_resume_takes_the_mark_back(
    store: RunStore, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    await claim(store)

    paused = await person.call("control_run", run_id, "pause")
    assert (paused["status"], paused["pausing"]) == ("planning", True)
    await person.call("control_run", run_id, "resume")

    assert (await run_row(database_url, run_id))["pause_requested_at"] is None


async def test_a_run_that_is_not_paused_cannot_resume(person: Person) -> None:
    run_id = await person.queue()

    assert await refused(person.call("control_run", run_id, "resume")) == "RUN02"


async def test_an_answer_completes_the_step_that_asked_and_wakes_the_run(
    store: RunStore, person: Person, database_url: str
) -> None:
    run_id = await waiting_run(store, person)

    answer = await person.call("respond_run", run_id, json.dumps("Earl Grey"))

    assert answer["status"] == "queued"
    step = (await step_rows(database_url, run_id))[0]
    assert (step["status"], step["output"]) == ("completed", {"response": "Earl Grey"})
    view = (await claim(store)).views[0]
    assert view.results[0].messages[0].content == [{"type": "text", "text": "Earl Grey"}]


async def test_an_answer_outside_the_options_is_refused(store: RunStore, person: Person) -> None:
    run_id = await waiting_run(store, person, options=("green", "black"))

    assert await refused(person.call("respond_run", run_id, json.dumps("coffee"))) == "RUN07"
    assert (await person.call("respond_run", run_id, json.dumps("green")))["status"] == "queued"


async def test_a_question_is_answered_once(store: RunStore, person: Person) -> None:
    run_id = await waiting_run(store, person)
    await person.call("respond_run", run_id, json.dumps("first"))

    assert await refused(person.call("respond_run", run_id, json.dumps("second"))) == "RUN08"


async def test_a_repeated_answer_under_one_key_is_the_first_answer(store: RunStore, person: Person) -> None:
    run_id = await waiting_run(store, person)

    first = await person.call("respond_run", run_id, json.dumps("tea"), None, "answer-1")
    second = await person.call("respond_run", run_id, json.dumps("tea"), None, "answer-1")

    assert first == second


async def test_stopping_a_waiting_run_cancels_its_question(store: RunStore, person: Person, database_url: str) -> None:
    run_id = await waiting_run(store, person)

    await person.call("control_run", run_id, "stop")

    rows = await person.query("select status from public.human_requests where run_id = %s", run_id)
    assert rows == [("cancelled",)]
    assert (await step_rows(database_url, run_id))[0]["status"] == "cancelled"


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


async def test_a_strangers_run_does_not_exist(person: Person, database_url: str) -> None:
    run_id = await person.queue()
    stranger = await new_person(database_url)

    for function, *arguments in (
        ("start_run", run_id),
        ("control_run", run_id, "stop"),
        ("retry_run", run_id),
        ("respond_run", run_id, json.dumps("x")),
    ):
        assert await refused(stranger.call(function, *arguments)) == "RUN01"
    assert await stranger.call("run_deltas", run_id) == []


TABLES = [
    "agent_runs",
    "agent_steps",
    "agent_plans",
    "agent_messages",
    "agent_artifacts",
    "agent_task_logs",
    "human_requests",
    "accounts",
    "account_members",
    "credit_accounts",
    "credit_ledger",
]


@pytest.mark.parametrize("table", TABLES)
async def test_a_stranger_reads_nothing_of_anybody_and_the_owner_his_own(
    store: RunStore, person: Person, database_url: str, table: str
) -> None:
    """Non-vacuous: the table holds rows of the owner while the stranger asks."""
    await _furnished_run(store, person)
    stranger = await new_person(database_url)
    column = "id" if table == "accounts" else "account_id"

    assert await person.query(f"select 1 from public.{table} where {column} = %s", person.id) != []
    assert await stranger.query(f"select 1 from public.{table} where {column} = %s", person.id) == []
    assert await refused(person.query(f"select 1 from public.{table}", role="anon")) == "42501"


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "statement", ["delete from public.{}", "update public.{} set {} = {}", "insert into public.{} default values"]
)
@pytest.mark.parametrize("role", ["authenticated", "service_role", "anon"])
async def test_nobody_writes_to_a_table_by_himself(person: Person, table: str, statement: str, role: str) -> None:
    column = "id" if table == "accounts" else "account_id"

    assert await refused(person.query(statement.format(table, column, column), role=role)) == "42501"


async def test_no_api_role_reaches_the_private_schema(person: Person) -> None:
    for role in ("anon", "authenticated", "service_role"):
        assert await refused(person.query("select * from private.settings", role=role)) == "42501"
        assert await refused(person.query("select private.close_runs('{}')", role=role)) == "42501"


@pytest.mark.parametrize(
    ("role", "reads", "creates", "controls_own", "controls_others"),
    [
        ("viewer", True, False, False, False),
        ("member", True, True, True, False),
        ("admin", True, True, True, True),
        ("owner", True, True, True, True),
    ],
)
async def test_roles_in_an_account(
    person: Person,
    database_url: str,
    role: str,
    *,
    reads: bool,
    creates: bool,
    controls_own: bool,
    controls_others: bool,
) -> None:
    run_id = await person.queue()
    guest = await new_person(database_url)
    await join(database_url, guest, person.id, role)

    assert bool(await guest.query("select 1 from public.agent_runs where id = %s", run_id)) is reads
    assert await _may(guest.create(account_id=str(person.id))) is creates
    if creates:
        own = await guest.create(account_id=str(person.id))
        assert await _may(guest.call("control_run", own["run_id"], "stop")) is controls_own
    assert await _may(guest.call("control_run", run_id, "stop")) is controls_others


async def test_every_line_is_kept_in_order_without_gaps(store: RunStore, person: Person, database_url: str) -> None:
    run_id = await waiting_run(store, person)
    await person.call("control_run", run_id, "pause")
    await person.call("control_run", run_id, "resume")
    await person.call("respond_run", run_id, json.dumps("x"))
    await person.call("control_run", run_id, "stop")

    lines = await log_lines(database_url, run_id)

    assert [line[0] for line in lines] == list(range(1, len(lines) + 1))


async def test_row_level_security_is_on_everywhere_and_no_definer_function_is_exposed(database_url: str) -> None:
    async with connect(database_url) as connection:
        unprotected = await (
            await connection.execute(
                "select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
                " where n.nspname in ('public', 'private') and c.relkind = 'r' and not c.relrowsecurity"
                " and c.relname <> 'clock_shift'"
            )
        ).fetchall()
        definers = await (
            await connection.execute(
                "select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
                " where n.nspname = 'public' and p.prosecdef"
            )
        ).fetchall()
        unpinned = await (
            await connection.execute(
                "select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
                " where n.nspname in ('public', 'private')"
                " and not coalesce(p.proconfig, '{}') && array['search_path=\"\"']"
            )
        ).fetchall()

    assert (unprotected, definers, unpinned) == ([], [], [])


async def _may(call: Any) -> bool:
    try:
        await call
    except psycopg.Error as error:
        if error.sqlstate != "RUN06":
            raise
        return False
    return True


async def _furnished_run(store: RunStore, person: Person) -> None:
    from shared.runs.models import NewArtifact, NewMessage, NewPlan, Records

    run_id = await waiting_run(store, person)
    await person.call("respond_run", run_id, json.dumps("x"))
    view = (await claim(store)).views[0]
    assert view.run.lease_id is not None
    start = Advance(run_id, view.run.lease_id, view.run.revision, start=(StartStep(2, uuid4(), steps(2)[1]),))
    revision = (await store.advance([start], lease_seconds=15))[run_id].revision
    records = Records(
        messages=(NewMessage("assistant", []),), artifacts=(NewArtifact("a", "b"),), plans=(NewPlan("goal", []),)
    )
    done = FinishStep(2, 1, StepStatus.COMPLETED, output={}, records=records)
    await store.advance([Advance(run_id, view.run.lease_id, revision, finish=(done,))], lease_seconds=15)


async def test_a_number_that_no_worker_could_read_back_is_refused(person: Person) -> None:
    """Jsonb takes 1e400, parsers of doubles do not: a run with it could never be claimed."""
    with pytest.raises(psycopg.Error, match="beyond 1e308") as caught:
        await person.call("create_run", '{"engine": "list", "input": {"n": [1e400]}}')

    assert caught.value.sqlstate == "RUN07"


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


async def test_beats_and_deltas_of_nothing_ask_nobody(store: RunStore) -> None:
    assert await store.heartbeat({}, lease_seconds=15) == []
    await store.publish([])
    await store.flush_logs([])
