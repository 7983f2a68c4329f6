"""Realtime when something goes wrong: the database restarts, a client is slow, a token ends, frames are nonsense."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import websockets
from realtime import RealtimeSubscribeStates

from local.config import StackConfig
from local.realtime import filters
from local.realtime import socket as realtime_socket
from local.server import running_stack
from tests.local.realtime import NOTES, Heard, administrator, listen, until, watch, write_notes
from tests.support.stack import Stack, stack_over


@pytest.fixture
async def stack(database_url: str) -> AsyncGenerator[Stack]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(NOTES)
    async with stack_over(database_url) as running:
        yield running


@asynccontextmanager
async def raw_socket(stack: Stack, **query: str) -> AsyncGenerator[websockets.ClientConnection]:
    """A client without a client library. Without compression too: a repeated letter would be no load."""
    parameters = "&".join(f"{name}={value}" for name, value in {"apikey": stack.anon_key, **query}.items())
    url = stack.url.replace("http", "ws") + f"/realtime/v1/websocket?{parameters}"
    async with websockets.connect(url, compression=None) as connection:
        yield connection


async def answer(connection: websockets.ClientConnection, ref: str) -> dict[str, Any]:
    """The reply to message `ref`, whatever comes before it."""
    async with asyncio.timeout(15):
        while True:
            frame = json.loads(await connection.recv())
            if frame["event"] == "phx_reply" and frame["ref"] == ref:
                return frame["payload"]


async def receive_all(connection: websockets.ClientConnection) -> None:
    """Read until the connection ends, which raises."""
    while True:
        await connection.recv()


async def write_until(stack: Stack, owner: str, enough: asyncio.Event) -> list[str]:
    """Write notes whose commits wait for a standby as soon as the server has heard that there is one."""
    written: list[str] = []
    async with administrator(stack) as connection:
        await connection.execute("set synchronous_commit = on")
        while not enough.is_set():
            written.append(f"note {len(written)}")
            await connection.execute("insert into notes (owner, body) values (%s, %s)", [owner, written[-1]])
    return written


async def seen_in_activity(connection: psycopg.AsyncConnection[Any], condition: str) -> None:
    """Return when a session does what the condition says."""
    async with asyncio.timeout(15):
        query = f"select from pg_stat_activity where pid <> pg_backend_pid() and {condition}"
        while not (await connection.execute(query.encode())).rowcount:
            continue


def slots(database_url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        return connection.execute("select slot_name, temporary from pg_replication_slots").fetchall()


@pytest.mark.parametrize("immediate", [False, True])
async def test_channels_are_told_of_a_restart_of_the_database_and_go_on_after_it(
    tmp_path: Path, *, immediate: bool
) -> None:
    config = StackConfig(port=0, db_port=0, data_dir=tmp_path, ephemeral=True)
    async with running_stack(config) as running:
        stack = Stack(running.config, running.database_url)
        async with administrator(stack) as connection:
            await connection.execute(NOTES)
        owner = await stack.sign_up()
        channel, heard = await watch(owner.client)
        _, topic = await listen(owner.client, f"user:{owner.user_id}")
        await write_notes(stack, owner.user_id, "before")
        await until(lambda: heard.bodies == ["before"])
        heard.systems.clear()
        topic.systems.clear()

        await asyncio.to_thread(running.postgres.restart, immediate=immediate)
        await until(lambda: heard.subscribed and channel.is_joined)
        await until(lambda: ("ok", "Replication connection established") in topic.systems)
        await write_notes(stack, owner.user_id, "after")
        async with administrator(stack) as connection:
            await connection.execute("select realtime.send('{}', 'after', %s, true)", [f"user:{owner.user_id}"])
        await until(lambda: len(heard.bodies) == 2 and topic.broadcasts)

        assert heard.bodies == ["before", "after"]
        assert RealtimeSubscribeStates.CHANNEL_ERROR in [state for state, _ in heard.states]
        assert [message["event"] for message in topic.broadcasts] == ["after"]
        assert len(slots(running.database_url)) == 1
        await stack.close()


async def test_a_row_that_reaches_the_log_before_it_is_visible_is_waited_for(tmp_path: Path) -> None:
    """A commit that waits for a standby is in the log already, and hidden from everybody until the wait ends."""
    config = StackConfig(port=0, db_port=0, data_dir=tmp_path, ephemeral=True)
    async with running_stack(config) as running:
        stack = Stack(running.config, running.database_url)
        async with administrator(stack) as connection:
            await connection.execute(NOTES)
            owner = await stack.sign_up()
            _, heard = await watch(owner.client)
            await connection.execute("alter system set synchronous_standby_names = 'nobody'")
            await connection.execute("select pg_reload_conf()")
            enough = asyncio.Event()
            commits = asyncio.create_task(write_until(stack, owner.user_id, enough))
            waits = "wait_event = 'SyncRep' and state_change < clock_timestamp() - interval '100 ms'"
            await seen_in_activity(connection, waits)
            enough.set()
            # Realtime has the row now, and asks again and again whether its transaction is over.
            looks = "query ~ 'pg_current_snapshot' and query_start > clock_timestamp() - interval '10 ms'"
            await seen_in_activity(connection, f"{looks} and exists (select from pg_stat_activity where {waits})")
            await connection.execute("set synchronous_commit = local")
            await connection.execute("insert into notes (owner, body) values (%s, 'last')", [owner.user_id])
            await connection.execute("alter system reset synchronous_standby_names")
            await connection.execute("select pg_reload_conf()")
            written = await commits
        await until(lambda: "last" in heard.bodies)
        await stack.close()

    assert heard.bodies == [*written, "last"]


async def test_a_cut_replication_connection_is_made_anew_with_a_new_slot(stack: Stack) -> None:
    owner = await stack.sign_up()
    channel, heard = await watch(owner.client)
    before = slots(stack.database_url)
    heard.systems.clear()

    async with administrator(stack) as connection:
        await connection.execute(
            "select pg_terminate_backend(active_pid) from pg_replication_slots where database = current_database()"
        )
    await until(lambda: heard.subscribed and channel.is_joined)
    await write_notes(stack, owner.user_id, "after")
    await until(lambda: heard.changes)

    assert heard.bodies == ["after"]
    assert len(before) == len(slots(stack.database_url)) == 1
    assert before != slots(stack.database_url)


async def test_no_slot_is_left_when_the_stack_has_stopped(database_url: str) -> None:
    async with stack_over(database_url) as running:
        await listen(await running.client(), "room", private=False)
        during = slots(database_url)

    assert [temporary for _, temporary in during] == [True]
    assert slots(database_url) == []


LARGE = 100  # messages of 200 KB: more than the system's socket buffers take in


async def test_a_reader_that_is_too_slow_is_dropped_and_holds_up_nobody(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(realtime_socket, "QUEUE_BYTES", 100_000)
    _, heard = await listen(await stack.client(), "room", private=False)
    async with raw_socket(stack) as slow:
        await slow.send(json.dumps({"topic": "realtime:room", "event": "phx_join", "payload": {}, "ref": "1"}))
        await answer(slow, "1")
        # The library stops reading from its socket when a few frames wait for recv(), as a stuck browser tab does.
        async with administrator(stack) as connection:
            for _ in range(LARGE):
                await connection.execute(
                    "select realtime.send(jsonb_build_object('x', repeat('x', 200000)), 'large', 'room', false)"
                )
        await until(lambda: len(heard.broadcasts) == LARGE)
        with pytest.raises(websockets.ConnectionClosed):
            await receive_all(slow)

    assert len(heard.broadcasts) == LARGE
    assert "realtime.socket_dropped" in caplog.text  # not merely idle


async def test_a_channel_ends_when_its_token_does(stack: Stack) -> None:
    owner = await stack.sign_up()
    claims = {"sub": owner.user_id, "role": "authenticated", "aud": "authenticated", "exp": int(time.time()) - 29}
    token = stack.keys.sign_jwt(claims)
    async with raw_socket(stack) as client:
        join = {"topic": "realtime:room", "event": "phx_join", "payload": {"access_token": token}, "ref": "1"}
        await client.send(json.dumps({**join, "join_ref": "1"}))
        joined = await answer(client, "1")
        async with asyncio.timeout(15):
            told, closed = json.loads(await client.recv()), json.loads(await client.recv())

    assert joined["status"] == "ok"
    assert (told["event"], told["payload"]["message"]) == ("system", "Token has expired")
    assert (closed["event"], closed["ref"]) == ("phx_close", "1")


async def test_a_new_token_goes_on_and_one_that_may_not_listen_ends_the_channel(stack: Stack) -> None:
    owner, stranger = await stack.sign_up(), await stack.sign_up()
    topic = f"user:{owner.user_id}"
    _, heard = await listen(owner.client, topic)

    await owner.client.auth.refresh_session()
    async with administrator(stack) as connection:
        await connection.execute("select realtime.send('{}', 'renewed', %s, true)", [topic])
    await until(lambda: heard.broadcasts)
    await owner.client.realtime.set_auth(stranger.access_token)
    await until(lambda: heard.states[-1][0] == RealtimeSubscribeStates.CLOSED)

    assert [message["event"] for message in heard.broadcasts] == ["renewed"]
    assert any(status == RealtimeSubscribeStates.CHANNEL_ERROR for status, _ in heard.states)


async def test_a_new_token_counts_for_the_next_row(stack: Stack) -> None:
    first, second = await stack.sign_up(), await stack.sign_up()
    _, heard = await watch(first.client)
    heard.systems.clear()

    await first.client.realtime.set_auth(second.access_token)
    await until(lambda: heard.subscribed)
    await write_notes(stack, first.user_id, "of the first")
    await write_notes(stack, second.user_id, "of the second")
    await until(lambda: heard.changes)

    assert heard.bodies == ["of the second"]


@pytest.mark.parametrize("role", ["postgres", "supabase_admin", "nobody"])
async def test_a_token_of_a_role_that_the_api_may_not_take_on_hears_nothing_private(stack: Stack, role: str) -> None:
    token = stack.keys.sign_jwt({"role": role, "exp": int(time.time()) + 60})
    async with raw_socket(stack) as client:
        payload = {"config": {"private": True}, "access_token": token}
        frame = {"topic": "realtime:user:1", "event": "phx_join", "payload": payload, "ref": "1"}
        await client.send(json.dumps(frame))
        refusal = await answer(client, "1")

    assert refusal["status"] == "error"
    assert refusal["response"]["reason"].startswith("Unauthorized")


@pytest.mark.parametrize("token", ["", "nonsense", "eyJhbGciOiJub25lIn0.eyJyb2xlIjoic2VydmljZV9yb2xlIn0."])
async def test_a_socket_without_a_valid_key_is_refused_with_401(stack: Stack, token: str) -> None:
    with pytest.raises(websockets.InvalidStatus) as refusal:
        async with raw_socket(stack, apikey=token):
            pass

    assert refusal.value.response.status_code == 401
    assert "error" in json.loads(refusal.value.response.body or b"{}")


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
async def test_frames_that_make_no_sense_are_skipped_and_the_socket_lives_on(stack: Stack, version: str) -> None:
    nonsense: list[str | bytes] = [
        "", "{", "[]", "{}", "null", '"text"', "[1,2,3,4,5]", '{"topic":1,"event":2}', '[null,null,"t","e",[]]',
        b"", b"\x03", b"\x03\xff\xff\xff\xff\xff\x01", b"\x04\x00\x00\x00\x00", b"\x03\x00\x00\x00\x00\x00\x01{",
    ]  # fmt: skip
    async with raw_socket(stack, vsn=version) as client:
        for frame in nonsense:
            await client.send(frame)
        if version == "1.0.0":
            await client.send('{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"7"}')
        else:
            await client.send('[null,"7","phoenix","heartbeat",{}]')
        async with asyncio.timeout(15):
            frame = json.loads(await client.recv())

    expected = {"status": "ok", "response": {}}
    if version == "1.0.0":
        assert frame == {
            "topic": "phoenix", "event": "phx_reply", "payload": expected, "ref": "7", "join_ref": None,
        }  # fmt: skip
    else:
        assert frame == [None, "7", "phoenix", "phx_reply", expected]


async def test_a_presence_or_broadcast_nested_too_deeply_is_skipped_and_the_socket_lives_on(stack: Stack) -> None:
    def said(event: str, kind: str, payload: str, ref: int) -> str:
        words = f'{{"event":"{kind}","payload":{payload}}}'
        return f'{{"topic":"realtime:deep","event":"{event}","payload":{words},"ref":"{ref}","join_ref":"1"}}'

    async with raw_socket(stack) as client:
        config = {"presence": {"enabled": True, "key": "me"}, "broadcast": {"self": True}}
        join = {"topic": "realtime:deep", "event": "phx_join", "payload": {"config": config}, "ref": "1"}
        await client.send(json.dumps(join))
        await answer(client, "1")
        for depth in range(235, 260):
            await client.send(said("presence", "track", '{"a":' * depth + "1" + "}" * depth, depth))
        deep = "[" * 400 + "]" * 400
        await client.send(said("broadcast", "said", deep, 400))
        await client.send(said("presence", "track", "{}", 401))

        assert await answer(client, "401") == {"status": "ok", "response": {}}


async def test_a_filter_that_breaks_on_a_row_ends_only_its_own_subscription(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(text: str) -> tuple[float, str]:
        if text.startswith("2026"):
            raise ValueError(text)
        return 0.0, text

    monkeypatch.setattr(filters, "_moment", unreadable)
    owner = await stack.sign_up()
    _, broken = await watch(owner.client, "broken", filter="at=gt.2000-01-01")
    _, heard = await watch(owner.client, "all")

    async with administrator(stack) as connection:
        for body in ("first", "second"):
            statement = "insert into notes (owner, body, at) values (%s, %s, '2026-01-01')"
            await connection.execute(statement, [owner.user_id, body])
    await until(lambda: len(heard.changes) == 2 and len(broken.states) > 1)

    assert heard.bodies == ["first", "second"]
    assert not broken.changes
    subscribed, failed = RealtimeSubscribeStates.SUBSCRIBED, RealtimeSubscribeStates.CHANNEL_ERROR
    assert [state for state, _ in broken.states] == [subscribed, failed]
    assert "The filter could not be applied" in broken.states[1][1]
    assert [state for state, _ in heard.states] == [subscribed]


async def test_a_bound_that_cannot_be_compared_is_refused_at_the_subscription(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "_MOMENT", re.compile("nothing"))
    owner = await stack.sign_up()
    heard = Heard()
    channel = owner.client.channel("bad")
    channel.on_postgres_changes("INSERT", lambda _: None, table="notes", schema="public", filter="at=gt.2000-01-01")

    await channel.subscribe(heard.note_state)
    await until(lambda: len(heard.states) > 1)

    assert heard.states[1][0] == RealtimeSubscribeStates.CHANNEL_ERROR
    assert "cannot order timestamptz" in heard.states[1][1]


async def test_a_topic_that_was_not_joined_answers_so(stack: Stack) -> None:
    async with raw_socket(stack) as client:
        await client.send('{"topic":"realtime:x","event":"phx_leave","payload":{},"ref":"1"}')

        assert await answer(client, "1") == {"status": "error", "response": {"reason": "unmatched topic"}}


async def test_stored_messages_are_replayed_to_a_private_listener_that_asks(stack: Stack) -> None:
    owner = await stack.sign_up()
    topic = f"user:{owner.user_id}"
    async with administrator(stack) as connection:
        for number in range(5):
            await connection.execute("select realtime.send(%s, 'log', %s, true)", [json.dumps({"n": number}), topic])
    async with raw_socket(stack) as client:
        config = {"private": True, "broadcast": {"replay": {"since": 0, "limit": 3}}}
        payload = {"config": config, "access_token": owner.access_token}
        frame = {"topic": f"realtime:{topic}", "event": "phx_join", "payload": payload, "ref": "1"}
        await client.send(json.dumps(frame))
        await answer(client, "1")
        async with asyncio.timeout(15):
            messages = [json.loads(await client.recv())["payload"] for _ in range(3)]

    assert [message["payload"]["n"] for message in messages] == [2, 3, 4]
    assert all(message["meta"]["replayed"] for message in messages)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("", b'{"messages": [{"topic": "t", "event": "e", "payload": {}}]}', 202),
        ("", b'{"messages": [{"topic": "t", "event": "e"}]}', 422),
        ("", b'{"messages": 1}', 422),
        ("", b"not json", 422),
        ("", b'{"messages": [{"topic": "t", "event": "e", "payload": %s}]}' % (b"[" * 400 + b"]" * 400), 422),
        ("/t/events/e", b"not json", 422),
        ("/a%2Fb/events/e%20f", b"[1]", 202),
    ],
)
async def test_an_http_broadcast_is_accepted_or_said_to_be_wrong(
    stack: Stack, path: str, body: bytes, status: int
) -> None:
    async with httpx.AsyncClient(base_url=stack.url) as http:
        url, json_type = f"/realtime/v1/api/broadcast{path}", {"content-type": "application/json"}
        accepted = await http.post(url, content=body, headers={"apikey": stack.anon_key, **json_type})
        refused = await http.post(url, content=body, headers={"authorization": "Bearer nonsense", **json_type})

    assert accepted.status_code == status
    assert refused.status_code == 401
