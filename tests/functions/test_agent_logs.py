"""agent-logs gives every line once and in order, by polling and as a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NamedTuple

import psycopg
import pytest

from shared.runs.status import RunStatus
from tests.functions.visitor import Visitor
from tests.support.rest import configure_rest
from tests.support.stack import Stack


class Event(NamedTuple):
    id: str | None
    name: str
    data: Any


async def listen(visitor: Visitor, *, last_event_id: int | None = None, **query: object) -> AsyncGenerator[Event]:
    """The events of one stream, until it ends."""
    headers = dict(visitor.headers) | ({} if last_event_id is None else {"Last-Event-ID": str(last_event_id)})
    params: Any = {"mode": "stream", **query}
    async with visitor.http.stream("GET", "/functions/v1/agent-logs", params=params, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        async for line in response.aiter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            else:
                if "data" in fields:
                    yield Event(fields.get("id"), fields["event"], json.loads(fields["data"]))
                fields = {}


async def collect(visitor: Visitor, **query: Any) -> list[Event]:
    return [event async for event in listen(visitor, **query)]


async def test_polling_gives_lines_and_where_to_go_on(owner: Visitor, held_run):
    run_id, worker = await held_run()
    await worker.say("one", "two")

    first = (await owner.get("agent-logs", run_id=run_id, limit=2)).json()
    rest = (await owner.get("agent-logs", run_id=run_id, after=first["next_after"])).json()

    assert [line["seq"] for line in first["logs"]] == [1, 2]
    assert first["next_after"] == 2
    assert list(first["logs"][0]) == ["seq", "log_type", "message", "metadata", "created_at"]
    assert [line["message"] for line in rest["logs"]][-2:] == ["one", "two"]
    assert rest["done"] is False


async def test_polling_says_when_nothing_will_follow(owner: Visitor):
    run_id = (await owner.create(autostart=True))["run_id"]
    await owner.act("stop", run_id)

    page = (await owner.get("agent-logs", run_id=run_id, limit=1)).json()
    last = (await owner.get("agent-logs", run_id=run_id, after=page["next_after"])).json()

    assert (page["done"], last["done"]) == (False, True)
    assert last["logs"][-1]["message"] == "queued -> cancelled"


async def test_polling_moves_past_lines_of_other_types(owner: Visitor, held_run):
    run_id, worker = await held_run()
    await worker.say("quiet")
    await worker.say("careful", log_type="warning")
    await worker.say("quiet again")

    page = (await owner.get("agent-logs", run_id=run_id, types="warning,error")).json()

    assert [line["message"] for line in page["logs"]] == ["careful"]
    assert page["next_after"] == (await owner.run(run_id))["log_seq"]


@pytest.fixture
def two_rows_at_most(database_url: str) -> None:
    """A project whose REST interface gives fewer rows than were asked for (its setting max-rows)."""
    configure_rest(database_url, db_max_rows="2")


@pytest.mark.usefixtures("two_rows_at_most")
async def test_polling_skips_no_line_where_the_database_cuts_answers_short(owner: Visitor, held_run):
    run_id, worker = await held_run()
    await worker.say("one", "two", "three")

    page = (await owner.get("agent-logs", run_id=run_id)).json()

    assert [line["seq"] for line in page["logs"]] == [1, 2, 3, 4, 5]
    assert (page["next_after"], page["done"]) == (5, False)


@pytest.mark.usefixtures("two_rows_at_most")
async def test_polling_for_types_skips_no_line_where_the_database_cuts_answers_short(owner: Visitor, held_run):
    run_id, worker = await held_run()
    await worker.say("one", "two", "three", log_type="warning")
    await worker.say("quiet")

    part = (await owner.get("agent-logs", run_id=run_id, types="warning")).json()
    rest = (await owner.get("agent-logs", run_id=run_id, types="warning", after=part["next_after"])).json()

    assert [line["message"] for line in part["logs"] + rest["logs"]] == ["one", "two", "three"]
    assert rest["next_after"] == (await owner.run(run_id))["log_seq"]


@pytest.mark.usefixtures("two_rows_at_most")
async def test_a_stream_skips_no_line_where_the_database_cuts_answers_short(owner: Visitor):
    run_id = (await owner.create(autostart=True))["run_id"]
    await owner.act("pause", run_id)
    await owner.act("resume", run_id)
    await owner.act("stop", run_id)

    *lines, done = await collect(owner, run_id=run_id)

    assert [event.id for event in lines] == [str(seq) for seq in range(1, (await owner.run(run_id))["log_seq"] + 1)]
    assert len(lines) > 2
    assert done.name == "done"


async def test_lines_that_were_deleted_keep_nobody_waiting(owner: Visitor, stack: Stack):
    run_id = (await owner.create(autostart=True))["run_id"]
    await owner.act("stop", run_id)
    async with await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True) as connection:
        await connection.execute("delete from public.agent_task_logs where run_id = %s", [run_id])

    page = (await owner.get("agent-logs", run_id=run_id)).json()
    events = await collect(owner, run_id=run_id)

    assert (page["logs"], page["done"]) == ([], True)
    assert [event.name for event in events] == ["done"]


async def test_a_stream_of_an_ended_run_gives_all_and_is_done(owner: Visitor):
    run_id = (await owner.create(autostart=True))["run_id"]
    await owner.act("stop", run_id)

    *lines, done = await collect(owner, run_id=run_id)

    assert [(event.id, event.name, event.data["message"]) for event in lines] == [
        ("1", "state_transition", "created -> queued"),
        ("2", "state_transition", "queued -> cancelled"),
    ]
    assert done == Event(None, "done", {"run_id": run_id, "status": "cancelled", "revision": 3})


async def test_a_stream_follows_a_run_to_its_end(owner: Visitor, held_run):
    run_id, worker = await held_run()
    seen: list[Event] = []

    async with aclosing(listen(owner, run_id=run_id)) as events:
        async for event in events:
            seen.append(event)
            if event.data.get("message") == "queued -> planning":
                await worker.say("one", "two")
            if event.data.get("message") == "two":
                await worker.start(1)
                await worker.finish(1)
                await worker.end()

    assert [event.id for event in seen[:-1]] == [str(seq) for seq in range(1, len(seen))]
    assert (seen[-1].name, seen[-1].data["status"]) == ("done", "completed")


async def test_a_stream_goes_on_behind_the_last_event_that_arrived(owner: Visitor, held_run):
    run_id, worker = await held_run()
    await worker.say("one", "two", "three")
    await worker.start(1)
    await worker.finish(1)
    await worker.end()
    whole = await collect(owner, run_id=run_id)

    resumed = await collect(owner, run_id=run_id, last_event_id=3)

    assert resumed == whole[3:]


async def test_the_last_event_id_wins_over_the_url_that_is_connected_to_again(owner: Visitor):
    run_id = (await owner.create(autostart=True))["run_id"]
    await owner.act("stop", run_id)

    events = await collect(owner, run_id=run_id, after=0, last_event_id=1)

    assert [event.id for event in events] == ["2", None]


@pytest.mark.parametrize("value", ["abc", "-1", "9223372036854775808", "9" * 6000])
async def test_a_last_event_id_that_is_none_is_refused_by_name(owner: Visitor, value: str):
    run_id = (await owner.create())["run_id"]

    response = await owner.get("agent-logs", {"Last-Event-ID": value}, run_id=run_id, mode="stream")

    assert (response.status_code, response.json()["code"]) == (400, "invalid_input")
    assert response.json()["message"].startswith("Last-Event-ID: ")


async def test_a_stream_shows_what_a_model_is_writing(owner: Visitor, held_run):
    run_id, worker = await held_run()
    await worker.start(1)
    await worker.write(1, 0, "Hello")
    deltas: list[Any] = []

    async with aclosing(listen(owner, run_id=run_id)) as events:
        async for event in events:
            if event.name != "delta":
                continue
            assert event.id is None
            deltas.append(event.data)
            if len(deltas) == 1:
                await worker.write(1, 5, ", world")
            else:
                break

    assert deltas == [
        {"step_no": 1, "attempt": 1, "offset": 0, "text": "Hello"},
        {"step_no": 1, "attempt": 1, "offset": 5, "text": ", world"},
    ]


async def test_a_stream_of_some_types_leaves_out_the_others(owner: Visitor, held_run):
    run_id, worker = await held_run()
    await worker.say("quiet")
    await worker.say("careful", log_type="warning")
    await worker.start(1)
    await worker.finish(1)
    await worker.end(RunStatus.FAILED)

    events = await collect(owner, run_id=run_id, types="warning")

    assert [(event.name, event.data.get("message")) for event in events] == [("warning", "careful"), ("done", None)]


async def test_another_users_run_has_no_log(owner: Visitor, stranger: Visitor):
    run_id = (await owner.create(autostart=True))["run_id"]

    for mode in ("poll", "stream"):
        response = await stranger.get("agent-logs", run_id=run_id, mode=mode)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_a_client_that_goes_away_ends_the_stream(owner: Visitor):
    """The application itself must come back, or every closed browser tab would poll the database for minutes."""
    from functions.agent_logs.app import app

    run_id = (await owner.create())["run_id"]
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            gone.set()

    scope = {
        "type": "http", "asgi": {"spec_version": "2.3"}, "method": "GET", "path": "/", "root_path": "",
        "query_string": f"run_id={run_id}&mode=stream".encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in owner.headers.items()],
    }  # fmt: skip
    async with asyncio.timeout(20):
        await app(scope, receive, send)
