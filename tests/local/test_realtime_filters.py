"""Filters of row changes: each operator means what PostgreSQL's means on the column's type."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql
from realtime import RealtimeSubscribeStates

from local.realtime.filter_syntax import Condition, FilterSyntaxError, parse
from tests.local.realtime import administrator, stack_with_notes, until, watch
from tests.support.stack import Stack

THINGS = """
create extension if not exists citext schema extensions;
create type public.mood as enum ('sad', 'ok', 'happy');

create domain public.grade as int check (value between 1 and 6);
create table public.things (
  id int primary key, name text, code char(4), done boolean, price numeric, mood public.mood, tags text[],
  span int4range, doc jsonb, raw bytea, grade public.grade, label extensions.citext, at timestamptz, word varchar(20)
);
grant select on public.things to anon, authenticated;
alter publication supabase_realtime add table public.things;
"""
ROWS: list[tuple[Any, ...]] = [
    (1, "Ada", "ab", True, "10.0", "sad", ["a", "b"], "[1,5)", '{"k": 1}', b"\x00", 1, "Red", "2026-01-01Z", "one"),
    (
        2,
        "bob, (jr)",
        "abcd",
        False,
        "9.50",
        "happy",
        [],
        "empty",
        '{"k": 1.0}',
        b"\xff",
        6,
        "red",
        "2026-01-02Z",
        "100%",
    ),
    (3, 'says "hi"\\', None, None, "NaN", "ok", None, None, None, None, None, None, "infinity", None),
]


@pytest.fixture
async def stack(database_url: str) -> AsyncGenerator[Stack]:
    async with stack_with_notes(database_url) as running:
        yield running


async def ordered_by_postgresql(connection: psycopg.AsyncConnection[Any], condition: str) -> list[str]:
    """The notes that the condition selects when the database itself is asked."""
    column, _, test = condition.partition("=")
    operator, _, value = test.partition(".")
    sign = {"eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}[operator]
    statement = sql.SQL("select body from notes where {} {} {} order by id")
    cursor = await connection.execute(statement.format(sql.Identifier(column), sql.SQL(sign), sql.Literal(value)))
    return [body for (body,) in await cursor.fetchall()]


# Each with the things that it selects.
CONDITIONS: dict[str, list[int]] = {
    "name=eq.Ada": [1],
    "name=neq.Ada": [2, 3],
    "code=eq.ab": [1],
    "code=not.eq.ab": [2],
    "price=eq.10": [1],
    "price=gt.9.5": [1, 3],
    "price=lte.9.5": [2],
    "name=lt.a": [1],
    "mood=gt.sad": [2, 3],
    "mood=in.(sad,ok)": [1, 3],
    "grade=gte.6": [2],
    "label=eq.RED": [1, 2],
    "at=gte.2026-01-02T01:00:00+01:00": [2, 3],
    'tags=eq."{a,b}"': [1],
    "tags=eq.{}": [2],
    "span=gt.empty": [1],
    'doc=eq.{"k": 1.000}': [1, 2],
    "raw=eq.\\xff": [2],
    "done=is.true": [1],
    "done=not.is.true": [2, 3],
    "done=is.unknown": [3],
    "done=is.null": [3],
    "done=eq.false": [2],
    "code=not.is.null": [1, 2],
    "code=isdistinct.ab": [2, 3],
    "mood=not.isdistinct.ok": [3],
    "name=like.%a": [1],
    "name=ilike.%A%": [1, 3],
    "name=not.like.%b%": [1, 3],
    "word=like.1%": [2],
    "word=like.100\\%": [2],
    "name=match.^[A-Z]": [1],
    "name=imatch.^b": [2],
    "name=not.match.[[:space:]]": [1],
    "id=in.(1,3)": [1, 3],
    "id=not.in.(1,3)": [2],
    "id=gt.0, id=lt.3 ,done=eq.true": [1],
    'name=eq."bob, (jr)"': [2],
    'name=in.("bob, (jr)",Ada)': [1, 2],
    'name=eq."says \\"hi\\"\\\\"': [3],
}


async def test_a_filter_lets_through_what_postgresql_would_select(stack: Stack) -> None:
    client = await stack.client()
    async with administrator(stack) as connection:
        await connection.execute(THINGS)
        watched = {
            condition: (await watch(client, condition, table="things", filter=condition))[1] for condition in CONDITIONS
        }
        _, everything = await watch(client, "all", table="things")
        for row in ROWS:
            places = sql.SQL(", ").join(sql.Placeholder() * len(row))
            await connection.execute(sql.SQL("insert into things values ({})").format(places), row)
    # All are told of a row in the same moment, over one socket.
    await until(lambda: len(everything.changes) == len(ROWS))

    found = {
        condition: [change["data"]["record"]["id"] for change in heard.changes] for condition, heard in watched.items()
    }
    assert found == CONDITIONS


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("at=gt.0044-01-01 BC", ["christ", "now", "far", "never"]),
        ("at=lt.0044-01-01 BC", ["old"]),
        ("at=gte.12000-01-01", ["far", "never"]),
        ("at=lt.infinity", ["old", "christ", "now", "far"]),
        ("size=eq.NaN", ["never"]),
        ("size=neq.NaN", ["old", "christ", "now", "far"]),
        ("size=gt.Infinity", ["never"]),
        ("size=lt.NaN", ["old", "christ", "now", "far"]),
        ("size=lte.NaN", ["old", "christ", "now", "far", "never"]),
    ],
)
async def test_a_filter_takes_moments_and_numbers_beyond_pythons_in_the_order_of_postgresql(
    stack: Stack, condition: str, expected: list[str]
) -> None:
    rows = [
        ("old", "-Infinity", "0100-06-01 00:00:00+00 BC"),
        ("christ", "0", "0001-01-01 00:00:00+00"),
        ("now", "1.5", "2026-01-01 00:00:00.25+00"),
        ("far", "Infinity", "12000-01-01 00:00:00+00"),
        ("never", "NaN", "infinity"),
    ]
    owner = await stack.sign_up()
    _, heard = await watch(owner.client, "filtered", filter=condition)
    _, everything = await watch(owner.client, "all")

    async with administrator(stack) as connection:
        for row in rows:
            statement = "insert into notes (owner, body, size, at) values (%s, %s, %s, %s)"
            await connection.execute(statement, [owner.user_id, *row])
        assert await ordered_by_postgresql(connection, condition) == expected
    await until(lambda: len(everything.changes) == len(rows) and len(heard.changes) >= len(expected))

    assert heard.bodies == expected


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ({"filter": "nothing=eq.1"}, "invalid column for filter nothing"),
        ({"filter": "hidden=eq.1"}, "invalid column for filter hidden"),
        ({"filter": "size=eq.many"}, "invalid input syntax for type numeric"),
        ({"filter": "size=like.1%"}, "operator like on column size of type numeric"),
        ({"filter": "body=match.("}, "invalid regular expression"),
        ({"filter": "body=is.true"}, "is true filter requires a boolean column, got text"),
        ({"filter": "body=is.nil"}, "invalid value for is filter"),
        ({"filter": "id=in.(" + ",".join(map(str, range(101))) + ")"}, "too many values for `in` filter. Maximum 100"),
        ({"filter": "id=in.1"}, "`in` filter value must be wrapped by parentheses"),
        ({"filter": "nonsense"}, "Error parsing `filter` params"),
        ({"filter": "id=gt.1,"}, "filter must not contain empty segments"),
        ({"filter": "id=foo.1"}, "unknown operator 'foo'"),
        ({"table": "missing"}, "Please check Realtime is enabled for the given connect parameters"),
        ({"select": ["id", "hidden"]}, "invalid column for select hidden"),
        ({"select": ["id"], "table": "*"}, "Column selection is not supported for wildcard subscriptions"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(map(str, value.values()))[:30],
)
async def test_a_subscription_that_cannot_be_served_is_refused_by_a_system_message(
    stack: Stack, binding: dict[str, Any], message: str
) -> None:
    owner = await stack.sign_up()
    channel = owner.client.channel("bad")
    channel.on_postgres_changes(
        **{"event": "INSERT", "schema": "public", "table": "notes", "callback": lambda _: None, **binding}
    )
    states: list[tuple[RealtimeSubscribeStates, str]] = []

    await channel.subscribe(lambda state, error: states.append((state, str(error))))
    await until(lambda: len(states) > 1)

    assert [state for state, _ in states] == [RealtimeSubscribeStates.SUBSCRIBED, RealtimeSubscribeStates.CHANNEL_ERROR]
    assert message in states[1][1]


async def test_a_filter_on_all_tables_is_checked_for_each_of_them(stack: Stack) -> None:
    owner = await stack.sign_up()
    async with administrator(stack) as connection:
        await connection.execute(
            "create table news (id int primary key, body text); grant select on news to authenticated;"
            "alter publication supabase_realtime set table notes, news"
        )
        _, heard = await watch(owner.client, table="*", filter="body=like.w%")
        await connection.execute("insert into news values (1, 'when'), (2, 'then')")
        await connection.execute("insert into notes (owner, body) values (%s, 'what')", [owner.user_id])
    await until(lambda: len(heard.changes) == 2)

    assert heard.bodies == ["when", "what"]


@pytest.mark.parametrize("condition", ["size=gt.1", "at=gt.2000-01-01"])
async def test_a_filter_that_no_longer_fits_its_column_ends_only_its_own_subscription(
    stack: Stack, condition: str
) -> None:
    owner = await stack.sign_up()
    _, broken = await watch(owner.client, "broken", filter=condition)
    _, heard = await watch(owner.client, "all")

    column = condition.partition("=")[0]
    async with administrator(stack) as connection:
        await connection.execute(sql.SQL("alter table notes alter {} type text").format(sql.Identifier(column)))
        for body in ("first", "second"):
            statement = sql.SQL("insert into notes (owner, body, {}) values (%s, %s, 'a lot')")
            await connection.execute(statement.format(sql.Identifier(column)), [owner.user_id, body])
    await until(lambda: len(heard.changes) == 2 and len(broken.states) > 1)

    assert heard.bodies == ["first", "second"]
    assert not broken.changes
    subscribed, failed = RealtimeSubscribeStates.SUBSCRIBED, RealtimeSubscribeStates.CHANNEL_ERROR
    assert [state for state, _ in broken.states] == [subscribed, failed]
    assert "The filter could not be applied" in broken.states[1][1]
    assert [state for state, _ in heard.states] == [subscribed]


@given(st.text())
def test_any_text_is_a_filter_or_is_refused(text: str) -> None:
    try:
        conditions = parse(text)
    except FilterSyntaxError:
        return
    assert len(conditions) <= text.count("=")


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_a_value_that_is_quoted_as_the_clients_do_it_comes_out_as_it_was(values: list[str]) -> None:
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    text = ",".join(f'body=eq."{value}"' for value in quoted)

    assert parse(text) == [Condition("body", "eq", value) for value in values]
