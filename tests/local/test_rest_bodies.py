"""What is written to the museum: formats of bodies, upserts, views, defaults, and what is answered."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio

from local.rest.body import MAX_BYTES
from tests.support.database import TestServer
from tests.support.rest import Shop
from tests.support.rest_cases import by_id, open_museum


@pytest_asyncio.fixture
async def museum(database_server: TestServer, template_database: str) -> AsyncGenerator[Shop]:
    async with open_museum(database_server, template_database) as opened:
        yield opened


def prefer(*preferences: str) -> dict[str, str]:
    return {"Prefer": ", ".join(preferences)}


ROWS = prefer("return=representation")
MERGE = prefer("resolution=merge-duplicates", "return=representation")
FORM = {"Content-Type": "application/x-www-form-urlencoded", **ROWS}
CSV = {"Content-Type": "text/csv", **ROWS}
# Method, path, headers, body -> status, answer.
WRITES: dict[str, tuple[str, str, dict[str, str], str, int, Any]] = {
    "one object": ("POST", "rooms", ROWS, '{"id":10,"name":"A"}', 201, [{"id": 10, "name": "A"}]),
    "only the columns named": (
        "POST",
        "rooms?columns=id,name",
        ROWS,
        '[{"id":12,"name":"C","x":1}]',
        201,
        [{"id": 12, "name": "C"}],
    ),
    "no rows": ("POST", "rooms", ROWS, "[]", 201, []),
    "what is no row": ("POST", "rooms", ROWS, "5", 201, []),
    "rows without any column": ("POST", "notices?select=id,said", ROWS, "[{}]", 201, [{"id": 7, "said": None}]),
    "several rows without any column": (
        "POST",
        "drafts?select=text",
        ROWS,
        "[{}, {}]",
        201,
        [{"text": "blank"}, {"text": "blank"}],
    ),
    "a default of the column's type, and one of its own": (
        "POST",
        "marks?columns=id,mark,own,kept",
        prefer("missing=default", "return=representation"),
        '{"id":1,"kept":{"a":1,"a":2}}',
        201,
        [{"id": 1, "mark": 5, "own": 6, "kept": {"a": 2}}],
    ),
    "CSV with a long field": (
        "POST",
        "rooms",
        CSV,
        f"id,name\n24,{'x' * 200_000}\n",
        201,
        [{"id": 24, "name": "x" * 200_000}],
    ),
    "no table's key to merge by": (
        "POST",
        "drafts?select=text",
        prefer("return=representation"),
        '{"text":"x"}',
        201,
        [{"text": "x"}],
    ),
    "CSV": (
        "POST",
        "works?select=id,title,year",
        CSV,
        'id,title,year\n20,"a,""b""",NULL\n21,NULL x,1900\n',
        201,
        [{"id": 20, "title": 'a,"b"', "year": None}, {"id": 21, "title": "NULL x", "year": 1900}],
    ),
    "a form": ("POST", "rooms", FORM, "id=22&name=Form+room", 201, [{"id": 22, "name": "Form room"}]),
    "with an embed": (
        "POST",
        "labels?select=text,works(title,maker(name))",
        ROWS,
        '{"work_id":2}',
        201,
        [{"text": "untitled", "works": {"title": "Dusk", "maker": {"name": "Ada"}}}],
    ),
    "digits as they were": (
        "POST",
        "works?select=data",
        ROWS,
        '{"id":82,"title":"n","data":{"n":1.10,"big":12345678901234567890}}',
        201,
        [{"data": {"n": 1.1, "big": 12345678901234567890}}],
    ),
    "into a partition": (
        "POST",
        "visits?select=id,rooms(name)",
        ROWS,
        '{"id":9,"day":"2025-02-02","room_id":1}',
        201,
        [{"id": 9, "rooms": {"name": "Red"}}],
    ),
    "a domain by its own JSON": (
        "POST",
        "paints?select=color",
        ROWS,
        '[{"id":3,"color":"#010203"},{"id":4,"color":"#ffffff"}]',
        201,
        [{"color": "#010203"}, {"color": "#ffffff"}],
    ),
    "a domain updated": (
        "PATCH",
        "paints?id=eq.1&select=color",
        ROWS,
        '{"color":"#0a0b0c"}',
        200,
        [{"color": "#0a0b0c"}],
    ),
    "an upsert of a row that is there": (
        "POST",
        "rooms",
        MERGE,
        '{"id":1,"name":"Ruby"}',
        200,
        [{"id": 1, "name": "Ruby"}],
    ),
    "an upsert of both kinds": (
        "POST",
        "rooms?select=id",
        MERGE,
        '[{"id":1,"name":"Ruby"},{"id":41,"name":"New"}]',
        201,
        [{"id": 1}, {"id": 41}],
    ),
    "an upsert that leaves what is there": (
        "POST",
        "rooms",
        prefer("resolution=ignore-duplicates", "return=representation"),
        '[{"id":1,"name":"Ruby"},{"id":40,"name":"New"}]',
        201,
        [{"id": 40, "name": "New"}],
    ),
    "an upsert through a view": (
        "POST",
        "work_list?select=number,title",
        MERGE,
        '{"number":1,"title":"Again"}',
        200,
        [{"number": 1, "title": "Again"}],
    ),
    "an update through a view": (
        "PATCH",
        "work_list?number=eq.1&select=title,painter(name)",
        ROWS,
        '{"title":"Third"}',
        200,
        [{"title": "Third", "painter": {"name": "Ada"}}],
    ),
    "an update by the first of several rows": (
        "PATCH",
        "rooms?id=eq.1",
        ROWS,
        '[{"name":"First"},{"name":"Second"}]',
        200,
        [{"id": 1, "name": "First"}],
    ),
    "an update with a default": (
        "PATCH",
        "labels?work_id=eq.1&columns=text",
        prefer("missing=default", "return=representation"),
        "{}",
        200,
        [{"work_id": 1, "text": "untitled"}],
    ),
    "an update of nothing": ("PATCH", "rooms?id=eq.1", ROWS, "{}", 200, []),
    "an update by no rows": ("PATCH", "rooms?id=eq.1", ROWS, "[]", 200, []),
    "an update with a filter on what it embeds": (
        "PATCH",
        "artists?id=eq.1&select=name,oeuvre(title)&oeuvre.id=eq.1",
        ROWS,
        '{"name":"Ada L"}',
        200,
        [{"name": "Ada L", "oeuvre": [{"title": "Dawn"}]}],
    ),
    "an update with computed columns": (
        "PATCH",
        "works?id=eq.1&select=shouted",
        ROWS,
        '{"title":"x"}',
        200,
        [{"shouted": "X!"}],
    ),
    "a put of a new row": ("PUT", "rooms?id=eq.60", ROWS, '{"id":60,"name":"Put"}', 201, [{"id": 60, "name": "Put"}]),
    "a put of a row that is there": (
        "PUT",
        "rooms?id=eq.1",
        ROWS,
        '{"id":1,"name":"Put"}',
        200,
        [{"id": 1, "name": "Put"}],
    ),
    "a delete in an order": (
        "DELETE",
        "labels?work_id=in.(1,3)&select=works(title)&order=work_id.desc",
        ROWS,
        "",
        200,
        [{"works": {"title": 'Noon, "late"'}}, {"works": {"title": "Dawn"}}],
    ),
}


