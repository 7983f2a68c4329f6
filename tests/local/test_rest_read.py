"""Reads through `/rest/v1`: the official client where it can say it, plain HTTP where it cannot."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio
from postgrest.exceptions import APIError
from supabase import AsyncClient

from tests.support.rest import Shop, open_shop


@pytest_asyncio.fixture
async def shop(database_url: str) -> AsyncGenerator[Shop]:
    async with open_shop(database_url) as opened:
        yield opened


@pytest_asyncio.fixture
async def client(shop: Shop) -> AsyncClient:
    return await shop.stack.client(shop.stack.service_key)


async def names(query: Any) -> list[str]:
    return [row["name"] for row in (await query.execute()).data]


async def test_columns_aliases_casts_and_json_paths(client: AsyncClient) -> None:
    answer = (
        await client.table("owners")
        .select("who:name, id::text, profile->city->>name, profile->langs->0")
        .eq("id", 1)
        .execute()
    )

    assert answer.data == [{"who": "Ada", "id": "1", "name": "Oslo", "langs": "en"}]


async def test_numbers_keep_their_digits(shop: Shop) -> None:
    answer = await shop.service.get("pets?select=weight&id=eq.1")

    assert answer.text == '[{"weight":12.50}]'


async def test_every_operator_filters(client: AsyncClient) -> None:
    pets = client.table("pets")

    def select() -> Any:
        return pets.select("name").order("id")

    assert await names(select().eq("name", 'Kit, the "cat"')) == ['Kit, the "cat"']
    assert await names(select().neq("kind", "cat")) == ["Rex"]
    assert await names(select().gt("id", 1).lt("id", 3)) == ["Tom"]
    assert await names(select().gte("id", 2).lte("id", 2)) == ["Tom"]
    assert await names(select().like("name", "R%")) == ["Rex"]
    assert await names(select().ilike("name", "*TOM*")) == ["Tom"]
    assert await names(select().ilike_any_of("name", "r*,t*")) == ["Rex", "Tom"]
    assert await names(select().like_all_of("name", "R*,*x")) == ["Rex"]
    assert await names(select().filter("name", "match", "^[RT]")) == ["Rex", "Tom"]
    assert await names(select().is_("weight", None)) == ['Kit, the "cat"']
    assert await names(select().not_.is_("weight", None)) == ["Rex", "Tom"]
    assert await names(select().in_("name", ["Tom", 'Kit, the "cat"'])) == ["Tom", 'Kit, the "cat"']
    assert await names(select().in_("id", [])) == []
    assert await names(select().not_.in_("id", [1, 2])) == ['Kit, the "cat"']
    assert await names(select().contains("tags", ["big"])) == ["Rex"]
    assert await names(select().contained_by("tags", ["big", "loud", "small"]).neq("tags", "{}")) == ["Rex", "Tom"]
    assert await names(select().overlaps("tags", ["loud", "small"])) == ["Rex", "Tom"]
    assert await names(select().range_lt("seen", (5, 9))) == ["Rex"]
    assert await names(select().range_adjacent("seen", (5, 6))) == []
    assert await names(select().filter("weight", "isdistinct", "4")) == ["Rex", 'Kit, the "cat"']
    assert await names(select().eq("mood", "wild")) == ["Rex", 'Kit, the "cat"']
    assert await names(select().fts("name", "kit & cat")) == ['Kit, the "cat"']
    assert await names(select().filter("name", "wfts(english)", "cats")) == ['Kit, the "cat"']
    assert await names(select().or_('id.eq.1,and(kind.eq.cat,name.eq."Kit, the \\"cat\\"")')) == [
        "Rex",
        'Kit, the "cat"',
    ]
    assert await names(select().not_.or_("id.eq.1,tags.cs.{small}")) == ['Kit, the "cat"']
    assert await names(client.table("owners").select("name").gt("profile->age", 30)) == ["Ada"]
    assert await names(client.table("owners").select("name").eq("profile->city->>name", "Rome")) == ["Bob"]


async def test_order_limit_and_range(client: AsyncClient) -> None:
    pets = client.table("pets").select("name")

    assert await names(pets.order("weight", desc=True, nullsfirst=False).order("id").limit(2)) == ["Rex", "Tom"]
    assert await names(client.table("pets").select("name").order("id").range(1, 1)) == ["Tom"]


async def test_an_exact_count_comes_with_the_page(shop: Shop, client: AsyncClient) -> None:
    answer = await client.table("pets").select("id", count="exact").order("id").limit(2).execute()
    head = await client.table("pets").select("*", count="exact", head=True).eq("kind", "cat").execute()
    raw = await shop.service.get("pets?limit=2", headers={"Prefer": "count=exact"})

    assert (answer.count, len(answer.data)) == (3, 2)
    assert (head.count, head.data) == (2, [])
    assert (raw.status_code, raw.headers["content-range"]) == (206, "0-1/3")
    assert raw.headers["preference-applied"] == "count=exact"


@pytest.mark.parametrize(
    ("path", "headers", "status", "content_range"),
    [
        ("pets", {}, 200, "0-2/*"),
        ("pets?id=gt.9", {}, 200, "*/*"),
        ("pets?id=gt.9", {"Prefer": "count=exact"}, 200, "*/0"),
        ("pets", {"Range": "1-1"}, 200, "1-1/*"),
        ("pets", {"Range": "1-", "Prefer": "count=exact"}, 206, "1-2/3"),
        ("pets?limit=0", {}, 200, "*/*"),
        ("pets?offset=3", {"Prefer": "count=exact"}, 206, "*/3"),
    ],
)
async def test_content_range_says_which_rows_of_how_many(
    shop: Shop, path: str, headers: dict[str, str], status: int, content_range: str
) -> None:
    answer = await shop.service.get(path, headers=headers)

    assert (answer.status_code, answer.headers["content-range"]) == (status, content_range)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("path", "headers"),
    [("pets?offset=4", {"Prefer": "count=exact"}), ("pets?limit=-1", {}), ("pets", {"Range": "5-2"})],
)
async def test_a_page_that_cannot_be_is_416(shop: Shop, path: str, headers: dict[str, str]) -> None:
    answer = await shop.service.get(path, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (416, "PGRST103")


async def test_a_single_object_needs_exactly_one_row(shop: Shop, client: AsyncClient) -> None:
    one = await client.table("pets").select("name").eq("id", 1).single().execute()
    none = await client.table("pets").select("name").eq("id", 9).maybe_single().execute()
    with pytest.raises(APIError) as several:
        await client.table("pets").select("name").single().execute()
    raw = await shop.service.get("pets?id=eq.1&select=id", headers={"Accept": "application/vnd.pgrst.object+json"})

    assert one.data == {"name": "Rex"}
    assert none is None
    assert (several.value.code, several.value.details) == ("PGRST116", "The result contains 3 rows")
    assert raw.headers["content-type"] == "application/vnd.pgrst.object+json; charset=utf-8"
    assert raw.content == b'{"id":1}'


async def test_nulls_can_be_stripped_and_rows_had_as_csv(client: AsyncClient) -> None:
    stripped = await client.table("pets").select("id,weight").eq("id", 3).strip_nulls().execute()
    csv = await client.table("pets").select("id,name").gt("id", 1).order("id").csv().execute()

    assert stripped.data == [{"id": 3}]
    assert csv.data == 'id,name\n2,Tom\n3,"Kit, the ""cat"""'


