"""One database for all examples of the state machine: emptied between them, with its own people and its own clock.

Alice has plenty of credits and Bob has few; Alice owns a team in which Bob is a member, and Carol is alone and may do
little a minute. Their accounts have few places, so that runs are held. Everything goes through the API: people as
`authenticated`, workers as `service_role`; only operators, the eyes of the test and its clock are a superuser's.
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
from tests.support.agents import PUBLISHED_AGENT
from tests.support.clock import shift_clock

T = TypeVar("T")

CREDITS = {"alice": 50_000_000, "bob": 1_300_000, "carol": 50_000_000}
TEAM_CREDITS = 20_000_000
A_MINUTE = 2  # creates and starts that Carol's tier lets in a minute
TIERS = {"alice": "three", "bob": "two", "carol": "slow", "team": "two"}
_TIERS = f"""
insert into private.tiers values ('two', 2, 1, 1000, 1000, 1000), ('three', 3, 4, 1000, 1000, 1000),
  ('one', 1, 1, 1000, 1000, 1000), ('slow', 2, 1, {A_MINUTE}, {A_MINUTE}, 1000)
"""
_EMPTY = """
truncate public.agent_runs, public.agent_steps, public.agent_plans, public.agent_messages, public.agent_artifacts,
  public.agent_task_logs, public.human_requests, public.credit_ledger, private.idempotency_keys, private.step_deltas,
  private.run_snapshots, private.slots, private.rate_limits, public.agents, public.agent_versions, public.agent_access
  restart identity
"""
# An example must be able to happen again exactly: time stands still between the jumps, and ids count up.
_REPEATABLE = """
create sequence private.test_run_ids;
alter table public.agent_runs alter column id
  set default lpad(to_hex(nextval('private.test_run_ids')), 32, '0')::uuid;
create or replace function private.clock() returns timestamptz language sql volatile security definer
  set search_path = '' as $$ select timestamptz '2030-01-01 00:00:00+00' + shift from private.clock_shift $$;
"""
_RESTART = """
alter sequence private.test_run_ids restart;
alter sequence private.fair_time restart;
update private.clock_shift set shift = '0'
"""


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
        self.team: UUID
        self.agent: str
        """An agent of the team's; one run of it goes on at a time."""
        self.passed = 0.0
        """Seconds that passed in this example, as a clock counts them that nobody sets back."""

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
        await self._eyes.execute(_TIERS)
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
        """Forget all runs, set the clock back, and let new people sign up."""
        await self._eyes.execute(_EMPTY)
        await self._eyes.execute(_RESTART)
        self.passed = 0.0
        for name, person in self.people.items():
            await self._credits_at_sign_up(CREDITS[name])
            user_id = uuid4()
            await self._eyes.execute(
                "insert into auth.users (id, email) values (%s, %s)", [user_id, f"{user_id.hex}@example.com"]
            )
            await person.sign_in(user_id)
        await self._credits_at_sign_up(TEAM_CREDITS)
        self.team = await self.see("insert into public.accounts (kind, name) values ('organisation', 'T') returning id")
        for name, role in (("alice", "owner"), ("bob", "member")):
            await self._eyes.execute(
                "insert into public.account_members (account_id, user_id, role) values (%s, %s, %s)",
                [self.team, self.people[name].id, role],
            )
        for name, tier in TIERS.items():
            await self.set_tier(name, tier)
        self.agent = await self.see(
            PUBLISHED_AGENT,
            self.team,
            1,
        )

    async def _credits_at_sign_up(self, amount: int) -> None:
        await self._eyes.execute("update private.settings set sign_up_credits = %s", [amount])

    @property
    def accounts(self) -> dict[str, UUID]:
        """Every account by the name of its person, and the team's."""
        return {**{name: person.id for name, person in self.people.items()}, "team": self.team}

    async def set_tier(self, account: str, tier: str) -> None:
        await self._eyes.execute("select public.set_tier(%s, %s)", [self.accounts[account], tier])

    async def limit_agent(self, places: int | None) -> None:
        await self._eyes.execute("update public.agents set max_concurrent_runs = %s", [places])

    async def jump(self, seconds: float) -> None:
        """Move the database's clock; back, if negative, as when another server takes over."""
        await shift_clock(self._eyes, seconds=seconds)
        self.passed += max(0.0, seconds)

    async def lose_snapshots(self) -> None:
        """As a restart of Postgres after a crash does: their table is unlogged."""
        await self._eyes.execute("truncate private.run_snapshots")

    async def grant(self, account: str, amount: int) -> None:
        await self._eyes.execute("select public.grant_credits(%s, %s)", [self.accounts[account], amount])

    async def see(self, statement: str, *values: object) -> Any:
        """The one value of a statement, read by the superuser."""
        row = await (await self._eyes.execute(statement, values)).fetchone()
        assert row is not None
        return row[0]
