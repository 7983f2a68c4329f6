"""One database for all examples of the state machine: emptied between them, with two people and a clock of its own.

Alice has plenty of credits and Bob has few. Everything goes through the API: people as `authenticated`, workers as
`service_role`; only the eyes of the test and its clock are a superuser's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, Self, TypeVar
from uuid import UUID, uuid4

import psycopg
from psycopg import AsyncConnection

from shared.direct_database import DirectDatabase
from shared.runs.store import RunStore
from tests.support.clock import shift_clock

T = TypeVar("T")

CREDITS = {"alice": 50_000_000, "bob": 1_300_000}
_EMPTY = """
truncate public.agent_runs, public.agent_steps, public.agent_plans, public.agent_messages, public.agent_artifacts,
  public.agent_task_logs, public.human_requests, public.credit_ledger, private.idempotency_keys, private.step_deltas,
  private.run_snapshots
"""
# An example must be able to happen again exactly: time stands still between the jumps, and ids count up.
_REPEATABLE = """
create sequence private.test_run_ids;
alter table public.agent_runs alter column id
  set default lpad(to_hex(nextval('private.test_run_ids')), 32, '0')::uuid;
create or replace function private.clock() returns timestamptz language sql volatile security definer
  set search_path = '' as $$ select timestamptz '2030-01-01 00:00:00+00' + shift from private.clock_shift $$;
"""
_RESTART = "alter sequence private.test_run_ids restart; update private.clock_shift set shift = '0'"


class Refused(Exception):  # noqa: N818 - an answer, not an accident
    """The API said no, by one of its own codes."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Person:
    """A signed-in user with a session of his own."""

    def __init__(self, name: str, connection: AsyncConnection[Any]) -> None:
        self.name = name
        self.id: UUID = uuid4()
        self._connection = connection

    async def sign_in(self, user_id: UUID) -> None:
        self.id = user_id
        claims = json.dumps({"sub": str(user_id), "role": "authenticated"})
        await self._connection.execute("select set_config('request.jwt.claims', %s, false)", [claims])

    async def call(self, function: str, *values: object) -> dict[str, Any]:
        """Call the public API.

        Raises:
            Refused: with the API's own code. Any other error of the database is a bug and goes through.
        """
        marks = ", ".join("%s" for _ in values)
        try:
            cursor = await self._connection.execute(f"select public.{function}({marks})", values)
            row = await cursor.fetchone()
        except psycopg.Error as error:
            if error.sqlstate is None or not error.sqlstate.startswith("RUN"):
                raise
            raise Refused(error.sqlstate) from error
        assert row is not None
        return row[0]


class World:
    """The database and everybody who is connected to it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._runner = asyncio.Runner()
        self._database = DirectDatabase(url)
        self._eyes: AsyncConnection[Any]
        self.store = RunStore(self._database)
        self.people: dict[str, Person] = {}
        self.shifted = 0.0
        """Seconds by which the database's clock was moved in this example."""

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    def __enter__(self) -> Self:
        self._runner.__enter__()
        self.run(self._open())
        return self

    def __exit__(self, *exc: object) -> None:
        self.run(self._close())
        self._runner.__exit__(None, None, None)

    async def _open(self) -> None:
        await self._database.open()
        self._eyes = await AsyncConnection.connect(self._url, autocommit=True)
        await self._eyes.execute(_REPEATABLE)
        for name in CREDITS:
            connection = await AsyncConnection.connect(self._url, autocommit=True)
            await connection.execute("set role authenticated")
            self.people[name] = Person(name, connection)

    async def _close(self) -> None:
        for person in self.people.values():
            await person._connection.close()
        await self._eyes.close()
        await self._database.close()

    async def reset(self) -> None:
        """Forget all runs, set the clock back, and let two new people sign up."""
        await self._eyes.execute(_EMPTY)
        await self._eyes.execute(_RESTART)
        self.shifted = 0.0
        for name, person in self.people.items():
            await self._eyes.execute("update private.settings set sign_up_credits = %s", [CREDITS[name]])
            user_id = uuid4()
            await self._eyes.execute(
                "insert into auth.users (id, email) values (%s, %s)", [user_id, f"{user_id.hex}@example.com"]
            )
            await person.sign_in(user_id)

    async def jump(self, seconds: float) -> None:
        await shift_clock(self._eyes, seconds=seconds)
        self.shifted += seconds

    async def lose_snapshots(self) -> None:
        """As a restart of Postgres after a crash does: their table is unlogged."""
        await self._eyes.execute("truncate private.run_snapshots")

    async def grant(self, person: Person, amount: int) -> None:
        await self._eyes.execute("select public.grant_credits(%s, %s)", [person.id, amount])

    async def see(self, statement: str, *values: object) -> Any:
        """The one value of a statement, read by the superuser."""
        row = await (await self._eyes.execute(statement, values)).fetchone()
        assert row is not None
        return row[0]
