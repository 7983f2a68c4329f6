"""Realtime when something goes wrong: a client is slow, frames are nonsense, a key is none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
import websockets
from hypothesis import given, settings
from hypothesis import strategies as st

from local.realtime import service
from local.realtime import socket as realtime_socket
from tests.local.realtime import administrator, answer, listen, raw_socket, stack_with_notes, until
from tests.support.stack import Stack


@pytest.fixture
async def stack(database_url: str) -> AsyncGenerator[Stack]:
    async with stack_with_notes(database_url) as running:
        yield running


async def receive_all(connection: websockets.ClientConnection) -> None:
    """Read until the connection ends, which raises."""
    while True:
        await connection.recv()


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


async def test_a_reader_that_hangs_is_waited_for_once_and_not_for_every_row(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LONGEST_PAUSE_SECONDS", 1.0)
    monkeypatch.setattr(realtime_socket, "QUEUE_BYTES", 100_000_000)
    statement = "select realtime.send(jsonb_build_object('x', repeat('x', %s::int)), 'e', 'room', false)"
    _, heard = await listen(await stack.client(), "room", private=False)
    async with raw_socket(stack) as hanging, administrator(stack) as connection:
        await hanging.send(json.dumps({"topic": "realtime:room", "event": "phx_join", "payload": {}, "ref": "1"}))
        await answer(hanging, "1")
        for _ in range(LARGE):
            await connection.execute(statement, [200_000])
        await until(lambda: len(heard.broadcasts) == LARGE)
        async with asyncio.timeout(12):
            for number in range(LARGE + 1, LARGE + 21):
                await connection.execute(statement, [1])
                await until(lambda number=number: len(heard.broadcasts) == number)

    assert len(heard.broadcasts) == LARGE + 20


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


@pytest.mark.parametrize("token", ["", "nonsense", "eyJhbGciOiJub25lIn0.eyJyb2xlIjoic2VydmljZV9yb2xlIn0."])
async def test_a_socket_without_a_valid_key_is_refused_with_401(stack: Stack, token: str) -> None:
    with pytest.raises(websockets.InvalidStatus) as refusal:
        async with raw_socket(stack, apikey=token):
            pass

    assert refusal.value.response.status_code == 401
    assert "error" in json.loads(refusal.value.response.body or b"{}")


REFS = st.none() | st.text(max_size=3) | st.integers()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = ["config", "broadcast", "presence", "private", "postgres_changes", "replay", "event", "schema", "table"]
NAMED = st.recursive(JSON, lambda inner: st.dictionaries(st.sampled_from([*NAMES, "filter"]), inner, max_size=4))
TOPICS = st.sampled_from(["realtime:room", "realtime:", "phoenix", "room", "realtime:\x00"]) | st.text(max_size=9)
EVENTS = st.sampled_from(["phx_join", "phx_leave", "broadcast", "presence", "access_token", "heartbeat", "x"])
FIELDS = st.tuples(REFS, REFS, TOPICS, EVENTS, NAMED)
OBJECTS = FIELDS.map(lambda f: json.dumps(dict(zip(("join_ref", "ref", "topic", "event", "payload"), f, strict=True))))
ARRAYS = FIELDS.map(json.dumps)
BINARIES = st.binary(max_size=30) | st.binary(max_size=30).map(lambda rest: b"\x03" + rest)


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
async def test_no_frame_breaks_a_socket(stack: Stack, version: str, caplog: pytest.LogCaptureFixture) -> None:
    heartbeat = {
        "1.0.0": '{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"alive"}',
        "2.0.0": '[null,"alive","phoenix","heartbeat",{}]',
    }[version]

    async def all_said(frames: list[str | bytes]) -> None:
        async with raw_socket(stack, vsn=version) as client:
            for frame in frames:
                await client.send(frame)
            await client.send(heartbeat)
            async with asyncio.timeout(30):
                while '"alive"' not in str(await client.recv()):
                    pass

    frames_seen: list[list[str | bytes]] = []

    @settings(max_examples=40, deadline=None, database=None, derandomize=True)
    @given(st.lists(st.text(max_size=20) | OBJECTS | ARRAYS | BINARIES, min_size=5, max_size=10))
    def collect(frames: list[str | bytes]) -> None:
        frames_seen.append(frames)

    collect()
    for frames in frames_seen:
        await all_said(frames)

    assert not [record for record in caplog.records if record.levelname == "ERROR"]
