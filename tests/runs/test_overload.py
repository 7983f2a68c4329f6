"""A database at its limits: full, out of connections, slow, locked, read-only, failing at random. No run pays."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from local.migrate import migrate
from local.platform import apply_platform
from local.postgres import EPHEMERAL_SETTINGS, PostgresServer
from local.programs import SYSTEM_USER
from shared import direct_database
from shared.database import Database
from shared.direct_database import DirectDatabase
from shared.errors import AppError, DatabaseUnavailable, UpstreamTimeout, error_for
from shared.runs import advancer
from shared.runs.drain import drain
from shared.runs.engine import Done, Outcome, StepContext
from shared.runs.models import Json, NewArtifact, NewLog, Records, RunId, Step
from shared.runs.open_steps import MAX_UNCOMMITTED
from tests.runs.engines import ListEngine, steps
from tests.runs.working import costs, work_off, working
from tests.support.clock import shift_clock
from tests.support.database import MIGRATIONS_DIR, TestServer
from tests.support.faults import RETRYABLE, Faults
from tests.support.runs import (
    Person,
    assert_books_balance,
    connect,
    log_lines,
    new_person,
    run_row,
    step_rows,
    until,
    until_status,
)
from tests.support.stack import stack_over
from tests.support.wires import GatedDatabase


@pytest.fixture
async def faults(database_url: str) -> Faults:
    faults = Faults(database_url)
    await faults.install()
    return faults


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of a session that a test can wait for."""
    monkeypatch.setattr(direct_database, "LOCK_SECONDS", 0.1)
    monkeypatch.setattr(direct_database, "STATEMENT_SECONDS", 0.5)


async def said(caplog: pytest.LogCaptureFixture, what: str) -> bool:
    return what in caplog.text


async def assert_untouched(url: str, person: Person, run_ids: list[RunId], engine: ListEngine, steps_each: int) -> None:
    """As if nothing had happened: all completed, each step performed once, every line there, every credit booked."""
    rows = [await run_row(url, run_id) for run_id in run_ids]
    assert [(row["status"], row["attempt"]) for row in rows] == [("completed", 0)] * len(run_ids)
    for run_id in run_ids:
        recorded = await step_rows(url, run_id)
        assert [(step["status"], step["attempt"]) for step in recorded] == [("completed", 1)] * steps_each
        lines = await log_lines(url, run_id)
        assert [seq for seq, _, _ in lines] == list(range(1, len(lines) + 1))
    assert Counter(effect_key for _, _, effect_key in engine.performed).most_common(1)[0][1] == 1
    assert len(engine.performed) == steps_each * len(run_ids)
    await assert_books_balance(url, person.id)


class RandomlyLosing:
    """Commits, then loses the reply of one call in five. Not of claims: these cost a lease, which other tests show."""

    def __init__(self, database: Database, seed: int) -> None:
        self._database = database
        self._random = random.Random(seed)  # noqa: S311 - chance, not secrecy

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        answer = await self._database.call(function, arguments)
        if function != "claim_runs" and self._random.random() < 0.2:
            raise DatabaseUnavailable("The reply was lost", details="lost")
        return answer

    async def close(self) -> None:
        await self._database.close()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_failures_and_lost_replies_at_random_lose_nothing_and_repeat_nothing(
    either_wire: Database, person: Person, database_url: str, faults: Faults, seed: int
) -> None:
    """One write in ten fails with some retryable SQLSTATE, and one reply in five is lost after the commit."""
    run_ids = [await person.queue(input={"n": n}) for n in range(6)]
    engine = ListEngine(steps(4, effect="effectful", credits_bound=100), costs(7), width=2)
    await faults.arm(RETRYABLE, chance=0.1, seed=seed)

    async with working(RandomlyLosing(either_wire, seed), engine):
        for run_id in run_ids:
            await until_status(database_url, run_id, "completed", "failed", seconds=120)
    await faults.disarm()

    assert await faults.passes() > 0
    await assert_untouched(database_url, person, run_ids, engine, 4)


@pytest.mark.parametrize("code", RETRYABLE)
def test_every_sqlstate_of_trouble_is_worth_another_try(code: str) -> None:
    error = error_for(code, "secret words of the driver")

    assert isinstance(error, DatabaseUnavailable)
    assert (error.status, error.retryable, error.details) == (503, True, code)
    assert "secret" not in error.message


@pytest.mark.parametrize("code", ["22P02", "23505", "40002", "42501", "42883", "54000", "57000", "XX000", "P0001"])
def test_what_would_fail_again_is_not_worth_another_try(code: str) -> None:
    assert not isinstance(error_for(code, "x"), DatabaseUnavailable)


