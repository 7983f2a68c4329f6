"""Realtime's subscribers: how late a row reaches fifty of them under RLS, and what a thousand idle sockets weigh.

The gateway is a process of its own, with everything that a stack's has. Lateness is counted from before the row is
written, so its commit is in it, to the frame at the subscriber, over the one clock of the machine. Subscribers are
sockets without a client library, and each is somebody else: a row is checked against its policy for each of them.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import resource
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypedDict
from uuid import uuid4

import psutil
import websockets
from psycopg import AsyncConnection
from rich.console import Console
from rich.table import Table

from bench.machine import described, machine
from bench.options import positive
from bench.progress import say
from bench.rest_gateway import gateway_process
from bench.server import migrated_database
from bench.spread import Limit, Spread, cells, sentences, spread
from local.keys import Keys

QUICK = ("--rows", "10", "--subscribers", "5", "--sockets", "20")
WARM = 5  # rows that do not count
PAUSE_SECONDS = 0.05  # between rows that come one by one
ANSWER_SECONDS = 20
SETTLING_SECONDS = 1.0
AT_ONCE = 20  # sockets that are being opened
SPARE_FILES = 200  # of a process, beside its sockets
MEGABYTE = 1024**2
LATE_MS = 100  # p95
IDLE_MB = 300

_TABLE = """
create table public.news (id bigint generated always as identity primary key, written float8 not null);
alter table public.news enable row level security;
grant select on public.news to authenticated;
create policy "Readers read" on public.news for select to authenticated using ((select auth.uid()) is not null);
alter publication supabase_realtime add table public.news;
"""
_numbers = itertools.count(1)


class Figures(TypedDict):
    """Lateness in milliseconds over all rows and subscribers; the gateway's memory in megabytes."""

    machine: dict[str, str]
    subscribers: int
    ms: Spread
    sockets: int
    alone_mb: float
    idle_mb: float


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=positive, default=100, help="rows written (default 100)")
    parser.add_argument("--subscribers", type=positive, default=50, help="who is told of each (default 50)")
    parser.add_argument("--sockets", type=positive, default=1000, help="that are idle (default 1000)")


def measure(server_url: str, options: argparse.Namespace) -> Figures:
    about = machine(server_url)
    _allow_files(options.sockets + SPARE_FILES)
    with migrated_database(server_url) as url:
        ms = asyncio.run(_lateness(url, options.subscribers, options.rows))
    say(f"p95 {ms['p95']:.1f} ms")
    with migrated_database(server_url) as url:
        alone_mb, idle_mb = asyncio.run(_idle(url, options.sockets))
    return {
        "machine": about,
        "subscribers": options.subscribers,
        "ms": ms,
        "sockets": options.sockets,
        "alone_mb": alone_mb,
        "idle_mb": idle_mb,
    }


def missed(figures: Figures) -> list[str]:
    """A sentence for every budget that was not kept."""
    return sentences(
        [
            Limit("row -> subscriber, p95", figures["ms"]["p95"], LATE_MS, "ms"),
            Limit("the gateway with idle sockets", figures["idle_mb"], IDLE_MB, "MB"),
        ]
    )


def show(figures: Figures, console: Console) -> None:
    table = Table("", "n", "p50 ms", "p95 ms", "max ms", "budget", title="Realtime")
    ms = figures["ms"]
    table.add_row(
        f"row -> each of {figures['subscribers']} subscribers", str(ms["count"]), *cells(ms), f"p95 {LATE_MS}"
    )
    console.print(table)
    console.print(
        f"The gateway: {figures['alone_mb']:.0f} MB alone, {figures['idle_mb']:.0f} MB with {figures['sockets']:,}"
        f" idle sockets (budget {IDLE_MB}).",
        markup=False,
    )
    console.print(described(figures["machine"]), markup=False)


async def _lateness(url: str, subscribers: int, rows: int) -> Spread:
    async with (
        AsyncExitStack() as cleanup,
        gateway_process(url, functions=True) as (api_url, _),
        await AsyncConnection.connect(url, autocommit=True) as admin,
    ):
        await admin.execute(_TABLE)
        sockets = [await cleanup.enter_async_context(_subscribed(api_url)) for _ in range(subscribers)]
        found: list[float] = []
        for number in range(rows + WARM):
            await admin.execute("insert into public.news (written) values (%s)", [time.time()])
            late = await asyncio.gather(*(_row(socket) for socket in sockets))
            found += late if number >= WARM else []
            await asyncio.sleep(PAUSE_SECONDS)
    return spread(found)


async def _row(socket: websockets.ClientConnection) -> float:
    """How late the next row is, in milliseconds."""
    change = await _heard(socket, "postgres_changes")
    return (time.time() - change["data"]["record"]["written"]) * 1000


async def _idle(url: str, count: int) -> tuple[float, float]:
    """The gateway's memory before and after so many sockets have joined a channel each."""
    async with AsyncExitStack() as cleanup, gateway_process(url, functions=True) as (api_url, pid):
        gateway = psutil.Process(pid)
        async with _joined(api_url, "warm", {}):
            await asyncio.sleep(SETTLING_SECONDS)
            alone = gateway.memory_info().rss / MEGABYTE
        places = asyncio.Semaphore(AT_ONCE)

        async def open_one(number: int) -> None:
            async with places:
                await cleanup.enter_async_context(_joined(api_url, f"room {number}", {}))

        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(open_one(number))
        await asyncio.sleep(SETTLING_SECONDS)
        return alone, gateway.memory_info().rss / MEGABYTE


@asynccontextmanager
async def _subscribed(api_url: str) -> AsyncGenerator[websockets.ClientConnection]:
    """Somebody new who hears of every row from now on."""
    claims = {"role": "authenticated", "aud": "authenticated", "sub": str(uuid4()), "exp": int(time.time()) + 3600}
    wish = {"event": "INSERT", "schema": "public", "table": "news"}
    payload = {"config": {"postgres_changes": [wish]}, "access_token": Keys().sign_jwt(claims)}
    async with _joined(api_url, f"news {next(_numbers)}", payload) as socket:
        told = await _heard(socket, "system")
        if told["status"] != "ok":
            raise RuntimeError(f"Realtime refused the subscription: {told['message']}")
        yield socket


@asynccontextmanager
async def _joined(api_url: str, topic: str, payload: dict[str, Any]) -> AsyncGenerator[websockets.ClientConnection]:
    url = f"{api_url.replace('http', 'ws')}/realtime/v1/websocket?apikey={Keys().publishable_key}"
    # A client of Realtime keeps its socket alive itself, and says so less often than this takes.
    async with websockets.connect(url, ping_interval=None) as socket:
        frame = {"topic": f"realtime:{topic}", "event": "phx_join", "payload": payload, "ref": "1", "join_ref": "1"}
        await socket.send(json.dumps(frame))
        answer = await _heard(socket, "phx_reply")
        if answer["status"] != "ok":
            raise RuntimeError(f"Realtime refused the join: {answer['response']}")
        yield socket


async def _heard(socket: websockets.ClientConnection, event: str) -> dict[str, Any]:
    """The payload of the next such event."""
    async with asyncio.timeout(ANSWER_SECONDS):
        while True:
            frame = json.loads(await socket.recv())
            if frame["event"] == event:
                return frame["payload"]


def _allow_files(count: int) -> None:
    """Let this process, and the gateway that it starts, have so many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
