"""Factories that name a state: people, and runs as people and workers have left them. They call the public API only."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

from psycopg import AsyncConnection

from shared.runs.models import RunId
from shared.runs.store import RunStore
from shared.runs.transitions import Claim

OWNER = "test-worker"
LEASE_SECONDS = 15.0


@asynccontextmanager
async def connect(url: str) -> AsyncGenerator[AsyncConnection[tuple[Any, ...]]]:
    """A superuser's connection in autocommit: the test's own eyes."""
    connection = await AsyncConnection.connect(url, autocommit=True)
    async with connection:
        yield connection


class Person:
    """A signed-in user, speaking to Postgres as PostgREST would for him."""

    def __init__(self, url: str, user_id: UUID) -> None:
        self._url = url
        self.id = user_id

    async def query(self, statement: str, *values: object, role: str = "authenticated") -> list[tuple[Any, ...]]:
        """Run one statement under the person's claims and role."""
        async with await AsyncConnection.connect(self._url) as connection:
            claims = json.dumps({"sub": str(self.id), "role": role})
            await connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
            await connection.execute(f"set local role {role}")
            cursor = await connection.execute(statement, values)
            return [] if cursor.description is None else await cursor.fetchall()

    async def call(self, function: str, *values: object) -> dict[str, Any]:
        """Call a function of the public API with positional arguments."""
        marks = ", ".join("%s" for _ in values)
        return (await self.query(f"select public.{function}({marks})", *values))[0][0]

    async def create(self, *, key: str | None = None, **request: object) -> dict[str, Any]:
        return await self.call("create_run", json.dumps({"engine": "list", "input": {}, **request}), key)

    async def queue(self, **request: object) -> RunId:
        """Create and start a run."""
        answer = await self.create(autostart=True, **request)
        assert answer["status"] == "queued"
        return RunId(UUID(answer["run_id"]))


async def new_person(url: str) -> Person:
    """A user with a personal account and the sign-up credits."""
    user_id = uuid4()
    async with connect(url) as connection:
        await connection.execute(
            "insert into auth.users (id, email) values (%s, %s)", [user_id, f"{user_id.hex[:12]}@example.com"]
        )
    return Person(url, user_id)


async def join(url: str, person: Person, account_id: UUID, role: str) -> None:
    """Make a person a member of an account."""
    async with connect(url) as connection:
        await connection.execute(
            "insert into public.account_members (account_id, user_id, role) values (%s, %s, %s)",
            [account_id, person.id, role],
        )


async def claim(store: RunStore, *, limit: int = 10, owner: str = OWNER, lease_seconds: float = LEASE_SECONDS) -> Claim:
    return await store.claim(owner=owner, limit=limit, lease_seconds=lease_seconds, engines=("list",))


async def run_row(url: str, run_id: UUID) -> dict[str, Any]:
    """The run as the database has it."""
    async with connect(url) as connection:
        cursor = await connection.execute("select to_jsonb(r) from public.agent_runs r where id = %s", [run_id])
        row = await cursor.fetchone()
    assert row is not None
    return row[0]


async def step_rows(url: str, run_id: UUID) -> list[dict[str, Any]]:
    return [
        row[0]
        for row in await _all(
            url, "select to_jsonb(s) from public.agent_steps s where run_id = %s order by step_no", run_id
        )
    ]


async def log_lines(url: str, run_id: UUID) -> list[tuple[int, str, str]]:
    """(seq, log_type, message) in order."""
    statement = "select seq, log_type::text, message from public.agent_task_logs where run_id = %s order by seq"
    return await _all(url, statement, run_id)


async def credit_account(url: str, account_id: UUID) -> dict[str, int]:
    statement = (
        "select jsonb_build_object('available', available, 'held', held, 'spent', spent)"
        " from public.credit_accounts where account_id = %s"
    )
    return (await _all(url, statement, account_id))[0][0]


async def set_available(url: str, account_id: UUID, amount: int) -> None:
    """Give an account exactly this much to spend."""
    async with connect(url) as connection:
        await connection.execute(
            "update public.credit_accounts set available = %s where account_id = %s", [amount, account_id]
        )


async def assert_books_balance(url: str, account_id: UUID) -> None:
    """Every ledger transfer is in the account's row, and open runs hold what the account says is held."""
    rows = await _all(
        url,
        "select (select coalesce(sum(amount) filter (where credit = b), 0)"
        " - coalesce(sum(amount) filter (where debit = b), 0)"
        " from public.credit_ledger l where l.account_id = %s)"
        " from unnest('{available, held, spent}'::public.credit_place[]) b",
        account_id,
    )
    booked = [int(row[0]) for row in rows]
    account = await credit_account(url, account_id)
    open_spent = int(
        (
            await _all(
                url,
                "select coalesce(sum(credits_spent), 0) from public.agent_runs"
                " where account_id = %s and finished_at is null",
                account_id,
            )
        )[0][0]
    )
    # The account's row learns at a run's end what its steps spent.
    assert booked == [account["available"], account["held"] - open_spent, account["spent"] + open_spent]


async def until(condition: Callable[[], Awaitable[object]], *, seconds: float = 20.0) -> object:
    """Ask again and again until the answer is true; fails loudly when it never is."""
    deadline = time.monotonic() + seconds
    while True:
        answer = await condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not true within {seconds} s: {condition}"
        await asyncio.sleep(0.01)


async def until_status(url: str, run_id: UUID, *statuses: str, seconds: float = 20.0) -> dict[str, Any]:
    """The run's row once it has one of these statuses."""

    async def reached() -> dict[str, Any] | None:
        row = await run_row(url, run_id)
        return row if row["status"] in statuses else None

    return await until(reached, seconds=seconds)  # type: ignore[return-value]


async def until_lock_wait(url: str, application_name: str) -> None:
    """Wait until a session of that name waits for a lock: the race is made, not hoped for."""

    async def waits() -> object:
        statement = "select 1 from pg_stat_activity where application_name = %s and wait_event_type = 'Lock'"
        return await _all(url, statement, application_name)

    await until(waits)


async def _all(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    async with connect(url) as connection:
        return await (await connection.execute(statement, values)).fetchall()
