"""Whatever is sent to `/rest/v1`, the answer is rows or a refusal, and nothing reaches SQL as SQL."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from urllib.parse import quote, quote_from_bytes, urlencode

import psycopg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.rest.asked import Asked
from local.rest.catalog import Catalog
from local.rest.catalog_reading import load_catalog
from local.rest.parameters import parse_parameters
from local.rest.preferences import Preferences
from local.rest.relation_plans import plan_relation
from tests.support.database import TestServer
from tests.support.rest import Shop
from tests.support.rest_cases import open_museum

pytestmark = pytest.mark.asyncio(loop_scope="module")
THOROUGHLY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])

MARK = "zq"  # in all that a client chose, and in nothing that is ours
_QUOTED = re.compile(rb'"(?:[^"]|"")*"')
_NASTY = st.sampled_from(
    [*"'\"\\;()%$.,:{}*-> \té", "--", "/*", "$1", "''", "); drop table public.rooms; --", "::text"]
)


def quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


texts = st.lists(_NASTY, max_size=6).map(lambda parts: MARK + "".join(parts))
names = texts.map(quoted)
KNOWN = st.sampled_from(["id", "title", "year", "data", "tags", "shown"])
columns = st.integers(0, 19).flatmap(lambda drawn: KNOWN if drawn else names)
steps = names | st.just("0")
paths = st.lists(st.sampled_from(["->", "->>"]).flatmap(lambda arrow: steps.map(arrow.__add__)), max_size=2)
fields = st.tuples(columns, paths.map("".join)).map("".join)
truths = st.sampled_from(["is.null", "is.not_null", "is.TRUE"])
lists = st.lists(names, max_size=3).map(lambda elements: f"in.({','.join(elements)})")
languages = st.sampled_from(["", "(english)", "(zq)"])
COMPARISONS = ["eq", "neq", "gt", "lte", "like", "ilike", "match", "isdistinct", "cs", "cd", "ov", "sl", "nxr", "adj"]
compared = st.sampled_from([*COMPARISONS, "eq(any)", "like(all)", "imatch(any)"])
searched = st.tuples(st.sampled_from(["fts", "plfts", "phfts", "wfts"]), languages).map("".join)
operators = compared | searched
negations = st.sampled_from(["", "not."])


def operations(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    comparison = st.tuples(operators, values).map(".".join)
    return st.tuples(negations, truths | lists | comparison).map("".join)


conditions = st.tuples(fields, operations(names)).map(".".join)


# Not a lambda: to show one that names a module, Hypothesis looks through all modules, while threads import some more.
def joined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    conjunctions, parts = st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3).map(",".join)
    return st.tuples(negations, conjunctions, parts).map(lambda tree: f"{tree[0]}{tree[1]}({tree[2]})")


trees = st.recursive(conditions, joined, max_leaves=6)
casts = st.sampled_from(["", "", "::text", "::text", "::zq"])
aliases = st.just("") | names.map(lambda name: f"{name}:")
items = st.tuples(aliases, fields, casts).map("".join) | st.just("*")
targets = st.sampled_from(["painter", "restorer", "labels", "maker", "rooms!hangings", "...labels", "oeuvre!inner"])
embeds = st.tuples(targets, st.lists(items, max_size=2).map(",".join)).map(lambda parts: f"{parts[0]}({parts[1]})")
selects = st.lists(items, min_size=1, max_size=3).map(",".join)
orders = st.tuples(fields, st.sampled_from(["", ".asc", ".desc.nullslast", ".nullsfirst"])).map("".join)
requests = st.tuples(
    selects,
    st.lists(
        embeds.filter(lambda embed: not embed.startswith("oeuvre")),
        max_size=2,
        unique_by=lambda embed: embed.removeprefix("...")[:4],
    ),
    st.lists(st.tuples(fields, operations(texts)), max_size=3),
    st.lists(trees, max_size=2),
    st.lists(orders, max_size=2),
).map(
    lambda drawn: [
        ("select", ",".join([drawn[0], *drawn[1]])),
        *drawn[2],
        *(("or", f"({tree})") for tree in drawn[3]),
        *([("order", ",".join(drawn[4]))] if drawn[4] else []),
    ]
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def museum(database_server: TestServer, template_database: str) -> AsyncGenerator[Shop]:
    async with open_museum(database_server, template_database) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def catalog(museum: Shop) -> Catalog:
    async with await psycopg.AsyncConnection.connect(museum.stack.database_url) as connection:
        return await load_catalog(connection)


@THOROUGHLY
@given(pairs=requests)
async def test_what_a_client_writes_is_bound_or_quoted(catalog: Catalog, pairs: list[tuple[str, str]]) -> None:
    asked = Asked(
        method="GET",
        schema="public",
        name="works",
        is_call=False,
        query=parse_parameters(pairs, is_call=False),
        query_string="",
        preferences=Preferences.parse(["count=estimated"]),
        accept=None,
        content_type="application/json",
        body=b"",
        profile=None,
    )

    plan = plan_relation(catalog, asked)

    assert plan.explained is not None
    for statement in (plan.statement, plan.explained):
        assert MARK.encode() not in _QUOTED.sub(b"", statement.text)


@THOROUGHLY
@given(pairs=requests)
async def test_a_request_of_the_grammar_is_answered(museum: Shop, pairs: list[tuple[str, str]]) -> None:
    read = await museum.service.get(f"works?{urlencode(pairs)}", headers={"Prefer": "count=estimated"})
    called = await museum.service.get(f"rpc/all_works?{urlencode(pairs)}")
    unwritten = await museum.anon.patch(f"works?{urlencode(pairs)}", json={"title": "x"})

    assert max(read.status_code, called.status_code, unwritten.status_code) < 500, (pairs, read.text, called.text)


GRAMMAR = ["->", "->>", "::", "...", "!inner", "eq.", "in.(", "not.", "is.null", "or(", "and(", "like(any).{", ".asc"]
WORDS = ["id", "title", "painter", "oeuvre", "data", "null", "1", "-1", "--", "/*", "$1", "$$", "pg_sleep(9)"]
TOKENS = st.sampled_from([*"()*,.:;!'\"\\{}[]%&-+ \té\x01", *GRAMMAR, *WORDS, "' or 1=1; drop table public.rooms; --"])
strings = st.lists(TOKENS, max_size=9).map("".join)
keys = strings | st.sampled_from(
    ["select", "order", "or", "not.and", "limit", "offset", "columns", "on_conflict", "id"]
)
relations = st.sampled_from(["works", "short_list", "rpc/all_works", "rpc/sum_of", "rpc/nope"])


@THOROUGHLY
@given(relation=relations, pairs=st.lists(st.tuples(keys, strings), max_size=3))
async def test_any_query_string_is_answered(museum: Shop, relation: str, pairs: list[tuple[str, str]]) -> None:
    path = f"{relation}?{'&'.join(f'{quote(key)}={quote(value)}' for key, value in pairs)}"

    read, removed = await museum.service.get(path), await museum.anon.delete(path)

    assert max(read.status_code, removed.status_code) < 500, (path, read.text, removed.text)


@THOROUGHLY
@given(
    relation=relations,
    query=st.binary(max_size=60),
    body=st.binary(max_size=40) | strings.map(str.encode),
    content_type=st.sampled_from(["application/json", "text/csv", "text/plain", "application/x-www-form-urlencoded"]),
    prefer=st.sampled_from(["", "handling=strict", "return=representation", "resolution=merge-duplicates"]),
    accept=st.sampled_from(["*/*", "text/csv", "application/vnd.pgrst.object+json", ";,;"]),
)
async def test_any_bytes_are_answered(
    museum: Shop, relation: str, query: bytes, body: bytes, content_type: str, prefer: str, accept: str
) -> None:
    path = f"{relation}?{quote_from_bytes(query, safe='=&(),.*:')}"
    headers = {"Content-Type": content_type, "Prefer": prefer, "Accept": accept}

    answers = [
        await museum.service.get(path, headers=headers),
        await museum.service.post(path, headers=headers, content=body),
        await museum.anon.patch(path, headers=headers, content=body),
    ]

    assert all(answer.status_code < 500 for answer in answers), (path, body, [answer.text for answer in answers])


async def test_values_and_names_never_become_sql(museum: Shop) -> None:
    injection = """x'); drop table public.rooms; --"""
    name = '"' + injection.replace("'", "''") + '"'

    answers = [
        await museum.service.get("rooms", params=parameters)
        for parameters in (
            {"name": f"eq.{injection}"},
            {"name": f"in.({name})"},
            {name: "eq.1"},
            {"select": name},
            {"select": f"id::{name}"},
            {"select": f"{name}:id"},
            {"order": name},
            {"name": f"fts({injection}).x"},
        )
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 400, 400, 400, 200, 400, 400]
    assert len((await museum.service.get("rooms")).json()) == 3