async def test_embeds_follow_foreign_keys(client: AsyncClient) -> None:
    pets = (
        await client.table("pets")
        .select("name, owner:owners(name), toys(title)")
        .eq("id", 1)
        .order("title", foreign_table="toys")
        .execute()
    )
    owners = (
        await client.table("owners")
        .select("name, pets(name)")
        .order("id")
        .order("name", foreign_table="pets")
        .execute()
    )
    friends = await client.table("pets").select("name, friend:friend_id(name), fans:pets(name)").eq("id", 2).execute()

    assert pets.data == [{"name": "Rex", "owner": {"name": "Ada"}, "toys": [{"title": "ball"}, {"title": "rope"}]}]
    assert owners.data == [
        {"name": "Ada", "pets": [{"name": "Rex"}, {"name": "Tom"}]},
        {"name": "Bob", "pets": [{"name": 'Kit, the "cat"'}]},
        {"name": "Cyd", "pets": []},
    ]
    assert friends.data == [{"name": "Tom", "friend": {"name": "Rex"}, "fans": [{"name": 'Kit, the "cat"'}]}]


async def test_embeds_can_filter_and_order_their_parents(client: AsyncClient) -> None:
    inner = client.table("owners").select("name, pets!inner(name)").eq("pets.kind", "dog")
    without = client.table("owners").select("name, pets()").is_("pets", None)
    related = client.table("pets").select("name, owners(name)").order("owners(name)", desc=True).order("id")
    spread = await client.table("pets").select("id, ...owners(owner:name)").eq("id", 1).execute()

    assert await names(inner) == ["Ada"]
    assert await names(without) == ["Cyd"]
    assert await names(related) == ['Kit, the "cat"', "Rex", "Tom"]
    assert spread.data == [{"id": 1, "owner": "Ada"}]


