"""What a row change says: values of every type, old rows, what RLS leaves of a deletion, rows too large to send."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from psycopg import sql
from realtime import RealtimeSubscribeStates

from tests.local.realtime import (
    Heard,
    administrator,
    socket,
    stack_with_notes,
    until,
    watch,
    write_notes,
)
from tests.support.stack import Stack

VALUES = """
create type public.mood as enum ('sad', 'happy');
create table public.everything (
  id int primary key, big bigint, exact numeric, near float8, bytes bytea, at timestamptz, local_at timestamp, day date,
  clock time, span interval, items int[], names text[][], doc jsonb, plain json, mood public.mood, moods public.mood[],
  flag boolean, address inet, key uuid, range int4range, nothing text
);
grant select on public.everything to anon;
alter publication supabase_realtime add table public.everything;
"""
INSERT = """
insert into public.everything values (
  1, 9007199254740993, 12345678901234567890.10, 'NaN', '\\xdeadbeef', '2026-01-02 03:04:05.6+02',
  '2026-01-02 03:04:05', '2026-01-02', '03:04:05', '1 day 02:00', '{1,NULL,3}', '{{a,"b c"},{NULL,"NULL"}}',
  '{"k": [1, 2.50, null]}', '{"x":1}', 'happy', '{sad,happy}', true,
  '10.0.0.1/8', '00000000-0000-0000-0000-000000000001', '[1,5)', null
)
"""


@pytest.fixture
async def stack(database_url: str) -> AsyncGenerator[Stack]:
    async with stack_with_notes(database_url) as running:
        yield running


def data_of(heard: Heard) -> list[dict[str, Any]]:
    return [change["data"] for change in heard.changes]


async def test_every_type_arrives_as_to_jsonb_writes_it(stack: Stack) -> None:
    async with administrator(stack) as connection, socket(stack) as client:
        await connection.execute(VALUES)
        await client.join("v", {"postgres_changes": [{"event": "*", "schema": "public", "table": "everything"}]})
        await client.hear("system")
        await connection.execute(INSERT)
        await connection.execute("set timezone = 'UTC'")
        query = "select to_jsonb(e)::text from public.everything e"
        (row,) = await (await connection.execute(query)).fetchone() or ("",)
        record = (await client.hear("postgres_changes"))["data"]["record"]

    assert record == json.loads(row)


async def test_an_update_with_replica_identity_full_tells_all_of_the_old_row_and_what_was_left_alone(
    stack: Stack,
) -> None:
    owner = await stack.sign_up()
    large = "".join(chr(33 + number * number % 90) for number in range(5000))
    async with administrator(stack) as connection:
        await connection.execute("alter table notes alter body set storage external")
        await connection.execute("alter table notes replica identity full")
        await write_notes(stack, owner.user_id, large)
        _, heard = await watch(owner.client, event="UPDATE")
        await connection.execute("update notes set size = 2")
        await connection.execute("alter table notes replica identity default")
        await connection.execute("update notes set size = 3")
    await until(lambda: len(heard.changes) == 2)

    full, default = data_of(heard)
    # The log repeats a large value that did not change in the old row, if at all.
    assert full["record"]["body"] == full["old_record"]["body"] == large
    assert (full["record"]["size"], full["old_record"]["size"]) == (2, None)
    assert "hidden" not in full["old_record"]
    assert "body" not in default["record"]
    assert default["old_record"] == {"id": 1}


async def test_a_deletion_without_rls_tells_the_columns_of_the_replica_identity(stack: Stack) -> None:
    async with administrator(stack) as connection:
        await connection.execute(
            "create table news (id int primary key, body text, secret text);"
            "grant select (id, body) on news to anon; alter publication supabase_realtime add table news;"
            "insert into news values (1, 'a', 's'), (2, 'b', 's')"
        )
        _, heard = await watch(await stack.client(), table="news", event="DELETE")
        _, filtered = await watch(await stack.client(), table="news", event="DELETE", filter="body=eq.b")
        await connection.execute("delete from news where id = 1")
        await connection.execute("alter table news replica identity full")
        await connection.execute("delete from news where id = 2")
    await until(lambda: len(heard.changes) == 2 and filtered.changes)

    assert [data["old_record"] for data in data_of(heard)] == [{"id": 1}, {"id": 2, "body": "b"}]
    assert [data["old_record"]["id"] for data in data_of(filtered)] == [2]


async def test_a_table_without_a_key_tells_only_that_something_changed_until_a_row_is_deleted(stack: Stack) -> None:
    async with administrator(stack) as connection:
        await connection.execute(
            "create table log (line text); alter table log replica identity full; grant select on log to anon;"
            "alter publication supabase_realtime add table log"
        )
        _, heard = await watch(await stack.client(), table="log", event="*")
        await connection.execute("insert into log values ('x')")
        await connection.execute("delete from log")
    await until(lambda: len(heard.changes) == 2)

    inserted, deleted = data_of(heard)
    assert (inserted["errors"], inserted["record"]) == (["Error 400: Bad Request, no primary key"], {})
    assert (deleted["errors"], deleted["old_record"]) == (None, {"line": "x"})


async def test_a_reader_that_may_not_see_the_key_is_told_so(stack: Stack) -> None:
    async with administrator(stack) as connection:
        await connection.execute(
            "create table news (id int primary key, body text); grant select (body) on news to anon;"
            "alter publication supabase_realtime add table news; alter table news replica identity full"
        )
        _, heard = await watch(await stack.client(), table="news", event="*")
        await connection.execute("insert into news values (1, 'x')")
        await connection.execute("delete from news")
    await until(lambda: len(heard.changes) == 2)

    inserted, deleted = data_of(heard)
    assert (inserted["errors"], inserted["record"]) == (["Error 401: Unauthorized"], {})
    assert (deleted["errors"], deleted["old_record"]) == (None, {"body": "x"})


async def test_of_a_row_too_large_to_send_the_small_values_are_left(stack: Stack) -> None:
    owner = await stack.sign_up()
    _, heard = await watch(owner.client)

    await write_notes(stack, owner.user_id, "x" * (1024 * 1024 + 1))
    await until(lambda: heard.changes)

    data = heard.changes[0]["data"]
    assert data["errors"] == ["Error 413: Payload Too Large"]
    assert data["record"] == {"id": 1, "owner": owner.user_id}


async def test_a_select_leaves_its_columns_and_the_key(stack: Stack) -> None:
    owner = await stack.sign_up()
    _, chosen = await watch(owner.client, "chosen", select=["body"])
    _, everything = await watch(owner.client, "everything")

    await write_notes(stack, owner.user_id, "x")
    await until(lambda: chosen.changes and everything.changes)

    data = chosen.changes[0]["data"]
    assert data["record"] == {"id": 1, "body": "x"}
    assert [column["name"] for column in data["columns"]] == ["id", "body"]
    assert "owner" in everything.changes[0]["data"]["record"]


async def test_all_schemas_are_heard_and_a_table_that_is_published_later_too(stack: Stack) -> None:
    async with administrator(stack) as connection:
        await connection.execute(
            "create schema other; grant usage on schema other to anon;"
            "create table other.early (id int primary key); create table other.late (id int primary key);"
            "grant select on other.early, other.late to anon; alter publication supabase_realtime add table other.early"
        )
        _, heard = await watch(await stack.client(), event="*", schema="*", table="*")
        await connection.execute("insert into other.early values (1)")
        await connection.execute("insert into other.late values (1)")
        await connection.execute("alter publication supabase_realtime add table other.late")
        await connection.execute("insert into other.late values (2)")
        await connection.execute("update other.early set id = 2")
    await until(lambda: len(heard.changes) == 3)

    assert [(data["type"], data["table"], data["record"]["id"]) for data in data_of(heard)] == [
        ("INSERT", "early", 1), ("INSERT", "late", 2), ("UPDATE", "early", 2),
    ]  # fmt: skip
    assert data_of(heard)[2]["old_record"] == {"id": 1}


async def test_an_update_that_hides_a_row_is_not_told(stack: Stack) -> None:
    owner, other = await stack.sign_up(), await stack.sign_up()
    await write_notes(stack, owner.user_id, "mine")
    _, heard = await watch(owner.client, event="*")

    async with administrator(stack) as connection:
        await connection.execute("update notes set owner = %s", [other.user_id])
    await write_notes(stack, owner.user_id, "next")
    await until(lambda: heard.changes)

    assert [data["type"] for data in data_of(heard)] == ["INSERT"]


async def test_bindings_of_one_channel_get_what_each_asked_for_and_the_ids_say_which(stack: Stack) -> None:
    owner = await stack.sign_up()
    wishes: list[dict[str, Any]] = [
        {"event": "INSERT", "schema": "public", "table": "notes"},
        {"event": "*", "schema": "public", "table": "notes", "filter": "body=eq.x"},
        {"event": "insert", "schema": "public"},
        {"event": "*", "table": "notes"},
        {"event": "DELETE", "schema": "public", "table": "notes"},
    ]
    async with socket(stack) as client, administrator(stack) as connection:
        joined = await client.join("n", {"postgres_changes": wishes}, access_token=owner.access_token)
        ids = [entry["id"] for entry in joined["response"]["postgres_changes"]]
        await client.hear("system")
        statement = "insert into notes (owner, body) values (%s, %s)"
        await connection.execute(statement, [owner.user_id, "x"])
        await connection.execute(statement, [owner.user_id, "y"])
        told = [await client.hear("postgres_changes") for _ in range(2)]
        await connection.execute("delete from notes where body = 'y'")
        told.append(await client.hear("postgres_changes"))

    assert joined["response"]["postgres_changes"] == [
        {**wish, "id": id_} for wish, id_ in zip(wishes, ids, strict=True)
    ]
    assert [sorted(ids.index(id_) for id_ in change["ids"]) for change in told] == [[0, 1, 2, 3], [0, 2, 3], [3, 4]]


@pytest.mark.parametrize(
    "wish",
    [{}, {"event": "*"}, {"schema": 1}, {"table": "notes", "filter": "id=eq.1"}, {"schema": "public", "filter": ""}],
)
async def test_a_wish_without_a_table_is_refused_by_a_system_message(stack: Stack, wish: dict[str, Any]) -> None:
    async with socket(stack) as client:
        joined = await client.join("n", {"postgres_changes": [wish, None]})
        told = await client.hear("system")

    assert len(joined["response"]["postgres_changes"]) == 1
    assert (told["extension"], told["status"], told["channel"]) == ("postgres_changes", "error", "n")


async def test_a_join_may_wait_for_its_subscription_and_is_refused_when_there_is_none(stack: Stack) -> None:
    owner = await stack.sign_up()
    async with socket(stack) as client:
        waiting = {"postgres_changes_options": {"wait": True}}
        bad = await client.join("n", {"postgres_changes": [{"schema": "public", "table": "no"}], **waiting})
        wish = {"event": "INSERT", "schema": "public", "table": "notes"}
        good = await client.join("n", {"postgres_changes": [wish], **waiting}, access_token=owner.access_token)
        await write_notes(stack, owner.user_id, "at once")
        told = await client.hear("system")
        change = await client.hear("postgres_changes")

    assert bad["response"]["reason"].startswith("RealtimeDisabledForConfiguration: Unable to subscribe")
    assert good["status"] == "ok"
    assert told["message"] == "Subscribed to PostgreSQL"
    assert change["data"]["record"]["body"] == "at once"


async def test_a_policy_that_fails_for_one_listener_hides_the_row_from_nobody_else(stack: Stack) -> None:
    owner, unlucky = await stack.sign_up(), await stack.sign_up()
    impossible = stack.keys.sign_jwt({"role": "postgres", "sub": owner.user_id, "exp": 4_000_000_000})
    async with administrator(stack) as connection, socket(stack) as superuser:
        await connection.execute(
            sql.SQL(
                'create policy "Fails" on notes for select to authenticated using (1 / (auth.uid() <> {})::int = 0)'
            ).format(sql.Literal(unlucky.user_id))
        )
        _, heard = await watch(owner.client)
        _, told = await watch(unlucky.client)
        wish = {"event": "INSERT", "schema": "public", "table": "notes"}
        await superuser.join("n", {"postgres_changes": [wish]}, access_token=impossible)
        await superuser.hear("system")
        await write_notes(stack, owner.user_id, "x")
        await until(lambda: heard.changes and len(told.states) > 1)
        to_superuser = await superuser.hear("postgres_changes")

    assert heard.bodies == ["x"]
    assert [state for state, _ in heard.states] == [RealtimeSubscribeStates.SUBSCRIBED]
    assert told.changes == []
    assert "Rows could not be checked against the table's policies" in told.states[1][1]
    assert (to_superuser["data"]["errors"], to_superuser["data"]["record"]) == (["Error 401: Unauthorized"], {})