@pytest.mark.parametrize("case", by_id(WRITES))
async def test_a_write_answers_with_what_it_wrote(
    museum: Shop, case: tuple[str, str, dict[str, str], str, int, Any]
) -> None:
    method, path, headers, body, status, rows = case

    answer = await museum.service.request(
        method, path, headers={"Content-Type": "application/json", **headers}, content=body
    )

    assert (answer.status_code, answer.json()) == (status, rows)
    assert answer.headers["preference-applied"] == headers["Prefer"]


# Method, path, headers, body -> status, code, and a message where it is PostgREST's own.
REFUSALS: dict[str, tuple[str, str, dict[str, str], str, int, str, str | None]] = {
    "no JSON": ("POST", "rooms", {}, "not json", 400, "PGRST102", "Empty or invalid json"),
    "no body": ("POST", "rooms", {}, "", 400, "PGRST102", "Empty or invalid json"),
    "rows of different keys": (
        "POST", "rooms", {}, '[{"id":13,"name":"C"},{"id":14}]', 400, "PGRST102", "All object keys must match",
    ),
    "CSV with a hole": (
        "POST", "rooms", {"Content-Type": "text/csv"}, "id,name\n20\n", 400, "PGRST102",
        "All lines must have same number of fields",
    ),
    "another format": (
        "POST", "rooms", {"Content-Type": "application/xml"}, "<a/>", 400, "PGRST102",
        "Content-Type not acceptable: application/xml",
    ),
    "an unknown column": (
        "PATCH", "rooms?id=eq.1", {}, '{"nope":1}', 400, "PGRST204",
        "Could not find the 'nope' column of 'rooms' in the schema cache",
    ),
    "no filter for an update": ("PATCH", "rooms", {}, '{"name":"x"}', 400, "21000", "UPDATE requires a WHERE clause"),
    "no filter for a delete": ("DELETE", "rooms", {}, "", 400, "21000", "DELETE requires a WHERE clause"),
    "a put of another row": (
        "PUT", "rooms?id=eq.60", {}, '{"id":61,"name":"P"}', 400, "PGRST115",
        "Payload values do not match URL in primary key column(s)",
    ),
    "a put by another column": (
        "PUT", "rooms?name=eq.60", {}, '{"id":61,"name":"P"}', 405, "PGRST105",
        "Filters must include all and only primary key columns with 'eq' operators",
    ),
    "a put of a page": (
        "PUT", "rooms?id=eq.60&limit=1", {}, '{"id":60,"name":"P"}', 400, "PGRST114",
        "limit/offset querystring parameters are not allowed for PUT",
    ),
    "more rows than allowed": (
        "DELETE", "labels?work_id=gt.0", prefer("handling=strict", "max-affected=1"), "", 400, "PGRST124",
        "Query result exceeds max-affected preference constraint",
    ),
    "rows and other things": ("POST", "rooms", {}, '[{"id":1},3]', 400, "PGRST102", "All object keys must match"),
    "other things": ("POST", "rooms", {}, "[3]", 400, "PGRST102", "All object keys must match"),
    "columns of nothing": (
        "POST", "rooms?columns=", {}, '{"id":1}', 400, "PGRST100",
        '"failed to parse columns parameter ()" (line 1, column 1)',
    ),
    "several rows for one object, none returned": (
        "DELETE", "labels?work_id=gt.0", {"Accept": "application/vnd.pgrst.object+json"}, "", 406,
        "PGRST116", "Cannot coerce the result to a single JSON object",
    ),
    "several rows for one object, their keys returned": (
        "POST", "rooms", {"Accept": "application/vnd.pgrst.object+json", **prefer("return=headers-only")},
        '[{"id":81,"name":"a"},{"id":82,"name":"b"}]', 406,
        "PGRST116", "Cannot coerce the result to a single JSON object",
    ),
    "a put of nothing": (
        "PUT", "rooms?id=eq.60", {}, "{}", 400, "PGRST115", "Payload values do not match URL in primary key column(s)",
    ),
    "several rows for one object": (
        "PATCH", "rooms?id=gt.0", {"Accept": "application/vnd.pgrst.object+json", **ROWS}, '{"name":"x"}', 406,
        "PGRST116", "Cannot coerce the result to a single JSON object",
    ),
    "a row that is there": ("POST", "rooms", {}, '{"id":1,"name":"dup"}', 409, "23505", None),
    "a key to nothing": ("POST", "hangings", {}, '{"work_id":99,"room_id":1}', 409, "23503", None),
    "a conflict on no key": (
        "POST", "rooms?on_conflict=name", prefer("resolution=merge-duplicates"), '{"id":1,"name":"x"}', 400, "42P10",
        None,
    ),
    "a null where there is none": ("POST", "rooms", {}, '{"id":80}', 400, "23502", None),
    "another type's value": ("POST", "works", {}, '{"id":80,"title":"x","price":"abc"}', 400, "22P02", None),
    "a zero byte": ("POST", "rooms", {}, '{"id":80,"name":"\\u0000"}', 400, "22P05", None),
    "no partition": ("POST", "visits", {}, '{"id":9,"day":"2024-02-02"}', 400, "23514", None),
    "a view that cannot be written": ("POST", "crowded_rooms", {}, '{"id":1}', 500, "55000", None),
}  # fmt: skip


