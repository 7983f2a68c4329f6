"""Execution plans of requests, which a project may turn on (`pgrst.db_plan_enabled`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from tests.support.rest import Shop, configure_rest, open_shop

PLAN = "application/vnd.pgrst.plan"


@pytest_asyncio.fixture
async def shop(database_url: str) -> AsyncGenerator[Shop]:
    configure_rest(database_url, db_plan_enabled="true")
    async with open_shop(database_url) as opened:
        yield opened


async def test_a_plan_in_place_of_rows(shop: Shop) -> None:
    as_json = await shop.service.get(
        "pets?id=eq.1",
        headers={"Accept": f'{PLAN}+json; for="application/vnd.pgrst.object+json"; options=analyze|verbose|foo'},
    )
    as_text = await shop.service.get("pets?id=eq.1", headers={"Accept": PLAN})

    assert as_json.headers["content-type"] == (
        f'{PLAN}+json; for="application/vnd.pgrst.object+json"; options=analyze|verbose; charset=utf-8'
    )
    assert as_json.json()[0]["Plan"]["Actual Rows"] == 1
    assert as_text.headers["content-type"] == f'{PLAN}+text; for="application/json"; charset=utf-8'
    assert (as_text.status_code, as_text.text.split()[0]) == (200, "Aggregate")


async def test_a_plan_tells_the_tables_by_their_names(shop: Shop) -> None:
    plan = await shop.service.get(
        "owners?select=name,pets(name)&pets.kind=eq.cat", headers={"Accept": f"{PLAN}; options=verbose"}
    )

    assert "pets_1.kind = 'cat'::text" in plan.text, plan.text


async def test_a_table_that_is_named_as_a_relation_in_a_plan(shop: Shop) -> None:
    await shop.execute(
        "create table public.owners_1 (id bigint primary key, owner_id bigint references public.owners (id));"
        "grant select on public.owners_1 to service_role; insert into public.owners_1 values (1, 2), (2, 1)"
    )

    rows = await shop.service.get("owners_1?select=id,owners(name)&order=id")

    assert rows.json() == [{"id": 1, "owners": {"name": "Bob"}}, {"id": 2, "owners": {"name": "Ada"}}]


@pytest.mark.parametrize(("options", "names"), [("", ["ball", "rope"]), ("; options=analyze", ["all", "all"])])
async def test_a_write_is_done_only_where_it_is_analyzed(shop: Shop, options: str, names: list[str]) -> None:
    answer = await shop.service.patch(
        "toys?id=gt.0", json={"title": "all"}, headers={"Accept": f"{PLAN}+json{options}", "Prefer": "return=minimal"}
    )

    assert (answer.status_code, "Plan" in answer.json()[0]) == (200, True)
    assert [toy["title"] for toy in (await shop.service.get("toys?order=id")).json()] == names


async def test_the_plan_of_a_call(shop: Shop) -> None:
    client = await shop.stack.client(shop.stack.service_key)

    by_client = await client.table("pets").select("name").explain(analyze=True, format="text").execute()
    call = await shop.service.get("rpc/pets_of?p_owner=1&select=name", headers={"Accept": f"{PLAN}+json"})
    unknown = await shop.service.get("rpc/no_such", headers={"Accept": f"{PLAN}+json"})

    assert by_client.startswith("Aggregate")
    assert "Plan" in call.json()[0]
    assert unknown.json()["code"] == "PGRST202"
