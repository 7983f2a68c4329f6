"""A table of notes under RLS, what a listener heard, and a client without a library, for the tests of /realtime/v1."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import websockets
from realtime import AsyncRealtimeChannel, RealtimeSubscribeStates
from supabase import AsyncClient

from tests.support.stack import Stack, stack_over

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
    await until(lambda: heard.subscribed or len(heard.states) > 1)
    assert heard.subscribed, heard.states
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


@asynccontextmanager
async def stack_with_notes(database_url: str) -> AsyncGenerator[Stack]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(NOTES)
    async with stack_over(database_url) as running:
        yield running


@dataclass
class Socket:
    """A client that says and hears frames of protocol 1.0.0 as they are. Its joins have the ref that they return."""

    connection: websockets.ClientConnection
    refs: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def push(self, topic: str, event: str, payload: Mapping[str, Any], **fields: Any) -> str:
        """Say something on a topic; the ref that an answer would have."""
        ref = str(next(self.refs))
        frame = {"topic": f"realtime:{topic}", "event": event, "payload": payload, "ref": ref, **fields}
        await self.connection.send(json.dumps(frame))
        return ref

    async def join(self, topic: str, config: Mapping[str, Any] | None = None, **payload: Any) -> dict[str, Any]:
        """Join a topic; the payload of the answer."""
        ref = str(next(self.refs))
        frame = {"topic": f"realtime:{topic}", "event": "phx_join", "ref": ref, "join_ref": ref}
        await self.connection.send(json.dumps({**frame, "payload": {"config": config or {}, **payload}}))
        return await answer(self.connection, ref)

    async def ask(self, topic: str, event: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Say something and return the payload of the answer."""
        return await answer(self.connection, await self.push(topic, event, payload))

    async def hear(self, event: str) -> dict[str, Any]:
        """The payload of the next such event, whatever comes before it."""
        return (await self.frame(event))["payload"]

    async def frame(self, event: str) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                frame = json.loads(await self.connection.recv())
                if frame["event"] == event:
                    return frame

    async def heard_by_now(self) -> list[dict[str, Any]]:
        """All frames up to the answer of a heartbeat, without that."""
        ref = f"now {next(self.refs)}"
        await self.connection.send(json.dumps({"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": ref}))
        frames: list[dict[str, Any]] = []
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                frame = json.loads(await self.connection.recv())
                if frame["ref"] == ref:
                    return frames
                frames.append(frame)


@asynccontextmanager
async def raw_socket(stack: Stack, **query: str) -> AsyncGenerator[websockets.ClientConnection]:
    """A client without a client library. Without compression too: a repeated letter would be no load."""
    parameters = "&".join(f"{name}={value}" for name, value in {"apikey": stack.anon_key, **query}.items())
    url = stack.url.replace("http", "ws") + f"/realtime/v1/websocket?{parameters}"
    async with websockets.connect(url, compression=None, max_size=None) as connection:
        yield connection


@asynccontextmanager
async def socket(stack: Stack, **query: str) -> AsyncGenerator[Socket]:
    async with raw_socket(stack, **query) as connection:
        yield Socket(connection)


async def answer(connection: websockets.ClientConnection, ref: str) -> dict[str, Any]:
    """The reply to message `ref`, whatever comes before it."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            frame = json.loads(await connection.recv())
            if frame["event"] == "phx_reply" and frame["ref"] == ref:
                return frame["payload"]
