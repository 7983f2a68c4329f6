"""What stands around the rows: formats, ranges, counts, preferences, methods and the words of refusals."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.database import TestServer
from tests.support.rest import Shop
from tests.support.rest_cases import by_id, open_museum

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def museum(database_server: TestServer, template_database: str) -> AsyncGenerator[Shop]:
    async with open_museum(database_server, template_database) as opened:
        yield opened


JSON = "application/json; charset=utf-8"
SINGLE = "application/vnd.pgrst.object+json"
ARRAY = "application/vnd.pgrst.array+json"
# Path, Accept -> Content-Type, body.
FORMATS: dict[str, tuple[str, str, str, str]] = {
    "anything": ("works?select=id&id=eq.1", "*/*", JSON, '[{"id":1}]'),
    "nothing we have, then JSON": ("works?select=id&id=eq.1", "text/html, application/json;q=0.5", JSON, '[{"id":1}]'),
    "one object": ("works?select=id&id=eq.1", SINGLE, f"{SINGLE}; charset=utf-8", '{"id":1}'),
    "one object by its short name": (
        "works?select=id&id=eq.1",
        "application/vnd.pgrst.object",
        f"{SINGLE}; charset=utf-8",
        '{"id":1}',
    ),
    "one object without nulls": (
        "works?select=id,year&id=eq.3",
        f"{SINGLE};nulls=stripped",
        f"{SINGLE}; nulls=stripped; charset=utf-8",
        '{"id":3}',
    ),
    "rows without nulls": (
        "works?select=id,year&id=eq.3",
        f"{ARRAY};nulls=stripped",
        f"{ARRAY}; nulls=stripped; charset=utf-8",
        '[{"id":3}]',
    ),
    "CSV": (
        "works?select=id,title,year&id=eq.3",
        "text/csv",
        "text/csv; charset=utf-8",
        'id,title,year\n3,"Noon, ""late""",',
    ),
    "a function's plain value": ("rpc/greeting", "application/json", JSON, '"hello"'),
    "a function's null": ("rpc/null_number", "application/json", JSON, "null"),
    "a function's plain values": ("rpc/titles?limit=2", "application/json", JSON, '["Dawn", "Dusk"]'),
    "a function's one parameter out": ("rpc/sum_of?a=1&b=5", "application/json", JSON, '{"total":6}'),
    "a function's parameters out": ("rpc/pair", SINGLE, f"{SINGLE}; charset=utf-8", '{"x":1,"y":"one"}'),
    "a function's record without columns": ("rpc/some_record", "application/json", JSON, '{"one":1,"two":"x"}'),
    "a function's records without columns": (
        "rpc/some_records?limit=1",
        "application/json",
        JSON,
        '[{"id":1,"name":"Red"}]',
    ),
    "rows in a domain of them": (
        "rpc/hung?select=wall,rooms(name)&limit=1",
        "application/json",
        JSON,
        '[{"wall":"N","rooms":{"name":"Red"}}]',
    ),
    "text and bits longer than a parameter says": ("rpc/long_text?t=abc&b=101", "application/json", JSON, '"abc101"'),
    "a function's own format": ("rpc/page", "text/html", "text/html", "<b>hi</b>"),
    "a function's own format to anyone": ("rpc/page", "*/*", "text/html", "<b>hi</b>"),
    "a function's own format as JSON": ("rpc/page", "application/json", JSON, '"<b>hi</b>"'),
    "a function for any format": ("rpc/anything", "app/bingo", "application/octet-stream", "any"),
}


@pytest.mark.parametrize("case", by_id(FORMATS))
async def test_an_answer_has_the_format_that_is_accepted(museum: Shop, case: tuple[str, str, str, str]) -> None:
    path, accept, content_type, body = case

    answer = await museum.service.get(path, headers={"Accept": accept})

    assert (answer.status_code, answer.headers["content-type"], answer.text) == (200, content_type, body)


async def test_bytes_of_a_function_are_sent_as_they_are(museum: Shop) -> None:
    answer = await museum.service.get("rpc/picture", headers={"Accept": "text/html, image/png;q=0.8"})

    assert (answer.headers["content-type"], answer.content) == ("image/png", b"\x89PNG")


@pytest.mark.parametrize(
    ("path", "accept"),
    [
        ("works", "application/geo+json"),
        ("works", 'application/vnd.pgrst.plan+json; for="application/json"; options=analyze'),
        ("works", "application/openapi+json"),
        ("rpc/greeting", "text/plain"),
        ("rpc/greeting", "application/octet-stream"),
        ("rpc/page", "text/xml, application/xhtml+xml"),
    ],
)
async def test_a_format_that_there_is_not_is_refused(museum: Shop, path: str, accept: str) -> None:
    answer = await museum.service.get(path, headers={"Accept": accept})

    assert answer.status_code == 406
    assert answer.json() == {
        "code": "PGRST107",
        "message": f"None of these media types are available: {accept}",
        "details": None,
        "hint": None,
    }


