"""What a project sets of PostgREST in its database (`alter role authenticator set pgrst...`), told by a notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import httpx
import pytest_asyncio

from tests.support.rest import Shop, configure_rest, open_shop


@pytest_asyncio.fixture
async def shop(database_url: str) -> AsyncGenerator[Shop]:
    async with open_shop(database_url) as opened:
        yield opened


async def answer_of(ask: Callable[[], Awaitable[httpx.Response]], status: int) -> httpx.Response:
    """Ask until the notice has arrived."""
    async with asyncio.timeout(10):
        while True:
            answer = await ask()
            if answer.status_code == status:
                return answer


async def test_more_schemas_can_be_exposed(shop: Shop) -> None:
    await shop.execute(
        "create schema annex; create table annex.shelves (id integer primary key, room text default current_schema());"
        "create function annex.where_am_i() returns text language sql stable as 'select current_schema()';"
        "grant usage on schema annex to service_role; grant all on annex.shelves to service_role;"
        "grant execute on function annex.where_am_i to service_role"
    )
    configure_rest(shop.stack.database_url, db_schemas="public, annex")
    annex = {"Accept-Profile": "annex", "Content-Profile": "annex"}

    listed = await answer_of(lambda: shop.service.get("shelves", headers=annex), 200)
    created = await shop.service.post("shelves", json={"id": 1}, headers={**annex, "Prefer": "return=representation"})
    client = await shop.stack.client(shop.stack.service_key)
    by_client = await client.schema("annex").table("shelves").select("id").execute()
    called = await client.schema("annex").rpc("where_am_i", {}).execute()
    elsewhere = await shop.service.get("shelves")
    unknown = await shop.service.get("shelves", headers={"Accept-Profile": "auth"})

    assert listed.json() == []
    assert created.json() == [{"id": 1, "room": "annex"}]
    assert by_client.data == [{"id": 1}]
    assert called.data == "annex"
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (404, "PGRST205")
    assert unknown.json()["hint"] == "Only the following schemas are exposed: public, annex"


async def test_a_hook_sees_every_request_first(shop: Shop) -> None:
    await shop.execute(
        "create function public.gate() returns void language plpgsql as $$ begin "
        "if current_setting('request.headers')::json ->> 'x-forbidden' is not null then "
        "raise sqlstate 'PT429' using message = 'Slow down'; end if; end $$;"
        "grant execute on function public.gate to service_role"
    )
    configure_rest(shop.stack.database_url, db_pre_request="public.gate")

    refused = await answer_of(lambda: shop.service.get("toys", headers={"X-Forbidden": "1"}), 429)
    served = await shop.service.get("toys?select=id")

    assert (refused.json()["code"], refused.json()["message"]) == ("PT429", "Slow down")
    assert served.json() == [{"id": 1}, {"id": 2}]


async def test_the_most_rows_hold_for_every_relation_of_a_read(shop: Shop) -> None:
    configure_rest(shop.stack.database_url, db_max_rows="1")

    await answer_of(lambda: shop.service.get("toys", headers={"Prefer": "count=exact"}), 206)
    embedded = await shop.service.get("owners?select=id,pets(id)&order=id&pets.order=id")
    written = await shop.service.patch(
        "owners?id=gt.0&select=id", json={"profile": {}}, headers={"Prefer": "return=representation"}
    )

    assert embedded.json() == [{"id": 1, "pets": [{"id": 1}]}]
    assert len(written.json()) == 3