async def test_trouble_is_the_same_error_over_both_wires(either_wire: Database, faults: Faults, person: Person) -> None:
    await person.queue()
    claim: Mapping[str, Json] = {"p_owner": "me", "p_limit": 1, "p_lease_seconds": 15, "p_engines": ["list"]}
    found = {}
    for code in RETRYABLE:
        await faults.arm([code])
        with pytest.raises(AppError) as caught:
            await either_wire.call("claim_runs", claim)
        await faults.disarm()
        found[code] = (caught.value.code, caught.value.details)

    # Of a backend that was terminated PostgREST knows only that it is gone.
    assert found.pop("57P01") in {("database_unavailable", "57P01"), ("database_unavailable", "PGRST001")}
    assert found == {code: ("database_unavailable", code) for code in RETRYABLE if code != "57P01"}


async def test_a_persons_call_in_trouble_is_answered_as_retryable_and_never_repeated(
    database_url: str, faults: Faults
) -> None:
    """Over HTTP, without an idempotency key: 503, nothing made, and the write came by exactly once."""
    async with stack_over(database_url) as stack:
        visitor = await stack.sign_up()
        create = {"action": "create", "prompt": "Hello"}
        answers = {}
        for code in RETRYABLE:
            await faults.arm([code])
            before = await faults.passes()
            response = await _post(stack.url, visitor.access_token, create)
            answers[code] = (response.status_code, response.json()["retryable"], await faults.passes() - before)
            await faults.disarm()
        async with connect(database_url) as connection:
            made = await (await connection.execute("select count(*) from public.agent_runs")).fetchone()
        created = await _post(stack.url, visitor.access_token, create)

    assert answers == dict.fromkeys(RETRYABLE, (503, True, 1))
    assert made == (0,)
    assert created.status_code == 201


async def _post(url: str, token: str, body: Mapping[str, object]) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.post(
            f"{url}/functions/v1/agent-execute", json=body, headers={"Authorization": f"Bearer {token}"}
        )


# -- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(data_dir: Path) -> Iterator[Path]:
    """A disk of its own that PostgreSQL may write to."""
    folder = data_dir.parent / "small"
    folder.mkdir()
    data_dir.parent.chmod(0o755)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)], check=False, capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        (folder / "space").mkdir()
        shutil.chown(folder / "space", SYSTEM_USER, SYSTEM_USER)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def cramped_database(small_disk: Path, database_server: TestServer, database_url: str) -> Iterator[str]:
    """The test's database, moved to the small disk; the log of writes stays where there is room."""
    name = str(psycopg.conninfo.conninfo_to_dict(database_url)["dbname"])
    with psycopg.connect(database_server.url(), autocommit=True) as admin:
        admin.execute(f"create tablespace {name}_space location '{small_disk / 'space'}'")
        admin.execute(f"alter database {name} set tablespace {name}_space")
        try:
            yield database_url
        finally:
            database_server.drop(database_url)
            admin.execute(f"drop tablespace {name}_space")


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