# Path, headers -> status, Content-Range, Preference-Applied.
PAGES: dict[str, tuple[str, dict[str, str], int, str, str | None]] = {
    "all": ("works", {}, 200, "0-3/*", None),
    "a page": ("works?limit=2&offset=1", {}, 200, "1-2/*", None),
    "none of none": ("works?id=gt.9", {"Prefer": "count=exact"}, 200, "*/0", "count=exact"),
    "no rows wanted": ("works?limit=0", {"Prefer": "count=exact"}, 206, "*/4", "count=exact"),
    "a range": ("works", {"Range": "1-2"}, 200, "1-2/*", None),
    "an open range": ("works", {"Range": "3-", "Prefer": "count=exact"}, 206, "3-3/4", "count=exact"),
    "a range behind the end, not counted": ("works", {"Range": "9-10"}, 200, "*/*", None),
    "a range within parameters": ("works?limit=3", {"Range": "1-8"}, 200, "1-2/*", None),
    "a range across parameters": ("works?limit=2&offset=1", {"Range": "2-"}, 200, "2-2/*", None),
    "no rows wanted of a range": ("works?limit=0", {"Range": "1-2"}, 200, "*/*", None),
    "a page from before the beginning": ("works?offset=-2&limit=1", {}, 200, "0-0/*", None),
    "the planner's count": ("works?limit=2", {"Prefer": "count=planned"}, 206, "0-1/4", "count=planned"),
    "an estimate within a page": ("works?limit=2", {"Prefer": "count=estimated"}, 206, "0-1/4", "count=estimated"),
    "an estimate with bound values everywhere": (
        "works?select=data->a,maker(name)&maker.name=neq.x&data->>x=is.null&order=data->>a&limit=2",
        {"Prefer": "count=estimated"},
        206,
        "0-1/3",
        "count=estimated",
    ),
    "a function's rows": ("rpc/titles?limit=1", {"Prefer": "count=exact"}, 206, "0-0/4", "count=exact"),
    "a function's rows are not planned": (
        "rpc/titles?limit=1",
        {"Prefer": "count=planned"},
        200,
        "0-0/*",
        "count=planned",
    ),
    "nothing that only writes obey": (
        "works?limit=1",
        {"Prefer": "return=minimal, missing=default, resolution=merge-duplicates, handling=strict, max-affected=9"},
        200,
        "0-0/*",
        "handling=strict",
    ),
    "of a function's limit": (
        "rpc/titles?limit=1",
        {"Prefer": "return=minimal, handling=strict, max-affected=9"},
        200,
        "0-0/*",
        "handling=strict, max-affected=9",
    ),
    "one value counts as one": ("rpc/greeting", {"Prefer": "count=exact"}, 200, "0-0/1", "count=exact"),
    "all that was understood": (
        "works?limit=1",
        {"Prefer": "timezone=Asia/Tokyo, foo=bar, handling=lenient, tx=rollback, timezone=Nowhere/At_All"},
        200,
        "0-0/*",
        "handling=lenient, timezone=Asia/Tokyo",
    ),
}


@pytest.mark.parametrize("case", by_id(PAGES))
async def test_a_page_says_which_rows_it_has_of_how_many(
    museum: Shop, case: tuple[str, dict[str, str], int, str, str | None]
) -> None:
    path, headers, status, content_range, applied = case

    answer = await museum.service.get(path, headers=headers)

    assert (answer.status_code, answer.headers["content-range"]) == (status, content_range)
    assert answer.headers.get("preference-applied") == applied


@pytest.mark.parametrize("path", ["works?limit=2", "rpc/titles?limit=2"])
async def test_head_has_all_but_the_body_and_no_range(museum: Shop, path: str) -> None:
    headers = {"Prefer": "count=exact", "Range": "3-3"}

    head = await museum.service.head(path, headers=headers)
    whole = await museum.service.head(path.partition("?")[0], headers=headers)

    assert (head.status_code, head.headers["content-range"], head.content) == (206, "0-1/4", b"")
    assert (whole.status_code, whole.headers["content-range"]) == (200, "0-3/4")


