"""Limits a minute over HTTP: 429, when to come back, and nothing done."""

from __future__ import annotations

from typing import Any

import httpx
import psycopg

from tests.functions.visitor import PROMPT, Visitor
from tests.support.stack import Stack

CREATE = {"action": "create", "prompt": PROMPT}


async def limit(stack: Stack, action: str, number: int) -> None:
    async with await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True) as connection:
        await connection.execute(f"update private.tiers set {action}_per_minute = %s", [number])


def assert_limited(response: httpx.Response, message: str) -> None:
    body = response.json()
    seconds = response.headers["Retry-After"]
    assert (response.status_code, body["code"], body["retryable"]) == (429, "limit_exceeded", True)
    assert body["message"] == message
    assert seconds.isdecimal()
    assert 1 <= int(seconds) <= 60
    assert body["hint"] == f"Try again in {seconds} s."


async def test_creating_too_often_is_refused_with_the_time_to_come_back(owner: Visitor, stack: Stack):
    await limit(stack, "creates", 2)
    for _ in range(2):
        await owner.create()

    response = await owner.post("agent-execute", CREATE)

    assert_limited(response, "This account may create at most 2 runs a minute")
    assert "Retry-After" in response.headers["Access-Control-Expose-Headers"]
    assert len((await owner.get("agent-status")).json()["runs"]) == 2


async def test_a_repeat_with_its_key_is_answered_at_the_limit_too(owner: Visitor, stack: Stack):
    await limit(stack, "creates", 1)
    first = await owner.post("agent-execute", CREATE, headers={"Idempotency-Key": "k"})

    again = await owner.post("agent-execute", CREATE, headers={"Idempotency-Key": "k"})

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["run_id"] == first.json()["run_id"]


async def test_starting_too_often_is_refused(owner: Visitor, stack: Stack):
    await limit(stack, "starts", 1)
    first, second = [(await owner.create())["run_id"] for _ in range(2)]

    started, refused = await owner.act("start", first), await owner.act("start", second)

    assert started.status_code == 200
    assert_limited(refused, "This account may start at most 1 runs a minute")
    assert (await owner.run(second))["status"] == "created"


async def test_opening_streams_too_often_is_refused_before_a_stream_begins(owner: Visitor, stack: Stack):
    run_id = (await owner.create(autostart=True))["run_id"]
    await owner.act("stop", run_id)
    await limit(stack, "streams", 1)
    stream: dict[str, Any] = {"run_id": run_id, "mode": "stream"}

    first, second = [await owner.get("agent-logs", **stream) for _ in range(2)]

    assert first.headers["content-type"].startswith("text/event-stream")
    assert second.headers["content-type"] == "application/json"
    assert_limited(second, "This account may open at most 1 log streams a minute")
    resumed = await owner.get("agent-logs", {"Last-Event-ID": "1"}, **stream)
    assert resumed.status_code == 200, "who only goes on has opened it before"
    assert (await owner.get("agent-logs", run_id=run_id)).status_code == 200


async def test_a_strangers_tries_use_up_nothing(owner: Visitor, stranger: Visitor, stack: Stack):
    run_id = (await owner.create(autostart=True))["run_id"]
    await owner.act("stop", run_id)
    await limit(stack, "streams", 1)

    for _ in range(3):
        assert (await stranger.get("agent-logs", run_id=run_id, mode="stream")).status_code == 404

    assert (await owner.get("agent-logs", run_id=run_id, mode="stream")).status_code == 200
