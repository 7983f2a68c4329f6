"""Row changes and broadcasts, as supabase-py's own Realtime client gets them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator

import pytest
from realtime import RealtimeSubscribeStates

from tests.local.realtime import administrator, listen, stack_with_notes, until, watch, write_notes
from tests.support.stack import Stack


@pytest.fixture
async def stack(database_url: str) -> AsyncGenerator[Stack]:
    async with stack_with_notes(database_url) as running:
        yield running


async def test_an_owner_gets_every_row_once_and_in_commit_order_and_a_stranger_none(stack: Stack) -> None:
    owner, stranger = await stack.sign_up(), await stack.sign_up()
    _, theirs = await watch(owner.client)
    _, others = await watch(stranger.client)
    bodies = [f"note {number}" for number in range(200)]

    await write_notes(stack, owner.user_id, *bodies)
    await write_notes(stack, stranger.user_id, "the end")
    await until(lambda: others.bodies and len(theirs.bodies) >= len(bodies))

    assert theirs.bodies == bodies
    assert others.bodies == ["the end"]


async def test_a_row_committed_right_after_the_subscription_is_seen(stack: Stack) -> None:
    owner = await stack.sign_up()

    _, heard = await watch(owner.client)
    await write_notes(stack, owner.user_id, "at once")
    await until(lambda: heard.changes)

    assert heard.bodies == ["at once"]


async def test_rows_come_in_the_order_of_their_commits_not_of_their_inserts(stack: Stack) -> None:
    owner = await stack.sign_up()
    _, heard = await watch(owner.client)

    async with administrator(stack) as slow, slow.transaction():
        await slow.execute("insert into notes (owner, body) values (%s, 'written first')", [owner.user_id])
        await write_notes(stack, owner.user_id, "committed first")
    await until(lambda: len(heard.changes) == 2)

    assert heard.bodies == ["committed first", "written first"]


async def test_a_rolled_back_row_is_never_seen(stack: Stack) -> None:
    owner = await stack.sign_up()
    _, heard = await watch(owner.client)

    async with administrator(stack) as connection, connection.transaction(force_rollback=True):
        await connection.execute("insert into notes (owner, body) values (%s, 'undone')", [owner.user_id])
    await write_notes(stack, owner.user_id, "done")
    await until(lambda: heard.changes)

    assert heard.bodies == ["done"]


async def test_values_arrive_as_their_json_and_only_in_columns_the_role_may_read(stack: Stack) -> None:
    owner = await stack.sign_up()
    _, heard = await watch(owner.client)

    async with administrator(stack) as connection:
        await connection.execute(
            "insert into notes (owner, body, size, tags, extra, at) values"
            """ (%s, E'a "b"\\n\u00e9', 12.50, '{x,NULL,"y, z"}', '{"k": [1, null]}', '2026-01-02 03:04:05.6+02')""",
            [owner.user_id],
        )
    await until(lambda: heard.changes)

    data = heard.changes[0]["data"]
    assert data["record"] == {
        "id": 1,
        "owner": owner.user_id,
        "body": 'a "b"\n\u00e9',
        "size": 12.5,
        "tags": ["x", None, "y, z"],
        "extra": {"k": [1, None]},
        "at": "2026-01-02T01:04:05.6+00:00",
    }
    assert [(column["name"], column["type"]) for column in data["columns"]] == [
        ("id", "int8"), ("owner", "uuid"), ("body", "text"), ("size", "numeric"), ("tags", "_text"),
        ("extra", "jsonb"), ("at", "timestamptz"),
    ]  # fmt: skip
    assert (data["type"], data["schema"], data["table"], data["errors"]) == ("INSERT", "public", "notes", None)


async def test_an_update_tells_the_new_row_and_the_old_key(stack: Stack) -> None:
    owner = await stack.sign_up()
    await write_notes(stack, owner.user_id, "before")
    _, heard = await watch(owner.client, event="UPDATE")

    async with administrator(stack) as connection:
        await connection.execute("update notes set body = 'after'")
    await until(lambda: heard.changes)

    assert heard.bodies == ["after"]
    assert heard.changes[0]["data"]["old_record"] == {"id": 1}


async def test_a_deletion_tells_everyone_the_key_and_nothing_else(stack: Stack) -> None:
    owner, stranger = await stack.sign_up(), await stack.sign_up()
    await write_notes(stack, owner.user_id, "secret")
    async with administrator(stack) as connection:
        await connection.execute("alter table notes replica identity full")
    _, heard = await watch(stranger.client, event="DELETE")

    async with administrator(stack) as connection:
        await connection.execute("delete from notes")
    await until(lambda: heard.changes)

    assert heard.changes[0]["data"]["old_record"] == {"id": 1}
    assert "record" not in heard.changes[0]["data"]


async def test_a_table_without_rls_is_told_to_everyone_who_may_select(stack: Stack) -> None:
    reader = await stack.sign_up()
    async with administrator(stack) as connection:
        await connection.execute(
            "create table news (id int primary key, body text); grant select on news to anon, authenticated;"
            "alter publication supabase_realtime add table news"
        )
    _, signed_in = await watch(reader.client, table="news")
    _, anonymous = await watch(await stack.client(), table="news", event="*")

    async with administrator(stack) as connection:
        await connection.execute("insert into news values (1, 'x')")
    await until(lambda: signed_in.changes and anonymous.changes)

    assert anonymous.bodies == signed_in.bodies == ["x"]


async def test_a_policy_changed_while_subscribed_counts_for_the_next_row(stack: Stack) -> None:
    owner = await stack.sign_up()
    _, heard = await watch(owner.client)

    await write_notes(stack, owner.user_id, "visible")
    await until(lambda: heard.changes)
    async with administrator(stack) as connection:
        await connection.execute('drop policy "Owners read their notes" on notes')
        await write_notes(stack, owner.user_id, "invisible")
        await connection.execute("alter table notes disable row level security")
    await write_notes(stack, owner.user_id, "open")
    await until(lambda: "open" in heard.bodies)

    assert heard.bodies[0] == "visible"
    assert heard.bodies[-1] == "open"


async def test_a_private_topic_is_heard_by_those_the_policy_lets_in_and_refused_to_others(stack: Stack) -> None:
    owner, stranger = await stack.sign_up(), await stack.sign_up()
    topic = f"user:{owner.user_id}"

    _, heard = await listen(owner.client, topic)
    _, refused = await listen(stranger.client, topic)
    async with administrator(stack) as connection:
        for number in range(50):
            await connection.execute(
                "select realtime.send(jsonb_build_object('n', %s::int), 'log', %s, true)", [number, topic]
            )
    await until(lambda: len(heard.broadcasts) >= 50)

    assert [message["payload"]["n"] for message in heard.broadcasts] == list(range(50))
    assert {message["event"] for message in heard.broadcasts} == {"log"}
    assert heard.broadcasts[0]["meta"]["id"] == heard.broadcasts[0]["payload"]["id"]
    assert refused.states[0][0] == RealtimeSubscribeStates.CHANNEL_ERROR
    assert "Unauthorized: You do not have permissions to read from this Channel topic" in refused.states[0][1]
    assert refused.broadcasts == []


async def test_a_public_listener_hears_nothing_of_a_private_topic_of_the_same_name(stack: Stack) -> None:
    owner, stranger = await stack.sign_up(), await stack.sign_up()
    topic = f"user:{owner.user_id}"
    _, heard = await listen(owner.client, topic)
    _, public = await listen(stranger.client, topic, private=False)

    async with administrator(stack) as connection:
        await connection.execute("select realtime.send('{}', 'private', %s, true)", [topic])
        await connection.execute("select realtime.send('{}', 'public', %s, false)", [topic])
    await until(lambda: heard.broadcasts and public.broadcasts)

    assert [message["event"] for message in heard.broadcasts] == ["private"]
    assert [message["event"] for message in public.broadcasts] == ["public"]


async def test_clients_hear_each_other_and_themselves_only_if_they_ask(stack: Stack) -> None:
    speaker, listener = await stack.client(), await stack.client()
    channel, own = await listen(speaker, "room", private=False)
    _, heard = await listen(listener, "room", private=False)
    echoing, echo = await listen(await stack.client(), "room", private=False, echo=True)

    await channel.send_broadcast("said", {"text": "hello"})
    await until(lambda: heard.broadcasts and echo.broadcasts)
    await echoing.send_broadcast("said", {"text": "bye"})
    await until(lambda: own.broadcasts and len(echo.broadcasts) == 2)

    assert [message["payload"]["text"] for message in heard.broadcasts] == ["hello", "bye"]
    assert [message["payload"]["text"] for message in own.broadcasts] == ["bye"]


async def test_a_message_sent_by_http_reaches_public_listeners_and_private_ones_only_if_it_may(stack: Stack) -> None:
    owner, stranger = await stack.sign_up(), await stack.sign_up()
    topic = f"user:{owner.user_id}"
    channel, heard = await listen(owner.client, topic)
    intruder = stranger.client.channel(topic, {"config": {"broadcast": None, "presence": None, "private": True}})

    await intruder.http_send("log", {"from": "stranger"})
    await channel.http_send("log", {"from": "owner"})
    await until(lambda: heard.broadcasts)

    assert [message["payload"] for message in heard.broadcasts] == [{"from": "owner"}]


async def test_leaving_ends_what_a_channel_hears(stack: Stack) -> None:
    owner = await stack.sign_up()
    channel, left = await watch(owner.client, "left")
    _, stayed = await watch(owner.client, "stayed")

    await channel.unsubscribe()
    await until(lambda: left.states[-1][0] == RealtimeSubscribeStates.CLOSED)
    await write_notes(stack, owner.user_id, "later")
    await until(lambda: stayed.changes)

    assert left.changes == []


async def test_two_bindings_of_a_channel_get_each_row_once(stack: Stack) -> None:
    owner = await stack.sign_up()
    channel = owner.client.channel("both")
    inserts, everything, systems = [], [], []
    channel.on_postgres_changes("INSERT", callback=inserts.append, schema="public", table="notes")
    channel.on_postgres_changes("*", callback=everything.append, schema="public", table="*")
    channel.on_system(systems.append)
    await channel.subscribe()
    await until(lambda: systems)

    await write_notes(stack, owner.user_id, "one", "two")
    await until(lambda: len(inserts) >= 2 and len(everything) >= 2)

    assert [change["data"]["record"]["body"] for change in inserts] == ["one", "two"]
    assert [change["data"]["record"]["body"] for change in everything] == ["one", "two"]
    assert len(set(itertools.chain.from_iterable(change["ids"] for change in inserts))) == 2