async def test_a_full_disk_stops_the_runs_and_space_lets_them_go_on(
    cramped_database: str, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    person = await new_person(cramped_database)
    run_ids = [await person.queue() for _ in range(3)]
    begun, full = asyncio.Barrier(4), asyncio.Event()

    async def bulky(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        if step.key == "s1":
            await begun.wait()
            await full.wait()
        noise = os.urandom(200_000).hex()  # does not compress away
        return Done({"noise": noise}, Records(logs=(NewLog("info", noise[:8000]),)), credits=7)

    engine = ListEngine(steps(3, effect="effectful", credits_bound=100), bulky)
    async with DirectDatabase(cramped_database) as database, working(database, engine):
        await begun.wait()
        ballast = fill(small_disk)
        full.set()
        await until(lambda: said(caplog, "reason=53100"))
        stuck = [await run_row(cramped_database, run_id) for run_id in run_ids]
        ballast.unlink()
        for run_id in run_ids:
            await until_status(cramped_database, run_id, "completed", "failed")

    assert {row["status"] for row in stuck} <= {"queued", "planning", "executing"}
    await assert_untouched(cramped_database, person, run_ids, engine, 3)


# -- no connection left -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def every_connection_taken(url: str) -> AsyncGenerator[None]:
    held: list[psycopg.AsyncConnection] = []
    try:
        while True:
            try:
                held.append(await psycopg.AsyncConnection.connect(url, autocommit=True))
            except psycopg.OperationalError:
                cursor = await held[0].execute(
                    "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                    " where backend_type in ('client backend', 'walsender') and not pid = any (%s)",
                    [[connection.info.backend_pid for connection in held]],
                )
                if await cursor.fetchone() == (0,):
                    break
        yield
    finally:
        for connection in held:
            await connection.close()


async def test_without_a_free_connection_runs_wait_and_people_are_told_to_come_again(
    data_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_database, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(
        "local.services.AsyncConnectionPool",
        lambda *args, **options: AsyncConnectionPool(*args, **{**options, "timeout": 0.5}),
    )
    server = PostgresServer(data_dir, settings={**EPHEMERAL_SETTINGS, "max_connections": "25", "max_wal_senders": "5"})
    await asyncio.to_thread(server.start)
    try:
        await apply_platform(server.url)
        await migrate(server.url, MIGRATIONS_DIR)
        person = await new_person(server.url)
        run_id = await person.queue()
        in_second, taken = asyncio.Event(), asyncio.Event()

        async def through_it(step: Step, ctx: StepContext) -> Outcome:
            del ctx
            if step.key == "s2":
                in_second.set()
                await taken.wait()
            return Done(credits=7)

        engine = ListEngine(steps(3, effect="effectful", credits_bound=100), through_it)
        async with stack_over(server.url) as stack, DirectDatabase(server.url) as database, working(database, engine):
            visitor = await stack.sign_up()
            await in_second.wait()
            async with every_connection_taken(server.url):
                taken.set()
                await until(lambda: said(caplog, "advance.unavailable"))
                response = await _post(stack.url, visitor.access_token, {"action": "create", "prompt": "Hello"})
            await until_status(server.url, run_id, "completed", "failed")

        assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")
        assert response.json()["retryable"] is True
        await assert_untouched(server.url, person, [run_id], engine, 3)
    finally:
        await asyncio.to_thread(server.stop, immediate=True)


# -- locks, time, rights ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
async def test_a_run_that_somebody_has_locked_waits_alone(
    person: Person, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its item shares a call with the others; they commit, and it wins when it is let go."""
    run_ids = [await person.queue() for _ in range(12)]
    met = asyncio.Barrier(13)

    async def together(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        if step.key == "s1":
            await met.wait()
        return Done(credits=7)

    engine = ListEngine(steps(2, effect="effectful", credits_bound=100), together)
    async with DirectDatabase(database_url) as database, working(database, engine):
        async with connect(database_url) as connection, connection.transaction():
            await until(lambda: _waits_for(met, 12))
            await connection.execute("select from public.agent_runs where id = %s for update", [run_ids[5]])
            await met.wait()
            for run_id in run_ids[:5] + run_ids[6:]:
                await until_status(database_url, run_id, "completed", "failed")
            await until(lambda: said(caplog, f"advance.aside run_id={run_ids[5]}"))
        await until_status(database_url, run_ids[5], "completed", "failed")

    await assert_untouched(database_url, person, run_ids, engine, 2)


async def _waits_for(barrier: asyncio.Barrier, parties: int) -> bool:
    return barrier.n_waiting >= parties


@pytest.mark.usefixtures("impatient")
async def test_a_locked_table_stops_the_runs_until_it_is_let_go(
    person: Person, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    run_ids = [await person.queue() for _ in range(3)]
    engine = ListEngine(steps(2, effect="effectful", credits_bound=100), costs(7))
    async with DirectDatabase(database_url) as database, working(database, engine):
        async with connect(database_url) as connection, connection.transaction():
            await connection.execute("lock table public.agent_steps in exclusive mode")
            await until(lambda: said(caplog, "advance.aside"))
        for run_id in run_ids:
            await until_status(database_url, run_id, "completed", "failed")

    await assert_untouched(database_url, person, run_ids, engine, 2)


@pytest.mark.usefixtures("impatient")
async def test_an_item_too_slow_for_a_database_that_serves_others_fails_its_step_alone(
    person: Person, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advancer, "ASIDE_TRIES", 2)
    bad, good = await person.queue(input={"bad": True}), await person.queue()
    async with connect(database_url) as connection:
        await connection.execute("""
            create function private.dawdle() returns trigger language plpgsql as $$
              begin perform pg_sleep(10) where new.output ? 'slow'; return new; end $$;
            create trigger dawdle before update on public.agent_steps for each row execute function private.dawdle()""")
    both = asyncio.Barrier(2)

    async def perform(step: Step, ctx: StepContext) -> Outcome:
        await both.wait()
        return Done({"slow": True} if ctx.run.input.get("bad") else {})

    async with DirectDatabase(database_url) as database:
        await work_off(database, ListEngine(steps(1), perform))

    row = await run_row(database_url, bad)
    assert (row["status"], row["error"]["code"]) == ("failed", "unstorable")
    assert (await run_row(database_url, good))["status"] == "completed"


@pytest.mark.parametrize(
    ("break_", "mend"),
    [
        (
            "revoke execute on function public.advance_runs(jsonb) from service_role",
            "grant execute on function public.advance_runs(jsonb) to service_role",
        ),
        (
            # Called by its name. The one that the wrapper calls may be renamed: it is known by its number there.
            "alter function private.clock() rename to clock_of_yesterday",
            "alter function private.clock_of_yesterday() rename to clock",
        ),
        (
            "alter function public.advance_runs(jsonb) rename to advance_runs_of_yesterday",
            "alter function public.advance_runs_of_yesterday(jsonb) rename to advance_runs",
        ),
        (
            "alter database {} set default_transaction_read_only = on",
            "alter database {} reset default_transaction_read_only",
        ),
    ],
    ids=["no right", "inner function gone", "function gone", "read-only"],
)
async def test_a_database_that_refuses_every_advance_is_waited_for_and_no_run_pays(
    person: Person, database_url: str, caplog: pytest.LogCaptureFixture, break_: str, mend: str
) -> None:
    """As in the middle of a deployment, or after a failover."""
    name = str(psycopg.conninfo.conninfo_to_dict(database_url)["dbname"])
    run_ids = [await person.queue() for _ in range(3)]
    begun, broken = asyncio.Event(), asyncio.Event()

    async def perform(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        begun.set()
        await broken.wait()
        return Done(credits=7)

    engine = ListEngine(steps(2, effect="effectful", credits_bound=100), perform)
    async with DirectDatabase(database_url) as database, working(database, engine):
        await begun.wait()
        async with connect(database_url) as connection:
            await connection.execute(break_.format(name))
            await connection.execute("set default_transaction_read_only = off")
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'runbase'"
                " and datname = current_database()"
            )
            broken.set()
            await until(lambda: said(caplog, "advance.unavailable"))
            await connection.execute(mend.format(name))
        for run_id in run_ids:
            await until_status(database_url, run_id, "completed", "failed")

    await assert_untouched(database_url, person, run_ids, engine, 2)


# -- what steps and their results meet --------------------------------------------------------------------------------


async def test_a_step_that_reads_while_the_database_is_away_waits_for_it(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    class AwayTwice:
        away = 2

        async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
            if function == "load_artifacts" and self.away:
                self.away -= 1
                raise DatabaseUnavailable("The database does not answer")
            return await database.call(function, arguments)

        async def close(self) -> None: ...

    async def perform(step: Step, ctx: StepContext) -> Outcome:
        if step.key == "s1":
            return Done(records=Records(artifacts=(NewArtifact("tea.txt", "Earl Grey"),)))
        return Done({"read": (await ctx.artifacts(("tea.txt",)))["tea.txt"].content})

    run_id = await person.queue()
    engine = ListEngine(steps(2, effect="effectful"), perform)
    await work_off(AwayTwice(), engine)

    assert (await step_rows(database_url, run_id))[1]["output"] == {"read": "Earl Grey"}
    assert len(engine.performed) == 2


@pytest.mark.parametrize("raised", [UpstreamTimeout("No answer"), DatabaseUnavailable("Gone"), TimeoutError()])
async def test_an_effectful_step_that_was_not_answered_is_never_performed_again(
    database: DirectDatabase, person: Person, database_url: str, raised: Exception
) -> None:
    async def perform(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        raise raised

    run_id = await person.queue()
    engine = ListEngine(steps(1, effect="effectful"), perform)
    await work_off(database, engine)

    assert (await run_row(database_url, run_id))["error"]["code"] == "outcome_unknown"
    assert len(engine.performed) == 1


async def test_a_run_faster_than_the_database_waits_for_it_and_keeps_few_results(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    """A hundred steps are open; while nothing can be committed, no more of them are performed than fit."""
    run_id = await person.queue()
    gated = GatedDatabase(database, "advance_runs")
    gated.gate.set()

    async def perform(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        gated.gate.clear()
        return Done()

    engine = ListEngine(steps(100), perform, width=100)
    async with working(gated, engine) as worker:
        await until(lambda: _performed(engine, MAX_UNCOMMITTED))
        await asyncio.sleep(0)  # whoever could go on has had a turn
        held = len(engine.performed)
        while (await run_row(database_url, run_id))["status"] != "completed":
            gated.gate.set()
            await asyncio.sleep(0.01)

    assert held <= MAX_UNCOMMITTED + worker.parallel_steps
    assert len(engine.performed) == 100


async def _performed(engine: ListEngine, count: int) -> bool:
    return len(engine.performed) >= count


async def test_a_drain_whose_database_takes_nothing_ends_in_its_time_and_the_run_goes_on_elsewhere(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    """The host would end it by force: better to end by itself, with an answer."""
    run_id = await person.queue()
    gated = GatedDatabase(database, "advance_runs")
    engine = ListEngine(steps(2, timeout_seconds=0.1))

    tally = await drain(gated, {"list": engine}, seconds=1.5)

    assert tally.claimed == 1
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=16)
    await work_off(database, engine)
    assert (await run_row(database_url, run_id))["status"] == "completed"
