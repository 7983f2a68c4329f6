"""Channels: who is let in, tokens that change and end, acknowledgements, replay, leaving, limits."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest
from realtime import RealtimeSubscribeStates

from local.keys import Keys
from local.realtime import session
from tests.local.realtime import administrator, listen, raw_socket, socket, stack_with_notes, until, watch, write_notes
from tests.support.stack import Stack


@pytest.fixture
async def stack(database_url: str) -> AsyncGenerator[Stack]:
    async with stack_with_notes(database_url) as running:
        yield running


async def test_a_channel_ends_when_its_token_does(stack: Stack) -> None:
    owner = await stack.sign_up()
    claims = {"sub": owner.user_id, "role": "authenticated", "aud": "authenticated", "exp": int(time.time()) + 3}
    token = stack.keys.sign_jwt(claims)
    async with socket(stack) as client:
        joined = await client.join("room", access_token=token)
        told, closed = await client.hear("system"), await client.frame("phx_close")

    assert joined["status"] == "ok"
    assert told["extension"] == "system"
    assert re.fullmatch(r"Token has expired \d+ seconds ago", told["message"])
    assert closed["ref"] == "1"


@pytest.mark.parametrize("token", [None, "potato"], ids=["welcome", "refused"])
async def test_a_join_on_a_joined_topic_ends_the_first_and_says_so_after_its_answer(
    stack: Stack, token: str | None
) -> None:
    async with raw_socket(stack, vsn="2.0.0") as client:
        for ref, payload in (("1", {}), ("2", {"access_token": token})):
            await client.send(json.dumps([ref, ref, "realtime:room", "phx_join", {"config": {}, **payload}]))
        frames = [json.loads(await client.recv()) for _ in range(3)]

    assert [(join, ref, event) for join, ref, _, event, _ in frames] == [
        ("1", "1", "phx_reply"),
        ("2", "2", "phx_reply"),
        ("1", "1", "phx_close"),
    ]
    assert [frame[4]["status"] for frame in frames[:2]] == ["ok", "error" if token else "ok"]


async def test_a_client_that_could_not_tell_which_join_ended_is_not_told(stack: Stack) -> None:
    async with socket(stack) as client:
        await client.join("room")
        await client.join("room", {"broadcast": {"self": True}})
        await client.push("room", "broadcast", {"type": "broadcast", "event": "x", "payload": {}})
        frames = await client.heard_by_now()

    assert [frame["event"] for frame in frames] == ["broadcast"]


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("potato", "MalformedJWT: The token provided is not a valid JWT"),
        ("without exp", "InvalidJWTToken: Fields `role` and `exp` are required in JWT"),
        ("of another", "JwtSignatureError: Failed to validate JWT signature"),
        ("ended", r"InvalidJWTToken: Token has expired 1\d seconds ago"),
    ],
)
async def test_a_join_with_a_token_that_is_no_good_says_why(stack: Stack, token: str, reason: str) -> None:
    tokens = {
        "without exp": stack.keys.sign_jwt({"role": "authenticated"}),
        "of another": Keys(jwt_secret="x" * 32).sign_legacy_jwt({"role": "anon", "exp": int(time.time()) + 60}),
        "ended": stack.keys.sign_jwt({"role": "authenticated", "exp": int(time.time()) - 10}),
    }
    async with socket(stack) as client:
        joined = await client.join("room", access_token=tokens.get(token, token))

    assert joined["status"] == "error"
    assert re.fullmatch(reason, joined["response"]["reason"])


async def test_a_number_beyond_64_bits_in_the_claims_keeps_nobody_out(stack: Stack) -> None:
    owner = await stack.sign_up()
    claims = {"sub": owner.user_id, "role": "authenticated", "exp": int(time.time()) + 60}
    token = stack.keys.sign_jwt({**claims, "user_metadata": {"big": 10**22}})

    async with socket(stack) as client:
        joined = await client.join("room", access_token=token)

    assert joined["status"] == "ok"


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
    async with socket(stack) as client:
        refusal = await client.join("user:1", {"private": True}, access_token=token)

    assert refusal["status"] == "error"
    assert refusal["response"]["reason"].startswith("Unauthorized")


async def test_a_null_and_an_api_key_in_the_place_of_a_new_token_change_nothing(stack: Stack) -> None:
    owner = await stack.sign_up()
    topic = f"user:{owner.user_id}"
    async with socket(stack) as client, administrator(stack) as connection:
        await client.join(topic, {"private": True}, access_token=owner.access_token)
        for token in (None, stack.anon_key, owner.access_token, 7):
            await client.push(topic, "access_token", {"access_token": token})
        await client.heard_by_now()
        await connection.execute("select realtime.send('{}', 'still', %s, true)", [topic])

        assert (await client.hear("broadcast"))["event"] == "still"


@pytest.mark.parametrize("kind", ["expired", "foreign", "garbled", "stranger"])
async def test_a_token_that_is_no_good_ends_the_channel_with_a_system_message(stack: Stack, kind: str) -> None:
    owner, stranger = await stack.sign_up(), await stack.sign_up()
    topic = f"user:{owner.user_id}"
    token, message = {
        "expired": (stack.keys.sign_jwt({"role": "authenticated", "exp": int(time.time()) - 3600}), "has expired"),
        "foreign": (owner.access_token[:-6] + "AAAAAA", "signature"),
        "garbled": ("nonsense", "not a valid JWT"),
        "stranger": (stranger.access_token, "You do not have permissions to read from this Channel topic"),
    }[kind]
    async with socket(stack) as client:
        await client.join(topic, {"private": True}, access_token=owner.access_token)
        await client.push(topic, "access_token", {"access_token": token})
        told, closed = await client.hear("system"), await client.frame("phx_close")

    assert (told["extension"], told["status"], told["channel"]) == ("system", "error", topic)
    assert message in told["message"]
    assert closed["ref"] == "1"


async def test_a_new_token_that_may_hear_less_ends_the_channel(stack: Stack) -> None:
    owner, presence_only = await stack.sign_up(), await stack.sign_up()
    topic = f"user:{owner.user_id}"
    async with administrator(stack) as connection:
        await connection.execute(
            'create policy "All hear presence" on realtime.messages for select to authenticated'
            " using (extension = 'presence')"
        )
    async with socket(stack) as client:
        config = {"private": True, "presence": {"enabled": True}}
        await client.join(topic, config, access_token=owner.access_token)
        await client.push(topic, "access_token", {"access_token": presence_only.access_token})
        told = await client.hear("system")

    assert told["message"] == f"You no longer have permission to read from this Channel topic: {topic}"


@pytest.mark.parametrize(("presence", "status"), [(True, "ok"), (False, "error")])
async def test_who_may_hear_presence_alone_joins_only_with_presence(
    stack: Stack, *, presence: bool, status: str
) -> None:
    owner = await stack.sign_up()
    async with administrator(stack) as connection:
        await connection.execute(
            'create policy "All hear presence" on realtime.messages for select to authenticated'
            " using (extension = 'presence')"
        )
    async with socket(stack) as client:
        config = {"private": True, "presence": {"enabled": presence}}
        joined = await client.join("lobby", config, access_token=owner.access_token)

    assert joined["status"] == status


async def test_a_policy_that_fails_lets_nobody_in_and_says_the_usual(stack: Stack) -> None:
    owner = await stack.sign_up()
    async with administrator(stack) as connection:
        await connection.execute(
            'create policy "Broken" on realtime.messages for select to authenticated using (1 / 0 = 1)'
        )
    async with socket(stack) as client:
        joined = await client.join("lobby", {"private": "true"}, access_token=owner.access_token)

    reason = "Unauthorized: You do not have permissions to read from this Channel topic: lobby"
    assert joined == {"status": "error", "response": {"reason": reason}}


async def test_what_may_not_be_said_is_neither_heard_nor_acknowledged(stack: Stack) -> None:
    owner = await stack.sign_up()
    async with administrator(stack) as connection:
        await connection.execute('drop policy "Users speak on the topic of their id" on realtime.messages')
    topic = f"user:{owner.user_id}"
    async with socket(stack) as client:
        config = {"private": True, "broadcast": {"ack": True, "self": True}}
        await client.join(topic, config, access_token=owner.access_token)
        await client.push(topic, "broadcast", {"type": "broadcast", "event": "e", "payload": {}})

        assert await client.heard_by_now() == []


@pytest.mark.parametrize("config", [{"ack": True}, {"self": True}, {"ack": "true", "self": "TRUE"}, {}], ids=str)
async def test_an_answer_and_an_echo_come_to_those_who_asked(stack: Stack, config: Mapping[str, Any]) -> None:
    async with socket(stack) as client:
        await client.join("room", {"broadcast": config})
        ref = await client.push("room", "broadcast", {"type": "broadcast", "event": "e", "payload": {"x": 1}})
        frames = await client.heard_by_now()

    events = [frame["event"] for frame in frames]
    assert events == ["broadcast"] * ("self" in config) + ["phx_reply"] * ("ack" in config)
    assert all(frame["payload"] == {"status": "ok", "response": {}} for frame in frames if frame["ref"] == ref)


async def test_a_broadcast_over_three_megabytes_is_not_said(stack: Stack) -> None:
    async with socket(stack) as client:
        await client.join("room", {"broadcast": {"ack": True, "self": True}})
        said = {"type": "broadcast", "event": "e", "payload": {"x": "x" * 3_100_000}}
        answered = await client.ask("room", "broadcast", said)

        assert answered == {"status": "error", "response": {"reason": "payload_size_exceeded"}}
        assert await client.heard_by_now() == []


async def test_a_transaction_of_many_large_messages_reaches_a_reader_that_reads(stack: Stack) -> None:
    _, heard = await listen(await stack.client(), "room", private=False)

    async with administrator(stack) as connection:
        await connection.execute(
            "select realtime.send(jsonb_build_object('n', n, 'x', repeat('x', 900000)), 'large', 'room', false)"
            " from generate_series(1, 20) n"
        )
    await until(lambda: len(heard.broadcasts) == 20)

    assert [message["payload"]["n"] for message in heard.broadcasts] == list(range(1, 21))


async def test_leaving_is_answered_even_where_there_is_nothing_to_leave(stack: Stack) -> None:
    async with socket(stack) as client:
        await client.join("room")
        left = await client.ask("room", "phx_leave", {})
        closed = await client.frame("phx_close")
        again = await client.ask("room", "phx_leave", {})
        unheard = await client.ask("room", "broadcast", {"type": "broadcast", "event": "e", "payload": {}})

    assert left == again == {"status": "ok", "response": {}}
    assert closed["ref"] == "1"
    assert unheard == {"status": "error", "response": {"reason": "unmatched topic"}}


async def test_an_event_that_the_protocol_does_not_have_is_not_answered(stack: Stack) -> None:
    async with socket(stack) as client:
        await client.join("room")
        await client.push("room", "dance", {})

        assert await client.heard_by_now() == []


async def test_a_socket_joins_no_more_channels_than_it_may(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "CHANNELS_PER_SOCKET", 2)
    async with socket(stack) as client:
        statuses = [(await client.join(f"room {number}"))["status"] for number in range(2)]
        refused = await client.join("one too many")
        await client.ask("room 0", "phx_leave", {})
        joined = await client.join("one too many")

    assert statuses == ["ok", "ok"]
    assert refused["response"]["reason"] == "ChannelRateLimitReached: Too many channels"
    assert joined["status"] == "ok"


@pytest.mark.parametrize("topic", ["", "realtime:", "room", "phoenix"])
async def test_a_topic_without_a_name_cannot_be_joined(stack: Stack, topic: str) -> None:
    async with socket(stack) as client:
        frame = {"topic": topic, "event": "phx_join", "payload": {}, "ref": "1", "join_ref": "1"}
        await client.connection.send(json.dumps(frame))
        frames = await client.heard_by_now()

    assert [frame["payload"]["status"] for frame in frames] == ([] if topic == "phoenix" else ["error"])


async def test_stored_messages_are_replayed_to_a_private_listener_that_asks(stack: Stack) -> None:
    owner = await stack.sign_up()
    topic = f"user:{owner.user_id}"
    async with administrator(stack) as connection:
        for number in range(5):
            await connection.execute("select realtime.send(%s, 'log', %s, true)", [json.dumps({"n": number}), topic])
    async with socket(stack) as client:
        config = {"private": True, "broadcast": {"replay": {"since": 0, "limit": 3}}}
        await client.join(topic, config, access_token=owner.access_token)
        messages = [await client.hear("broadcast") for _ in range(3)]

    assert [message["payload"]["n"] for message in messages] == [2, 3, 4]
    assert all(message["meta"]["replayed"] for message in messages)


async def test_what_is_said_while_messages_are_replayed_comes_once_and_after_them(stack: Stack) -> None:
    owner = await stack.sign_up()
    topic = f"user:{owner.user_id}"
    config = {"private": True, "broadcast": {"replay": {}}}
    async with administrator(stack) as connection, socket(stack) as client:
        ref = await client.push(topic, "phx_join", {"config": config, "access_token": owner.access_token}, join_ref="1")
        for number in range(20):
            await connection.execute("select realtime.send(%s, 'log', %s, true)", [json.dumps({"n": number}), topic])
        numbers: list[int] = []
        while not numbers or numbers[-1] < 19:
            numbers.append((await client.hear("broadcast"))["payload"]["n"])

    assert ref == "1"
    assert numbers == list(range(numbers[0], 20))


async def test_a_message_that_was_replayed_before_the_log_told_of_it_comes_once(stack: Stack) -> None:
    owner = await stack.sign_up()
    topic = f"user:{owner.user_id}"
    config = {"private": True, "broadcast": {"replay": {}}}
    send = "select realtime.send(%s, 'log', %s, true)"
    async with administrator(stack) as connection, socket(stack) as client:
        await client.join("other")  # so that the log is read by now
        await connection.execute("set synchronous_commit to off")  # seen at once, in the log of changes a little later
        await connection.execute(send, ['{"n": 1}', topic])
        await client.join(topic, config, access_token=owner.access_token)
        await connection.execute("set synchronous_commit to on")
        await connection.execute(send, ['{"n": 2}', topic])
        first, second = [await client.hear("broadcast") for _ in range(2)]

    assert [first["payload"]["n"], second["payload"]["n"]] == [1, 2]
    assert first["meta"]["replayed"] is True
    assert "replayed" not in second["meta"]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"broadcast": {"replay": {"since": 0}}}, "Replay is not allowed for public channels"),
        ({"private": True, "broadcast": {"replay": {"since": "now"}}}, "Replay params are not valid"),
        ({"private": True, "broadcast": {"replay": {"limit": 1.5}}}, "Replay params are not valid"),
        ({"private": True, "broadcast": {"replay": {"since": 10**20}}}, "Replay params are not valid"),
    ],
    ids=["public", "since", "limit", "far"],
)
async def test_a_replay_that_cannot_be_had_refuses_the_join(stack: Stack, config: dict[str, Any], reason: str) -> None:
    owner = await stack.sign_up()
    async with socket(stack) as client:
        joined = await client.join(f"user:{owner.user_id}", config, access_token=owner.access_token)

    assert joined == {"status": "error", "response": {"reason": f"UnableToReplayMessages: {reason}"}}