@pytest.mark.parametrize("case", by_id(REFUSALS))
async def test_a_refused_write_says_why_and_writes_nothing(
    museum: Shop, case: tuple[str, str, dict[str, str], str, int, str, str | None]
) -> None:
    method, path, headers, body, status, code, message = case

    answer = await museum.service.request(
        method, path, headers={"Content-Type": "application/json", **headers}, content=body
    )

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["message"] == message or message is None
    assert answer.headers["proxy-status"] == f"PostgREST; error={code}"
    rooms = await museum.service.get("rooms?order=id")
    assert rooms.json() == [{"id": 1, "name": "Red"}, {"id": 2, "name": "Blue"}, {"id": 3, "name": "Empty"}]
    assert len((await museum.service.get("labels")).json()) == 2


async def test_where_nothing_is_returned_the_headers_tell(museum: Shop) -> None:
    created = await museum.service.post(
        "hangings", json={"work_id": 4, "room_id": 1}, headers=prefer("return=headers-only", "count=exact")
    )
    through_view = await museum.service.post(
        "work_list", json={"number": 51, "title": "x"}, headers=prefer("return=headers-only")
    )
    updated = await museum.service.patch("rooms?id=gt.1", json={"name": "z"}, headers=prefer("count=exact"))
    unlimited = await museum.service.patch("rooms?id=gt.1", json={"name": "z"}, headers=prefer("max-affected=1"))
    deleted = await museum.service.delete("labels?work_id=gt.0", headers=prefer("count=exact"))
    put = await museum.service.put("rooms?id=eq.1", json={"id": 1, "name": "z"})
    single = await museum.service.post(
        "rooms",
        json={"id": 90, "name": "a & b"},
        headers={"Accept": "application/vnd.pgrst.object+json", **prefer("return=headers-only")},
    )
    keyless = await museum.service.post("drafts", json={}, headers=prefer("resolution=merge-duplicates"))
    merged = await museum.service.post(
        "rooms", json={"id": 1, "name": "x"}, headers=prefer("handling=strict", "max-affected=0", "return=minimal")
    )

    assert (created.status_code, created.headers["location"]) == (201, "/hangings?work_id=eq.4&room_id=eq.1")
    assert created.headers["content-range"] == "*/1"
    assert through_view.headers["location"] == "/work_list?number=eq.51"
    assert (updated.status_code, updated.headers["content-range"]) == (204, "0-1/2")
    assert (unlimited.status_code, "preference-applied" in unlimited.headers) == (204, False)
    assert (deleted.status_code, deleted.headers["content-range"]) == (204, "*/2")
    assert (put.status_code, put.content, "content-range" in put.headers) == (204, b"", False)
    assert (single.status_code, single.headers["location"]) == (201, "/rooms?id=eq.90")
    assert (keyless.status_code, "preference-applied" in keyless.headers) == (201, False)
    assert merged.status_code == 409


