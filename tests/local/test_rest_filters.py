"""Every operator, path, quoting and tree that a filter may have, and how it is refused."""

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


# Which works are left, by id.
FILTERS: dict[str, tuple[str, list[int]]] = {
    "fts": ("words=fts.cat", [1, 3]),
    "fts in a language": ("words=fts(english).cats %26 sat", [1]),
    "fts negated": ("words=not.fts(english).cats", [2]),
    "plfts": ("words=plfts(english).the fat cats", [1]),
    "phfts": ("words=phfts(english).fat cat", [1]),
    "wfts": ("words=wfts(english).cats -fat", [3]),
    "fts of text": ("title=fts.dawn", [1]),
    "fts of what is words already": ("words=fts.cat&select=id", [1, 3]),
    "fts of JSON": ("data->>x=fts.1", [3]),
    "ov of ranges": ("shown=ov.[3,6)", [1, 2]),
    "sl": ("shown=sl.[6,8)", [1]),
    "sr": ("shown=sr.[1,5)", [2, 3]),
    "nxr": ("shown=nxr.[1,9)", [1, 2]),
    "nxl": ("shown=nxl.[5,9)", [2, 3]),
    "adj": ("shown=adj.[9,20)", [2, 3]),
    "cs of a range": ("shown=cs.[6,7)", [2]),
    "cd of a range": ("shown=cd.[1,10)", [1, 2]),
    "cs of an array": ("tags=cs.{oil}", [1, 2]),
    "cs of an array with a comma": ('tags=cs.{"a,b"}', [3]),
    "cd of an array": ("tags=cd.{oil,big}", [1, 2, 4]),
    "ov of arrays": ('tags=ov.{big,"a,b"}', [1, 3]),
    "an empty array": ("tags=eq.{}", [4]),
    "like with stars": ("title=like.D*", [1, 2]),
    "like with a wildcard of SQL": ("title=like.n%25_50%25", [4]),
    "like with escapes": (r"title=like.night\_50\%25", [4]),
    "ilike": ("title=ilike.d*", [1, 2]),
    "like any": ("title=like(any).{D*n,N*}", [1, 3]),
    "ilike all": ("title=ilike(all).{d*,*N}", [1]),
    "match": ("title=match.^[DN]", [1, 2, 3]),
    "imatch any": ("title=imatch(any).{^n,k$}", [2, 3, 4]),
    "eq any": ("id=eq(any).{1,3}", [1, 3]),
    "eq any negated": ("id=not.eq(any).{1,3}", [2, 4]),
    "gt any": ("id=gt(any).{1,3}", [2, 3, 4]),
    "lte all": ("id=lte(all).{2,3}", [1, 2]),
    "isdistinct": ("year=isdistinct.1905", [2, 3, 4]),
    "isdistinct negated": ("year=not.isdistinct.1905", [1]),
    "is null": ("year=is.null", [3]),
    "is not null": ("year=not.is.NULL", [1, 2, 4]),
    "is not_null": ("year=is.not_null", [1, 2, 4]),
    "in with quotes": ('title=in.("Noon, \\"late\\"",Dusk)', [2, 3]),
    "in negated": ("id=not.in.(1,2)", [3, 4]),
    "in nothing": ("id=in.()", []),
    "a value with everything": ('title=eq.Noon, "late"', [3]),
    "a value that is empty": ("title=eq.", []),
    "several filters on one column": ("id=gt.1&id=lt.4", [2, 3]),
    "a JSON path": ("data->a->b->>0=eq.1", [1]),
    "a JSON path from the end": ("data->a->b->>-1=eq.2", [1]),
    "a JSON null is no null": ("data->a=is.null", [3, 4]),
    "a JSON null as text is null": ("data->>a=is.null", [2, 3, 4]),
    "an element of an array": ("tags->>0=eq.oil", [1, 2]),
    "or": ("or=(id.eq.1,title.eq.Dusk)", [1, 2]),
    "or negated": ("not.or=(id.eq.1,id.eq.2)", [3, 4]),
    "and negated": ("not.and=(id.gt.1,id.lt.4)", [1, 4]),
    "trees side by side": ("or=(id.eq.1,id.eq.2)&or=(id.eq.2,id.eq.3)", [2]),
    "a tree in a tree": ("or=(id.eq.1,and(id.gt.2,not.or(title.like.n*,year.is.null)))", [1]),
    "a tree with arrays": ('or=(tags.cs.{"a,b"},tags.ov.{big})', [1, 3]),
    "a tree with lists": ('or=(title.in.("Noon, \\"late\\"",x),title.eq."Dawn")', [1, 3]),
    "a tree with paths": ("or=(data->>x.eq.1,data->a->b->>0.eq.1)", [1, 3]),
    "a tree with quantifiers": ("or=(id.eq(any).{1,2},title.like(all).{n*,*%25})", [1, 2, 4]),
    "a tree with blanks": ("or=( id.eq.1 , id.eq.2 )", [1, 2]),
    "a tree with a language": ("or=(words.fts(english).rats,id.eq.4)", [2, 4]),
}