async def test_a_page_counts_parents_whatever_is_embedded(client: AsyncClient) -> None:
    answer = await client.table("owners").select("id, pets(id)", count="exact").order("id").limit(2).execute()

    assert [row["id"] for row in answer.data] == [1, 2]
    assert answer.count == 3


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("pets?select=nope", 400, "42703"),
        ("pets?nope=eq.1", 400, "42703"),
        ("pets?id=eq.x", 400, "22P02"),
        ("pets?id=foo.1", 400, "PGRST100"),
        ("pets?select=id::nope", 400, "42704"),
        ("pets?select=nopes(*)", 400, "PGRST200"),
        ("pets?select=id&owners.id=eq.1", 400, "PGRST108"),
        ("owners?select=pets(id)&order=pets(id)", 400, "PGRST118"),
        ("owners?select=pets(id)&pets=eq.1", 400, "42703"),
        ("pets?select=count()", 400, "PGRST123"),
        ("nope", 404, "PGRST205"),
        ("pets/1", 404, "PGRST125"),
        ("pets?name=eq.%00", 400, "22021"),
    ],
)
async def test_a_read_that_cannot_be_served_says_why(shop: Shop, path: str, status: int, code: str) -> None:
    answer = await shop.service.get(path)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json().keys() == {"code", "message", "details", "hint"}
    assert answer.headers["proxy-status"] == f"PostgREST; error={code}"


async def test_ambiguous_embeds_list_the_ways(shop: Shop) -> None:
    await shop.execute("alter table public.pets add vet_id bigint references public.owners (id)")

    ambiguous = await shop.service.get("pets?select=owners(name)")
    chosen = await shop.service.get("pets?select=owners!pets_owner_id_fkey(name)&id=eq.1")

    assert (ambiguous.status_code, ambiguous.json()["code"]) == (300, "PGRST201")
    assert "owners!pets_vet_id_fkey" in ambiguous.json()["hint"]
    assert chosen.json() == [{"owners": {"name": "Ada"}}]


async def test_a_column_may_have_any_name(shop: Shop) -> None:
    await shop.execute(
        'insert into public.notes (author, body, "odd ""name"" 100%") values (gen_random_uuid(), \'x\', 7)'
    )

    answer = await shop.service.get(
        "notes", params={"select": 'v:"odd \\"name\\" 100%"', '"odd \\"name\\" 100%"': "eq.7"}
    )

    assert answer.json() == [{"v": 7}]


async def test_a_read_has_at_most_a_thousand_rows(shop: Shop) -> None:
    await shop.execute("insert into public.toys select n, 'toy' from generate_series(10, 1500) n")

    answer = await shop.service.get("toys?limit=5000&select=id", headers={"Prefer": "count=exact"})

    assert len(answer.json()) == 1000
    assert (answer.status_code, answer.headers["content-range"]) == (206, "0-999/1493")


async def test_an_empty_select_has_empty_rows(shop: Shop) -> None:
    assert (await shop.service.get("toys?select=")).json() == [{}, {}]