async def test_an_estimate_beyond_a_page_is_the_planners(museum: Shop) -> None:
    await museum.execute(
        "create table public.grains as select generate_series(1, 3000) as id; analyze public.grains;"
        "grant select on public.grains to service_role"
    )

    answer = await museum.service.get("grains?limit=1", headers={"Prefer": "count=estimated"})
    few = await museum.service.get("grains?limit=1&id=lt.9", headers={"Prefer": "count=estimated"})

    assert answer.headers["content-range"] == "0-0/3000"
    assert few.headers["content-range"] == "0-0/8"


async def test_what_is_counted_whole_is_not_estimated(museum: Shop) -> None:
    """The planner takes a table that was never analyzed for ten pages of rows."""
    await museum.execute("create table public.crumbs (id integer); grant select on public.crumbs to service_role")

    answer = await museum.service.get("crumbs", headers={"Prefer": "count=estimated"})

    assert (answer.status_code, answer.headers["content-range"]) == (200, "*/0")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("works", "OPTIONS,GET,HEAD,POST,PUT,PATCH,DELETE"),
        ("work_list", "OPTIONS,GET,HEAD,POST,PUT,PATCH,DELETE"),
        ("crowded_rooms", "OPTIONS,GET,HEAD"),
        ("rpc/greeting", "OPTIONS,GET,HEAD,POST"),
        ("rpc/hang", "OPTIONS,POST"),
    ],
)
async def test_options_says_what_can_be_done(museum: Shop, path: str, allowed: str) -> None:
    answer = await museum.service.options(path)

    assert (answer.status_code, answer.headers["allow"]) == (200, allowed)


