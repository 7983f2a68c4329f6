"""Somebody who follows a run in two ways at once, with how late each log line came, in milliseconds.

Lateness is counted from `created_at`, which the database sets as it writes the line: the rest of that transaction, its
commit and the way to the callback are all in it. Clocks are not compared over machines: there is only one.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import uuid4

import httpx
from realtime import RealtimeSubscribeStates
from realtime.types import BroadcastPayload
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from local.keys import Keys

MEASURED = "info"  # the log type of a step's own lines
JOIN_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who signed up at the gateway."""

    client: AsyncClient
    api_url: str
    user_id: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", "apikey": Keys().publishable_key}


@dataclass(slots=True)
class Lateness:
    """Of each line by its seq, in milliseconds, when it first came; and how many came again."""

    realtime: dict[int, float] = field(default_factory=dict)
    sse: dict[int, float] = field(default_factory=dict)
    repeated: int = 0

    def heard(self, way: dict[int, float], line: Mapping[str, Any]) -> None:
        """Take note of a line that has just come one way or the other."""
        if line["log_type"] != MEASURED:
            return
        late = time.time() - datetime.fromisoformat(line["created_at"]).timestamp()
        self.repeated += line["seq"] in way
        way.setdefault(line["seq"], late * 1000)


@asynccontextmanager
async def signed_up(api_url: str) -> AsyncGenerator[Visitor]:
    options = AsyncClientOptions(auto_refresh_token=False)
    client = await acreate_client(api_url, Keys().publishable_key, options=options)
    credentials = {"email": f"{uuid4()}@example.com", "password": "correct horse battery"}
    answer = await client.auth.sign_up(credentials)  # type: ignore[arg-type]
    assert answer.session is not None
    assert answer.user is not None
    await client.realtime.set_auth(answer.session.access_token)
    try:
        yield Visitor(client, api_url, answer.user.id, answer.session.access_token)
    finally:
        await client.remove_all_channels()
        await client.auth.close()
        await client.postgrest.aclose()


async def followed(visitor: Visitor, *, steps: int, seconds: float) -> Lateness:
    """Follow a run of a line a step, a step every so many seconds, from before its start to its end."""
    request = {"engine": "bench", "input": {"steps": steps, "seconds": seconds}, "max_steps": steps}
    created = await visitor.client.rpc("create_run", {"p_request": request}).execute()
    run_id = str(created.data["run_id"])
    late = Lateness()
    ended = asyncio.Event()
    joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def hear(message: BroadcastPayload) -> None:
        for line in message["payload"]["lines"]:
            late.heard(late.realtime, line)
        if message["payload"]["status"] == "completed":
            ended.set()

    def hear_state(state: RealtimeSubscribeStates, error: Exception | None) -> None:
        if joined.done():
            return  # it is closed at the end
        if state == RealtimeSubscribeStates.SUBSCRIBED:
            joined.set_result(None)
        else:
            joined.set_exception(RuntimeError(f"Realtime refused the subscription: {state} {error}"))

    channel = visitor.client.channel(f"run:{run_id}", {"config": {"private": True}})  # type: ignore[typeddict-item]
    channel.on_broadcast("log", hear)
    await channel.subscribe(hear_state)
    async with asyncio.timeout(JOIN_SECONDS):
        await joined
    async with asyncio.timeout(JOIN_SECONDS + 3 * steps * seconds), asyncio.TaskGroup() as group:
        group.create_task(_stream(visitor, run_id, late))
        await visitor.client.rpc("start_run", {"p_run_id": run_id}).execute()
        await ended.wait()
    await visitor.client.remove_channel(channel)
    if len(late.realtime) != steps or len(late.sse) != steps:
        raise RuntimeError(f"of {steps} lines {len(late.realtime)} came by Realtime and {len(late.sse)} by SSE")
    return late


async def _stream(visitor: Visitor, run_id: str, late: Lateness) -> None:
    """Read server-sent events until `done`, connecting again where the host ends the stream early."""
    seen = ""
    async with httpx.AsyncClient(base_url=visitor.api_url, headers=visitor.headers, timeout=None) as http:  # noqa: S113
        while True:
            query = {"run_id": run_id, "mode": "stream"}
            again = {"Last-Event-ID": seen} if seen else {}
            async with http.stream("GET", "/functions/v1/agent-logs", params=query, headers=again) as response:
                response.raise_for_status()
                event = ""
                async for text in response.aiter_lines():
                    name, _, value = text.partition(": ")
                    if name == "id":
                        seen = value
                    elif name == "event":
                        event = value
                    elif name == "data" and event == MEASURED:
                        late.heard(late.sse, json.loads(value))
                    elif name == "data" and event == "done":
                        return
