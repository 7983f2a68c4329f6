"""A table of notes under RLS, and what a listener heard, for the tests of /realtime/v1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from realtime import AsyncRealtimeChannel, RealtimeSubscribeStates
from supabase import AsyncClient

from tests.support.stack import Stack

WAIT_SECONDS = 15.0

NOTES = """
create table public.notes (
  id bigint generated always as identity primary key,
  owner uuid not null,
  body text,
  size numeric,
  tags text[],
  extra jsonb,
  at timestamptz,
  hidden text default 'hidden'
);
alter table public.notes enable row level security;
revoke all on public.notes from anon, authenticated;
grant select (id, owner, body, size, tags, extra, at) on public.notes to authenticated;
create policy "Owners read their notes" on public.notes
  for select to authenticated using (owner = (select auth.uid()));
alter publication supabase_realtime add table public.notes;

create policy "Users hear the topic of their id" on realtime.messages
  for select to authenticated using (realtime.topic() = 'user:' || (select auth.uid())::text);
create policy "Users speak on the topic of their id" on realtime.messages
  for insert to authenticated with check (realtime.topic() = 'user:' || (select auth.uid())::text);
"""


@dataclass
class Heard:
    """What one channel was told, in order."""

    changes: list[dict[str, Any]] = field(default_factory=list)
    broadcasts: list[dict[str, Any]] = field(default_factory=list)
    systems: list[tuple[str, str]] = field(default_factory=list)
    states: list[tuple[RealtimeSubscribeStates, str]] = field(default_factory=list)

    @property
    def bodies(self) -> list[str]:
        """The texts of the notes in the changes."""
        return [change["data"]["record"]["body"] for change in self.changes]

    @property
    def subscribed(self) -> bool:
        return ("ok", "Subscribed to PostgreSQL") in self.systems

    def note_state(self, state: RealtimeSubscribeStates, error: Exception | None) -> None:
        self.states.append((state, str(error or "")))


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; fail with its source's name when it does not come."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for is on the other side of a socket
            await asyncio.sleep(0.005)


async def watch(client: AsyncClient, topic: str = "notes", **binding: Any) -> tuple[AsyncRealtimeChannel, Heard]:
    """Subscribe to row changes of notes, and return once rows committed from now on will be seen."""
    heard = Heard()
    channel = client.channel(topic)
    binding = {"event": "INSERT", "schema": "public", "table": "notes", **binding}
    channel.on_postgres_changes(callback=heard.changes.append, **binding)
    channel.on_system(lambda system: heard.systems.append((system.status, system.message)))
    await channel.subscribe(heard.note_state)
    await until(lambda: heard.subscribed)
    return channel, heard


async def listen(
    client: AsyncClient, topic: str, *, private: bool = True, echo: bool = False
) -> tuple[AsyncRealtimeChannel, Heard]:
    """Join a topic and note its broadcasts."""
    heard = Heard()
    broadcast = {"ack": False, "self": echo}
    channel = client.channel(topic, {"config": {"broadcast": broadcast, "presence": None, "private": private}})
    channel.on_broadcast("*", heard.broadcasts.append)
    channel.on_system(lambda system: heard.systems.append((system.status, system.message)))
    await channel.subscribe(heard.note_state)
    return channel, heard


@asynccontextmanager
async def administrator(stack: Stack) -> AsyncGenerator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True) as connection:
        yield connection


async def write_notes(stack: Stack, owner: str, *bodies: str) -> None:
    """Insert notes, each in a transaction of its own."""
    async with administrator(stack) as connection:
        for body in bodies:
            await connection.execute("insert into notes (owner, body) values (%s, %s)", [owner, body])
