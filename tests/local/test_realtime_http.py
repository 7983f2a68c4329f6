"""Broadcasts from outside a socket: over HTTP, and from the database."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from tests.local.realtime import administrator, listen, raw_socket, socket, stack_with_notes, until, write_notes
from tests.support.stack import Stack


@pytest.fixture
async def stack(database_url: str) -> AsyncGenerator[Stack]:
    async with stack_with_notes(database_url) as running:
        yield running


def letter(topic: str, **fields: Any) -> dict[str, Any]:
    return {"topic": topic, "event": "e", "payload": {"x": 1}, **fields}


async def test_a_batch_reaches_public_topics_and_private_ones_of_the_service_key_or_the_policies(stack: Stack) -> None:
    owner = await stack.sign_up()
    topic = f"user:{owner.user_id}"
    _, public = await listen(await stack.client(), "room", private=False)
    _, private = await listen(owner.client, topic)

    async with httpx.AsyncClient(base_url=stack.url) as http:
        for number, (key, token) in enumerate(
            [(stack.service_key, None), (stack.anon_key, None), (stack.anon_key, owner.access_token)]
        ):
            headers = {"apikey": key, **({"Authorization": f"Bearer {token}"} if token else {})}
            messages = [letter("room", payload={"n": number}), letter(topic, payload={"n": number}, private=True)]
            answered = await http.post("/realtime/v1/api/broadcast", json={"messages": messages}, headers=headers)
            assert answered.status_code == 202
    await until(lambda: len(public.broadcasts) == 3 and len(private.broadcasts) == 2)

    assert [message["payload"]["n"] for message in public.broadcasts] == [0, 1, 2]
    assert [message["payload"]["n"] for message in private.broadcasts] == [0, 2]


async def test_bytes_over_http_and_from_the_database_reach_those_who_can_hear_bytes(stack: Stack) -> None:
    join = '["1","1","realtime:room","phx_join",{"config":{}}]'
    async with socket(stack) as old, raw_socket(stack, vsn="2.0.0") as new, administrator(stack) as connection:
        await old.join("room")
        await new.send(join)
        await new.recv()
        headers = {"apikey": stack.anon_key, "content-type": "application/octet-stream"}
        async with httpx.AsyncClient(base_url=stack.url) as http:
            path = "/realtime/v1/api/broadcast/room/events/raw"
            answered = await http.post(path, content=b"\x00\xff", headers=headers)
        over_http = await new.recv()
        await connection.execute("select realtime.send_binary('\\x00ff', 'raw', 'room', false)")
        from_database = await new.recv()
        heard = await old.heard_by_now()

    assert answered.status_code == 202
    assert over_http == b"\x04\x0d\x03\x00\x00realtime:roomraw\x00\xff"
    assert isinstance(from_database, bytes)
    assert from_database.endswith(b"\x00\xff")
    assert b'{"id":' in from_database
    assert heard == []


async def test_a_trigger_tells_a_private_topic_what_happened_to_a_row(stack: Stack) -> None:
    owner = await stack.sign_up()
    topic = f"user:{owner.user_id}"
    async with administrator(stack) as connection:
        await connection.execute("""
            create function tell() returns trigger language plpgsql security definer as $$
            begin
              perform realtime.broadcast_changes(
                'user:' || coalesce(new.owner, old.owner), tg_op, tg_op, tg_table_name, tg_table_schema, new, old
              );
              return null;
            end $$;
            create trigger tell after insert or delete on notes for each row execute function tell();
        """)
    _, heard = await listen(owner.client, topic)

    await write_notes(stack, owner.user_id, "x")
    async with administrator(stack) as connection:
        await connection.execute("delete from notes")
    await until(lambda: len(heard.broadcasts) == 2)

    written, deleted = (message["payload"] for message in heard.broadcasts)
    assert (written["operation"], written["table"], written["schema"]) == ("INSERT", "notes", "public")
    assert (written["record"]["body"], written["old_record"]) == ("x", None)
    assert (deleted["record"], deleted["old_record"]["body"]) == (None, "x")
    assert [message["event"] for message in heard.broadcasts] == ["INSERT", "DELETE"]


async def test_what_a_role_may_not_send_from_the_database_is_a_warning_and_sent_to_nobody(stack: Stack) -> None:
    owner = await stack.sign_up()
    topic = f"user:{owner.user_id}"
    _, heard = await listen(owner.client, topic)

    async with administrator(stack) as connection:
        warnings: list[str] = []
        connection.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
        await connection.execute("set role anon")
        await connection.execute("select realtime.send('{}', 'forbidden', %s, true)", [topic])
        await connection.execute("reset role")
        await connection.execute("select realtime.send('{}', 'allowed', %s, true)", [topic])
    await until(lambda: heard.broadcasts)

    assert [message["event"] for message in heard.broadcasts] == ["allowed"]
    assert any("ErrorSendingBroadcastMessage" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("", b'{"messages": [{"topic": "t", "event": "e", "payload": {}}]}', 202),
        ("", b'{"messages": [{"topic": "t", "event": "e"}]}', 422),
        ("", b'{"messages": [{"topic": "t", "event": "e", "payload": [1]}]}', 422),
        ("", b'{"messages": []}', 422),
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