CANDIDATES = "public.over(a => integer, b => integer), public.over(a => integer, b => integer, c => integer)"
OR_WHOLE = "or with a single unnamed json/jsonb parameter"
NO_PARAMETERS = "without parameters"
NO_MATCH = "but no matches were found in the schema cache."
REFUSALS: dict[str, tuple[str, str, dict[str, Any], int, str, str, str | None, str | None]] = {
    "an unknown table": (
        "GET", "artist", {}, 404, "PGRST205", "Could not find the table 'public.artist' in the schema cache",
        None, "Perhaps you meant the table 'public.artists'",
    ),
    "an unknown function": (
        "GET", "rpc/greting", {}, 404, "PGRST202",
        f"Could not find the function public.greting {NO_PARAMETERS} in the schema cache",
        f"Searched for the function public.greting {NO_PARAMETERS}, {NO_MATCH}",
        "Perhaps you meant to call the function public.greeting",
    ),
    "unknown arguments": (
        "POST", "rpc/over", {"json": {"a": 1, "z": 2}}, 404, "PGRST202",
        "Could not find the function public.over(a, z) in the schema cache",
        f"Searched for the function public.over with parameters a, z {OR_WHOLE}, {NO_MATCH}",
        "Perhaps you meant to call the function public.over(a, b)",
    ),
    "more arguments than it has": (
        "GET", "rpc/sum_of?a=1&b=2&other=3", {}, 404, "PGRST202",
        "Could not find the function public.sum_of(a, b, other) in the schema cache",
        f"Searched for the function public.sum_of with parameters a, b, other, {NO_MATCH}",
        "Perhaps you meant to call the function public.sum_of(a, b)",
    ),
    "a table like no other": (
        "GET", "garlic", {}, 404, "PGRST205", "Could not find the table 'public.garlic' in the schema cache",
        None, None,
    ),
    "a partition": (
        "GET", "visits_2025", {}, 404, "PGRST205", "Could not find the table 'public.visits_2025' in the schema cache",
        None, None,
    ),
    "CSV for other arguments": (
        "POST", "rpc/sum_of", {"content": "x,y\n1,2", "headers": {"Content-Type": "text/csv"}}, 404, "PGRST202",
        "Could not find the function public.sum_of(x, y) in the schema cache",
        f"Searched for the function public.sum_of with parameters x, y, {NO_MATCH}",
        "Perhaps you meant to call the function public.sum_of(a, b)",
    ),
    "a body that no function takes": (
        "POST", "rpc/sum_of", {"content": "x", "headers": {"Content-Type": "image/png"}}, 400, "PGRST102",
        "Content-Type not acceptable: image/png", None, None,
    ),
    "a body for nobody": (
        "POST", "rpc/greeting", {"content": "x", "headers": {"Content-Type": "text/plain"}}, 404, "PGRST202",
        "Could not find the function public.greeting in the schema cache",
        f"Searched for the function public.greeting with a single unnamed text parameter, {NO_MATCH}", None,
    ),
    "several functions": (
        "POST", "rpc/over", {"json": {"a": 1, "b": 2}}, 300, "PGRST203",
        f"Could not choose the best candidate function between: {CANDIDATES}",
        None,
        "Try renaming the parameters or the function itself in the database so function overloading can be resolved",
    ),
    "a write in a read": (
        "GET", "rpc/hang?p_room=1", {}, 405, "25006", "cannot execute UPDATE in a read-only transaction", None, None,
    ),
    "a method that functions have not": (
        "PUT", "rpc/greeting", {}, 405, "PGRST101", "Cannot use the PUT method on RPC", None, None,
    ),
    "a method that nothing has": (
        "TRACE", "works", {}, 405, "PGRST117", "Unsupported HTTP method: TRACE", None, None,
    ),
    "a path in a path": (
        "GET", "works/1", {}, 404, "PGRST125", "Invalid path specified in request URL", None, None,
    ),
    "a schema that is not exposed": (
        "GET", "guards", {"headers": {"Accept-Profile": "hidden"}}, 406, "PGRST106", "Invalid schema: hidden",
        None, "Only the following schemas are exposed: public",
    ),
    "an unknown preference, strictly": (
        "GET", "works", {"headers": {"Prefer": "foo=bar, count=exact, handling=strict, return=all"}}, 400, "PGRST122",
        "Invalid preferences given with handling=strict", "Invalid preferences: foo=bar, return=all", None,
    ),
    "several rows for one object": (
        "GET", "works", {"headers": {"Accept": SINGLE}}, 406, "PGRST116",
        "Cannot coerce the result to a single JSON object", "The result contains 4 rows", None,
    ),
    "a range the wrong way round": (
        "GET", "works", {"headers": {"Range": "2-1"}}, 416, "PGRST103", "Requested range not satisfiable",
        "The lower boundary must be lower than or equal to the upper boundary in the Range header.", None,
    ),
    "a page behind the end": (
        "GET", "works?offset=5", {"headers": {"Prefer": "count=exact"}}, 416, "PGRST103",
        "Requested range not satisfiable", "An offset of 5 was requested, but there are only 4 rows.", None,
    ),
    "more rows of a function than allowed": (
        "POST", "rpc/hang", {"json": {"p_room": 1}, "headers": {"Prefer": "handling=strict, max-affected=1"}},
        400, "PGRST124", "Query result exceeds max-affected preference constraint", "The query affects 2 rows", None,
    ),
    "a limit on a function of no rows": (
        "POST", "rpc/greeting", {"json": {}, "headers": {"Prefer": "handling=strict, max-affected=1"}},
        400, "PGRST128",
        "Function must return SETOF or TABLE when max-affected preference is used with handling=strict", None, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", by_id(REFUSALS))
async def test_a_refusal_has_postgrests_words(
    museum: Shop, case: tuple[str, str, dict[str, Any], int, str, str, str | None, str | None]
) -> None:
    method, path, request, status, code, message, details, hint = case

    answer = await museum.service.request(method, path, **request)

    assert answer.status_code == status
    assert answer.json() == {"code": code, "message": message, "details": details, "hint": hint}
    assert answer.headers["proxy-status"] == f"PostgREST; error={code}"


async def test_a_page_behind_the_end_says_where_that_is(museum: Shop) -> None:
    answer = await museum.service.get("works?offset=5", headers={"Prefer": "count=exact"})

    assert (answer.status_code, answer.headers["content-range"]) == (416, "*/4")


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("works", "/works"),
        ("works?year=gt.1&id=eq.1&id=lt.9&select=*", "/works?id=eq.1,lt.9&select=%2A&year=gt.1"),
        ('Odd, (name)?select=":col:"', "/Odd, (name)?select=%22%3Acol%3A%22"),
        ("rpc/titles", None),
    ],
)
async def test_a_read_says_where_else_it_stands(museum: Shop, path: str, location: str | None) -> None:
    answer = await museum.service.get(path)

    assert (answer.status_code, answer.headers.get("content-location")) == (200, location)


@pytest.mark.parametrize(
    ("body", "content_type", "value"),
    [
        pytest.param(b"abc", "text/plain", '"ABC"', id="text"),
        pytest.param(b"\x00\xff1", "application/octet-stream", "3", id="bytes"),
    ],
)
async def test_a_function_takes_a_body_whole(museum: Shop, body: bytes, content_type: str, value: str) -> None:
    name = "shout" if content_type == "text/plain" else "size_of"

    answer = await museum.service.post(f"rpc/{name}", content=body, headers={"Content-Type": content_type})

    assert (answer.status_code, answer.text) == (200, value)


async def test_a_functions_isolation_is_its_transactions(museum: Shop) -> None:
    answer = await museum.service.post("rpc/isolation", json={})

    assert answer.json() == "serializable"
