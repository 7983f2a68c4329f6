"""Aggregates in `select`, which a project may turn on (`pgrst.db_aggregates_enabled`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.database import TestServer
from tests.support.museum import MUSEUM
from tests.support.rest import Shop, configure_rest, open_shop
from tests.support.rest_cases import by_id

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def museum(database_server: TestServer, template_database: str) -> AsyncGenerator[Shop]:
    url = database_server.clone(template_database)
    try:
        configure_rest(url, db_aggregates_enabled="true")
        async with open_shop(url, MUSEUM) as opened:
            yield opened
    finally:
        database_server.drop(url)


ADA, BELA = {"name": "Ada"}, {"name": "Bela"}
# Path -> rows.
AGGREGATES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "a count": ("works?select=count()", [{"count": 4}]),
    "a count under another name and type": ("works?select=n:count()::text", [{"n": "4"}]),
    "of what is filtered": ("works?select=count()&id=gt.2", [{"count": 2}]),
    "of each kind": (
        "works?select=year.max(),price.sum(),price.avg()::integer,year.min(),year.count()",
        [{"max": 1950, "sum": 25.75, "avg": 9, "min": 1905, "count": 3}],
    ),
    "by a column": (
        "works?select=maker:artist_id,n:count()&order=artist_id.nullsfirst",
        [{"maker": None, "n": 1}, {"maker": 1, "n": 2}, {"maker": 2, "n": 1}],
    ),
    "by every column": (
        "hangings?select=*,count()&work_id=eq.1", [{"work_id": 1, "room_id": 1, "wall": "N", "count": 1}],
    ),
    "of and by a path": (
        "artists?select=notes->born->>year::integer.sum(),langs:notes->langs->>0&order=notes->langs->>0",
        [{"sum": 1880, "langs": "en"}, {"sum": 1901, "langs": None}],
    ),
    "a page of groups": (
        "works?select=artist_id,count()&order=artist_id&limit=1&offset=1", [{"artist_id": 2, "count": 1}],
    ),
    "by a row that is embedded": (
        "works?select=artist_id,count(),painter(name)&artist_id=not.is.null&order=artist_id",
        [{"artist_id": 1, "count": 2, "painter": ADA}, {"artist_id": 2, "count": 1, "painter": BELA}],
    ),
    "by rows that are embedded": (
        "works?select=count(),hangings(wall)&id=in.(1,3)", [{"count": 2, "hangings": [{"wall": "N"}]}],
    ),
    "in an embed": (
        "artists?select=name,works!painter(count(),year.max())&order=id",
        [
            {"name": "Ada", "works": [{"count": 2, "max": 1910}]},
            {"name": "Bela", "works": [{"count": 1, "max": None}]},
            {"name": "Cem", "works": [{"count": 0, "max": None}]},
        ],
    ),
    "of what is spread": (
        "hangings?select=...works(year.sum())", [{"sum": 3815}],
    ),
    "by what is spread": (
        "works?select=n:count(),...painter(name)&artist_id=not.is.null&order=painter(name).desc",
        [{"n": 1, "name": "Bela"}, {"n": 2, "name": "Ada"}],
    ),
    "of what is spread into what is spread": (
        "hangings?select=room_id,...works(...painter(artists:id.count(),any:count()),total:price.sum())&order=room_id",
        [{"room_id": 1, "artists": 2, "any": 2, "total": 10.5}, {"room_id": 2, "artists": 1, "any": 1, "total": 7}],
    ),
    "of a function's rows": ("rpc/all_works?select=id.max()", [{"max": 4}]),
    "of rows that are spread": (
        "rooms?select=name,...hangings(wall,n:count())&order=name",
        [
            {"name": "Blue", "wall": ["N"], "n": 1},
            {"name": "Empty", "wall": [], "n": 0},
            {"name": "Red", "wall": ["N", "S"], "n": 2},
        ],
    ),
    "of rows that are spread into what is spread": (
        "labels?select=...works(id,painter(name),...hangings(wall,count()))&order=works(id)",
        [
            {"id": 1, "painter": ADA, "wall": ["N"], "count": 1},
            {"id": 3, "painter": BELA, "wall": ["N"], "count": 1},
        ],
    ),
    "with rows spread beside": (
        "works?select=count(),...hangings(wall)&id=in.(1,3)", [{"count": 2, "wall": ["N"]}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", by_id(AGGREGATES))
async def test_aggregates(museum: Shop, case: tuple[str, list[dict[str, Any]]]) -> None:
    path, rows = case

    answer = await museum.service.get(path)

    assert (answer.status_code, answer.json()) == (200, rows)


async def test_aggregates_of_rows_that_are_written(museum: Shop) -> None:
    answer = await museum.service.patch(
        "rooms?select=count(),id.max()&id=gt.1", json={"name": "New"}, headers={"Prefer": "return=representation"}
    )

    assert answer.json() == [{"count": 2, "max": 3}]


# Query -> status, code, details.
REFUSED: dict[str, tuple[str, int, str, str | None]] = {
    "of another type": ("rooms?select=name.sum()", 404, "42883", None),
}  # fmt: skip


@pytest.mark.parametrize("case", by_id(REFUSED))
async def test_what_cannot_be_aggregated(museum: Shop, case: tuple[str, int, str, str | None]) -> None:
    path, status, code, details = case

    answer = await museum.service.get(path)

    assert (answer.status_code, answer.json()["code"], answer.json()["details"]) == (status, code, details)