async def test_a_key_in_a_location_may_be_any_text_or_null(museum: Shop) -> None:
    await museum.execute(
        'create table public."spare parts" (name text primary key);'
        "create view public.halves as select r.id, l.work_id from public.rooms r, public.labels l where false;"
        "create function public.halve() returns trigger language plpgsql as 'begin return new; end';"
        "create trigger halve instead of insert on public.halves for each row execute function public.halve();"
        'grant all on public."spare parts", public.halves to service_role'
    )

    answer = await museum.service.post("spare parts", json={"name": "a&b=c/é +"}, headers=prefer("return=headers-only"))

    half = await museum.service.post("halves", json={"id": 4}, headers=prefer("return=headers-only"))

    assert answer.headers["location"] == "/spare parts?name=eq.a%26b%3Dc%2F%C3%A9%20%2B"
    assert half.headers["location"] == "/halves?id=eq.4&work_id=is.null"


async def test_a_write_returns_no_more_columns_than_its_answer_needs(museum: Shop) -> None:
    await museum.execute("alter table public.labels add secret text")
    person = await museum.stack.sign_up()
    headers = {"Authorization": f"Bearer {person.access_token}", **ROWS}

    embedded = await museum.service.post("labels?select=works(title)", json={"work_id": 2}, headers=headers)
    everything = await museum.service.post("labels", json={"work_id": 4}, headers=headers)

    assert (embedded.status_code, embedded.json()) == (201, [{"works": {"title": "Dusk"}}])
    assert (everything.status_code, everything.json()["code"]) == (403, "42501")


async def test_a_body_that_would_fill_the_memory_is_refused_unless_its_columns_are_named(museum: Shop) -> None:
    blanks = b"[" + b"{}," * (MAX_BYTES // 3 - 1) + b"{}]"
    rows = b"[" + b",".join(b'{"id":%d,"name":"x","y":[{},{}]}' % number for number in range(100, 20_100)) + b"]"

    tracemalloc.start()
    try:
        refused = await museum.service.post("rooms", content=blanks)
        called = await museum.service.post("rpc/given", content=b'{"document":' + blanks[: MAX_BYTES - 99] + b"}")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    written = await museum.service.post("rooms?columns=id,name", content=rows, headers=prefer("count=exact"))

    assert (refused.status_code, refused.json()["code"]) == (413, "PGRST102")
    assert called.status_code == 413
    assert peak < 8 * MAX_BYTES
    assert (written.status_code, written.headers["content-range"]) == (201, "*/20000")