@pytest.mark.parametrize("case", by_id(FILTERS))
async def test_a_filter_leaves_the_rows_that_it_means(museum: Shop, case: tuple[str, list[int]]) -> None:
    query, left = case

    answer = await museum.service.get(f"works?select=id&order=id&{query}")

    assert (answer.status_code, [row["id"] for row in answer.json()]) == (200, left)


SELECTS: dict[str, tuple[str, Any]] = {
    "names that need quotes": (
        'Odd, (name)?select=":col:","a.b",with space,dash-ed&":col:"=eq.1',
        [{":col:": 1, "a.b": "dot", "with space": "space", "dash-ed": "dash"}],
    ),
    "names that need quotes in a tree and an order": (
        'Odd, (name)?or=("a.b".eq.dot,":col:".eq.9)&select=x:"a.b"&order="a.b".desc,":col:".asc.nullsfirst',
        [{"x": "dot"}],
    ),
    "JSON paths are named by their last key": (
        "artists?select=notes->born->year,notes->langs->1,l:notes->langs->>0,notes->>born&id=eq.1",
        [{"year": 1880, "langs": "fr", "l": "en", "born": '{"year": 1880}'}],
    ),
    "casts": (
        "works?select=price::text,y:year::int8,n:data->a->b->0::text&id=eq.1",
        [{"price": "10.50", "y": 1905, "n": "1"}],
    ),
    "an order by a JSON path": (
        "artists?select=id&order=notes->born->>year.desc.nullslast",
        [{"id": 3}, {"id": 1}, {"id": 2}],
    ),
    "nothing": ("rooms?select=&id=eq.1", [{}]),
    "the first of several selects": ("rooms?select=id&select=name&id=eq.1", [{"id": 1}]),
    "parameters without a value say nothing": ("rooms?select&id&foo&id=eq.1", [{"id": 1, "name": "Red"}]),
    "blanks and line breaks between items": (
        "rooms?select= * ,%0A guards (%0A name )&id=eq.1&order=id.asc , name",
        [{"id": 1, "name": "Red", "guards": [{"name": "Gus"}]}],
    ),
    "a domain by its own JSON": ("paints?order=id", [{"id": 1, "color": "#0000ff"}, {"id": 2, "color": "#00ff00"}]),
    "a domain by its own text": ("paints?select=id&color=eq.%2300ff00", [{"id": 2}]),
    "a domain in a list": (
        "paints?select=c:color&color=in.(%2300ff00,%230000ff)&order=id.desc",
        [{"c": "#00ff00"}, {"c": "#0000ff"}],
    ),
}


@pytest.mark.parametrize("case", by_id(SELECTS))
async def test_a_select_has_the_columns_that_it_names(museum: Shop, case: tuple[str, Any]) -> None:
    path, rows = case

    answer = await museum.service.get(path)

    assert (answer.status_code, answer.json()) == (200, rows)


REFUSALS: dict[str, tuple[str, int, str]] = {
    "no operator": ("id=1", 400, "PGRST100"),
    "an unknown operator": ("id=equals.1", 400, "PGRST100"),
    "a quantifier where there is none": ("id=neq(any).{1}", 400, "PGRST100"),
    "an unknown truth": ("year=is.5", 400, "PGRST100"),
    "more than a truth": ("year=is.nullx", 400, "PGRST100"),
    "a list that does not end": ("id=in.(1,2", 400, "PGRST100"),
    "a list without brackets": ("id=in.1,2", 400, "PGRST100"),
    "an empty tree": ("or=()", 400, "PGRST100"),
    "a tree that does not end": ("or=(id.eq.1", 400, "PGRST100"),
    "a tree with a hole": ("or=(id.eq.1,)", 400, "PGRST100"),
    "an unknown junction": ("or=(xor(id.eq.1,id.eq.2))", 400, "PGRST100"),
    "an unknown direction": ("order=id.dsc", 400, "PGRST100"),
    "an unknown place for nulls": ("order=id.desc.nullslat", 400, "PGRST100"),
    "a cast to nothing": ("select=price::", 400, "PGRST100"),
    "a path to nothing": ("select=data->", 400, "PGRST100"),
    "an embed that does not end": ("select=labels(text", 400, "PGRST100"),
    "a sum": ("select=id.sum()", 400, "PGRST123"),
    "a count in an embed": ("select=painter(count())", 400, "PGRST123"),
    "an unknown column": ("nope=eq.1", 400, "42703"),
    "an unknown language": ("title=fts(nope).dawn", 400, "42704"),
    "another type's value": ("shown=cs.6", 400, "22P02"),
    "an operator that the type has not": ("data=eq.1", 404, "42883"),
}


@pytest.mark.parametrize("case", by_id(REFUSALS))
async def test_what_cannot_be_asked_is_refused(museum: Shop, case: tuple[str, int, str]) -> None:
    query, status, code = case

    answer = await museum.service.get(f"works?{query}")

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["proxy-status"] == f"PostgREST; error={code}"
